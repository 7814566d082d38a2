"""ZOO-Prune: tokens the projector is sensitive to, and that differ (https://arxiv.org/abs/2509.24837)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ..core.scores import minmax
from ..core.token_map import TokenMap
from .base import Cues, Method, Selection
from .ops.greedy import Greedy, matrix, products
from .ops.similarity import unit


@dataclass(frozen=True, kw_only=True)
class ZOOPrune(Method):
    """Tokens the encoder reacts to most that are unlike those chosen before.

    Greedy: argmax S_i (1 - max_{j chosen} cos(x_i, x_j)); the first token by S alone.

    S: how strongly the projector answers to small changes of the token (`Cues.sensitivity`), scaled to [0, 1]; x: the
    projected embeddings. No text and no attention.

    Complexity: 128 passes of the projector for S, O(k N D) for the greedy.

    Published and this class: no code was public. The paper takes differences for 64 random directions, h = 0.01; here
    these are derivatives, the limit of small h, along directions drawn once from a fixed seed. On a linear projector S
    is nearly constant. Models whose projector fuses patches cannot give S.
    """

    name: ClassVar[str] = "zoo-prune"
    paper: ClassVar[str] = "https://arxiv.org/abs/2509.24837"
    cost: ClassVar[str] = "O(k N D)"
    reads: ClassVar[frozenset[str]] = frozenset({"features", "sensitivity"})

    def select(self, cues: Cues, token_map: TokenMap, k: int) -> Selection:
        sensitivity = minmax(cues.require("sensitivity"))
        features = unit(cues.require("features"))
        greedy = Greedy(sensitivity, lambda tokens: products(features, tokens), matrix(features))
        token = greedy.best(sensitivity)
        nearest = greedy.row(token, sensitivity)
        for _ in range(1, k):
            scores = torch.addcmul(greedy.barred, sensitivity, 1 - nearest)
            token = greedy.best(scores, sensitivity)
            nearest = nearest.maximum(greedy.row(token, scores))
        return Selection(greedy.indices())
