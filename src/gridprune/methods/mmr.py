"""MMR: maximal marginal relevance over visual tokens, the selection of IDPruner with an untrained score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..core.reading import Reading
from ..core.scores import minmax
from ..core.token_map import TokenMap
from .base import Cues, Selection
from .guided import Guided
from .ops.greedy import Greedy, matrix, products
from .ops.similarity import unit

Importance = Literal["saliency", "relevance"]


@dataclass(frozen=True, kw_only=True)
class MMR(Guided):
    """Important tokens that are unlike those chosen before.

    Greedy: argmax `balance` imp_i - (1 - `balance`) max_{j chosen} cos(x_i, x_j); the first token by imp alone.

    imp: attention received, or relevance to the question, scaled to [0, 1]; x: the projected embeddings.

    Complexity: O(k N D) for rows of cosines, made some at a time (:mod:`gridprune.methods.ops.greedy`).

    Published and this class: IDPruner trains a scorer for imp and selects like this; its published figures are those of
    the scorer.

    Attributes:
        importance: "saliency" or "relevance".
        balance: weight of importance against difference, in [0, 1].
        reading: as in :class:`~gridprune.methods.guided.Guided`.
    """

    importance: Importance = "saliency"
    balance: float = 0.5

    name: ClassVar[str] = "mmr"
    cost: ClassVar[str] = "O(k N D)"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("importance", lambda v: v in ("saliency", "relevance"), "'saliency' or 'relevance'")
        self._check("balance", lambda v: 0 <= v <= 1, "between 0 and 1")

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"features"}) | ({"saliency"} if self.importance == "saliency" else self.relevance_cues)

    def select(self, cues: Cues, token_map: TokenMap, k: int) -> Selection:
        importance = importance_of(cues, self.importance, self.reading)
        features = unit(cues.require("features"))
        greedy = Greedy(importance, lambda tokens: products(features, tokens), matrix(features))
        scores, nearest = importance, torch.full_like(importance, -1.0)
        for step in range(k):
            token = greedy.best(scores)
            if step < k - 1:
                nearest = nearest.maximum(greedy.row(token, scores))
                scores = (importance * self.balance).sub_(nearest, alpha=1 - self.balance).add_(greedy.barred)
        return Selection(greedy.indices())


def importance_of(cues: Cues, which: Importance, reading: Reading | Literal["tower"]) -> Tensor:
    """(B, N) fp32 in [0, 1]: saliency, or relevance with larger meaning more relevant, scaled per image."""
    return minmax(cues.require("saliency") if which == "saliency" else cues.read(reading))
