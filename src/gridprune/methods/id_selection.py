"""ID-Selection: the most important token, over and over, with what is like it suppressed (arXiv 2604.05601)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ..core.token_map import TokenMap
from .base import Cues, Selection
from .guided import Weighed
from .ops.greedy import Greedy, matrix, products
from .ops.similarity import TIE, unit
from .settings import number


@dataclass(frozen=True, kw_only=True)
class IDSelection(Weighed):
    """Salient tokens, each of which makes those like it count less.

    Repeat: take the token of largest score; multiply the score of every other by exp(-`gamma` max(0, cos)).

    The score starts as importance: attention received, or relevance, scaled to [0, 1]. Cosines are those of the
    projected embeddings. Scores are kept as logarithms, so that they never vanish.

    Complexity: O(k N D) for rows of cosines, made some at a time (:mod:`gridprune.methods.ops.greedy`).

    Published and this class: the paper was known to us from digests only, which name an exponential decay in the
    similarity and gamma = 20; the exact formula, the space of the similarity and the floor of the importance (1e-6, so
    that the least important token has a logarithm) are ours.

    Attributes:
        gamma: strength of the suppression, at least 0.
        importance, reading: as in :class:`~gridprune.methods.guided.Weighed`.
    """

    gamma: float = number(20.0)

    name: ClassVar[str] = "id-selection"
    paper: ClassVar[str] = "https://arxiv.org/abs/2604.05601"
    cost: ClassVar[str] = "O(k N D)"

    def select(self, cues: Cues, token_map: TokenMap, k: int) -> Selection:
        importance = self.weights(cues).clamp(min=1e-6).log()
        features = unit(cues.require("features"))
        rounding = TIE * max(self.gamma, 1.0)  # of a cosine, as it goes into the score
        greedy = Greedy(importance, lambda tokens: products(features, tokens), matrix(features), rounding)
        suppressed = torch.zeros_like(importance)
        scores = importance
        for step in range(k):
            token = greedy.best(scores)
            if step < k - 1:
                suppressed = suppressed + greedy.row(token, scores).clamp(min=0)
                scores = (importance - self.gamma * suppressed).add_(greedy.barred)
        return Selection(greedy.indices())
