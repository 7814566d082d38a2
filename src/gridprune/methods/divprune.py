"""DivPrune: the tokens that are farthest from each other (https://arxiv.org/abs/2503.02175)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..token_map import TokenMap
from .base import Cues, Method, Selection
from .similarity import Cosine, Picks


@dataclass(frozen=True, kw_only=True)
class DivPrune(Method):
    """Greedy max-min diversity of the projected embeddings, without text and without attention.

    With d(i, j) = 1 - cos(x_i, x_j): the first token is the one whose nearest neighbour is farthest; then always the
    token whose distance to the nearest chosen one, min_{j chosen} d(i, j), is largest.

    Complexity: O(N^2 D) once, in blocks, for the first token; then O(N) per pick for the running minimum (O(N D) above
    4096 tokens, where no matrix is kept). The released code holds the N x N matrix and gathers the rows of all
    chosen tokens at every pick, O(k^2 N); the result is the same. Two things differ on purpose: a token is never chosen
    twice (on duplicates, where all distances are 0, the released arg-max may), and indices are ascending (the fix of
    its issue 8). In LLaVA-NeXT the released code lets newline embeddings compete; here separators are no candidates.
    """

    name: ClassVar[str] = "divprune"
    paper: ClassVar[str] = "https://arxiv.org/abs/2503.02175"
    cost: ClassVar[str] = "O(N^2 D)"
    capabilities: ClassVar[frozenset[str]] = frozenset({"quality", "geometry"})

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"features"})

    def select(self, cues: Cues, token_map: TokenMap, k: int) -> Selection:
        cosine = Cosine(cues.require("features"))
        apart = 1 - cosine.nearest()
        picks = Picks(apart)
        token = picks.best(apart)
        distance = 1 - cosine.row(token)  # [B, N] to the nearest chosen token
        while len(picks) < k:
            token = picks.best(_weighted(distance, cues.quality))
            distance = distance.minimum(1 - cosine.row(token))
        return Selection(picks.indices())


def _weighted(distance: Tensor, quality: Tensor | None) -> Tensor:
    return distance if quality is None else distance * quality
