"""SCOPE: saliency-weighted coverage (https://arxiv.org/abs/2510.24214)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ..core.token_map import TokenMap
from .base import Cues, Method, Selection
from .ops.similarity import Cosine, Coverage, Picks
from .settings import number


@dataclass(frozen=True, kw_only=True)
class Scope(Method):
    """Greedy: the token that adds most coverage, times its attention.

    With S the cosines of the tower features and c_i = 0 the coverage of token i, pick
    argmax_j a_j^alpha sum_i max(0, S_ij - c_i), then c_i = max(c_i, S_ij). No text.

    Complexity: O(N^2 C) for S, then each pick reads only the rows whose coverage rose; O(k N^2) as written in the
    paper.

    Published and this class: the released code has an additive form as well; this is the product, its default. There
    the budget is divided by the number of crops; here all crops compete at once
    (:class:`~gridprune.methods.wrappers.per_view.PerView` divides).

    Attributes:
        alpha: exponent of the attention, at least 0.
    """

    alpha: float = number(1.0)

    name: ClassVar[str] = "scope"
    paper: ClassVar[str] = "https://arxiv.org/abs/2510.24214"
    reads_values: ClassVar[bool] = True
    cost: ClassVar[str] = "O(N^2 C + k N^2)"
    capabilities: ClassVar[frozenset[str]] = frozenset({"quality"})
    reads: ClassVar[frozenset[str]] = frozenset({"tower_features", "saliency"})

    def select(self, cues: Cues, token_map: TokenMap, k: int) -> Selection:
        matrix = Cosine(cues.require("tower_features")).matrix()
        worth = cues.require("saliency").double().pow(self.alpha)
        if cues.quality is not None:
            worth = worth * cues.quality
        coverage = Coverage(matrix, torch.ones_like(worth))
        picks = Picks(worth)
        for _ in range(k):
            coverage.add(picks.best(coverage.gain * worth))
        return Selection(picks.indices(k))
