"""GridPrune by coverage: guide globally, select locally what covers the guide's weight in its zone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import normalize

from ..core.scores import topk
from ..core.token_map import TokenMap, Zones
from .base import Cues, Method, Selection
from .ops.coverage import marginal_gains
from .settings import share, whole

_EACH = 8  # tokens that a zone gets on average
_LEAST = 1e-3  # of the mean attention: what is below says nothing more
_ROUNDING = 1e-12  # the square of 1e-6


@dataclass(frozen=True, kw_only=True)
class GridPruneCover(Method):
    """Two stages: *where to look*, a weight for every token; *what to select*, what covers the weight in its zone.

    1. The guide p_i is the mean of two parts, each of which sums to 1 over the image: one follows the square of how far
       the token's relevance lies from the image's mean (above it, if the tower's relevance has one end), the other the
       square of how far the logarithm of its [CLS] attention lies above the mean of its view. A cue that singles out
       a few tokens puts its weight there; one that says little lies flat, and leaves the choice to the other. So no
       weight of one against the other is to be set, and no temperature tuned to a tower. Every token weighs
       w_i = (1 - `even`) p_i + `even` / N.
    2. The token map is cut into zones of `zone` x `zone` tokens. In each of them tokens are picked one after the
       other, the one whose features cover most of what is left: the gain of token j is the sum over the zone of
       w_i max(0, cos(f_i, f_j) - c_i), with c_i the largest cosine of i with a token picked before. The k tokens with
       the largest gains stay. Gains fall within a zone, and zones do not see each other, so these k are what picking
       the best gain of the whole image k times would keep; a zone gets as many tokens as it has weight that differs.

    Complexity O(N M D) for the cosines and O(N M^2) for the gains, in M steps, for zones of M = 8 N / k tokens. Exactly
    k tokens stay.

    No paper prints it: the two stages and the two cues are GridPrune's (https://arxiv.org/abs/2511.10081); the guide,
    and gains in place of budgets and scores, are ours, chosen on development scenes of a model whose towers were taught
    by captions alone, where relevance is the weaker cue (LAB.md).

    Attributes:
        zone: side of a zone in tokens; maps it does not divide get zones that differ by at most one token. 0, the
            default, follows the budget: a zone gets eight tokens on average.
        even: how much of the weight is spread evenly, in [0, 1]: what no cue knows of, and what counting and reading
            need.
    """

    zone: int = whole(0, least=0)
    even: float = share(0.3)

    name: ClassVar[str] = "gridprune-cover"
    own: ClassVar[bool] = True
    cost: ClassVar[str] = "O(N M (D + M)), M = 8 N / k"
    reads: ClassVar[frozenset[str]] = frozenset({"relevance", "saliency", "features"})

    def side(self, total: int, k: int) -> int:
        """Side of a zone, in tokens."""
        return self.zone or max(1, round(math.sqrt(_EACH * total / k)))

    def select(self, cues: Cues, token_map: TokenMap, k: int) -> Selection:
        self.check_count(token_map, k)
        zones, n = token_map.zones(self.side(len(token_map), k)), len(token_map)
        here = zones.on(cues.device)
        guide = self._guide(cues, token_map.groups("view").on(cues.device))
        weights = (1 - self.even) * guide + self.even / n
        gains = marginal_gains(normalize(cues.require("features").double(), dim=-1), weights, here, k)
        return Selection(topk(gains, k), zones=zones, scores=guide.float())

    def _guide(self, cues: Cues, views: Zones) -> Tensor:
        """p_i, (B, N) fp64, rows sum to 1; what a cue says of no token, the other says alone."""
        relevance, saliency = cues.read().double(), cues.require("saliency").double()
        if cues.reading != "both":  # which is the distance from the mean already
            relevance = (relevance - relevance.mean(-1, keepdim=True)).clamp(min=0)
        saliency = saliency.maximum(_LEAST * saliency.mean(-1, keepdim=True)).log()
        above = (saliency - _mean_by(saliency, views)).clamp(min=0)
        return _scaled(_scaled(relevance.square()) + _scaled(above.square()))


def _scaled(values: Tensor) -> Tensor:
    """Rows of (B, N) >= 0 scaled to sum to 1; to next to nothing where all there is is rounding."""
    values = values.nan_to_num(nan=0.0, posinf=0.0)
    return values / values.sum(-1, keepdim=True).clamp(min=_ROUNDING)


def _mean_by(values: Tensor, groups: Zones) -> Tensor:
    """Each token's mean of its group, (B, N)."""
    means = groups.by_zone(values, fill=0.0).sum(-1) / groups.size
    return means.index_select(1, groups.index)
