"""MMR: maximal marginal relevance over visual tokens, the selection of IDPruner with an untrained score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ..core.token_map import TokenMap
from .base import Cues, Selection
from .guided import Weighed
from .ops.greedy import Greedy, matrix, products
from .ops.similarity import unit
from .settings import share


@dataclass(frozen=True, kw_only=True)
class MMR(Weighed):
    """Important tokens that are unlike those chosen before.

    Greedy: argmax `balance` imp_i - (1 - `balance`) max_{j chosen} cos(x_i, x_j); the first token by imp alone.

    imp: attention received, or relevance to the question, scaled to [0, 1]; x: the projected embeddings.

    Complexity: O(k N D) for rows of cosines, made some at a time (:mod:`gridprune.methods.ops.greedy`).

    Published and this class: IDPruner trains a scorer for imp and selects like this; its published figures are those of
    the scorer.

    Attributes:
        balance: weight of importance against difference, in [0, 1].
        importance, reading: as in :class:`~gridprune.methods.guided.Weighed`.
    """

    balance: float = share(0.5)

    name: ClassVar[str] = "mmr"
    cost: ClassVar[str] = "O(k N D)"

    def select(self, cues: Cues, token_map: TokenMap, k: int) -> Selection:
        importance = self.weights(cues)
        features = unit(cues.require("features"))
        greedy = Greedy(importance, lambda tokens: products(features, tokens), matrix(features))
        scores, nearest = importance, torch.full_like(importance, -1.0)
        for step in range(k):
            token = greedy.best(scores)
            if step < k - 1:
                nearest = nearest.maximum(greedy.row(token, scores))
                scores = (importance * self.balance).sub_(nearest, alpha=1 - self.balance).add_(greedy.barred)
        return Selection(greedy.indices())
