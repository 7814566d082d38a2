"""DivPrune: the tokens that are farthest from each other (https://arxiv.org/abs/2503.02175)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..core.token_map import TokenMap
from .base import Cues, Method, Selection
from .ops.greedy import Greedy, loneliest, matrix, products
from .ops.similarity import unit

_SMALL = 1024  # tokens up to which all cosines cost less than leaving some out


@dataclass(frozen=True, kw_only=True)
class DivPrune(Method):
    """Greedy max-min diversity of the projected embeddings, without text and without attention.

    With d(i, j) = 1 - cos(x_i, x_j): the first token is the one whose nearest neighbour is farthest; then always the
    token whose distance to the nearest chosen one, min_{j chosen} d(i, j), is largest.

    Complexity: O(N^2 D) at worst for the first token, where most tokens drop out early, then O(N D) per pick for rows
    of cosines, made some at a time (:mod:`gridprune.methods.ops.greedy`), and O(N) for the running minimum. No matrix
    above 1024 tokens (4096 on an accelerator).

    Published and this class: the released code holds the N x N matrix and gathers the rows of all chosen tokens at
    every pick, O(k^2 N); the result is the same. Two things differ on purpose: a token is never chosen twice (on
    duplicates, where all distances are 0, the released arg-max may), and indices are ascending (the fix of its issue
    8). In LLaVA-NeXT the released code lets newline embeddings compete; here separators are no candidates.
    """

    name: ClassVar[str] = "divprune"
    paper: ClassVar[str] = "https://arxiv.org/abs/2503.02175"
    cost: ClassVar[str] = "O(N^2 D)"
    capabilities: ClassVar[frozenset[str]] = frozenset({"quality", "geometry"})
    reads: ClassVar[frozenset[str]] = frozenset({"features"})

    def select(self, cues: Cues, token_map: TokenMap, k: int) -> Selection:
        features = unit(cues.require("features"))
        cosines = matrix(features, _SMALL)

        def distances(tokens: Tensor) -> Tensor:
            return products(features, tokens).neg_().add_(1)

        distance = features.new_ones(features.shape[:2])
        weight = distance if cues.quality is None else cues.quality
        greedy = Greedy(distance, distances, None if cosines is None else 1 - cosines)
        token = greedy.take(loneliest(features, cosines))
        distance = greedy.row(token, distance)  # [B, N] to the nearest chosen token
        scores = torch.empty_like(distance)
        for _ in range(1, k):
            torch.addcmul(greedy.barred, distance, weight, out=scores)
            token = greedy.best(scores, cues.quality)
            distance = distance.minimum(greedy.row(token, scores))
        return Selection(greedy.indices())
