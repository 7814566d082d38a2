"""VisPruner: half the tokens by attention, half by removing near-duplicates (https://arxiv.org/abs/2412.01818)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..core.scores import ascending_indices
from ..core.token_map import TokenMap
from .base import Cues, Method, Selection
from .ops.similarity import Cosine, fused, member_mask, ranked
from .settings import share, whole

_STEPS = 2.0**44  # of a cosine, up to its rounding in fp64: what is less apart is equal


@dataclass(frozen=True, kw_only=True)
class VisPruner(Method):
    """The int(`important` k) tokens with the most [CLS] attention, then diverse ones among the rest.

    Diversity: the rest, in order of falling attention, is thinned in rounds. Even places form A, odd places B; each
    token of A takes its largest cosine to any token of B (tower features); the `step` most similar tokens of A are
    thrown away, and what is left of A, most similar first, is followed by B. So the split changes in every round. It
    ends when as many tokens are left as are wanted.

    Complexity: about (N - k) / `step` rounds of an (R/2) x (R/2) comparison, R the tokens left; O(N^2 D) for the
    cosines.

    Published and this class: the released code works on lists of even length only (true for 576 tokens and the usual
    k); here A is one longer if the length is odd. On towers without [CLS] the attention a token receives takes its
    place.

    Since the split of a round follows the order of the round before, two cosines that change places change everything
    behind them: in fp32 two orders of the same sums have an eighth of the diverse tokens in common (2880 random
    tokens). The release compares them in the dtype of the model; here they are fp64, and equal if less than about 2^-44
    apart, the earlier token first. So another device keeps the same tokens, also where features are equal, unless a
    cosine lies within rounding of a step. What stays sensitive is the input: features that differ in their last bit
    give other tokens on images with many near-duplicates.

    Attributes:
        important: share of the budget given to attention.
        step: tokens removed per round, at most.
    """

    important: float = share(0.5)
    step: int = whole(8)

    name: ClassVar[str] = "vispruner"
    paper: ClassVar[str] = "https://arxiv.org/abs/2412.01818v2"
    cost: ClassVar[str] = "O(N^2 D + N^3)"
    reads: ClassVar[frozenset[str]] = frozenset({"saliency", "tower_features"})

    def select(self, cues: Cues, token_map: TokenMap, k: int) -> Selection:
        saliency = cues.require("saliency").float()
        order = ranked([saliency])
        first = int(self.important * k)
        diverse = thin(Cosine(cues.require("tower_features"), torch.float64), order[:, first:], k - first, self.step)
        kept = member_mask(torch.cat([order[:, :first], diverse], 1), order.shape[1])
        return Selection(ascending_indices(kept, k))


def thin(cosine: Cosine, tokens: Tensor, wanted: int, step: int) -> Tensor:
    """Remove near-duplicates from the list `tokens` (B, R) until `wanted` are left: (B, wanted), in list order."""
    if wanted == 0:
        return tokens[:, :0]
    if cosine.whole is not None and (kernels := fused(tokens)):
        return kernels.thin(cosine.whole, tokens, wanted, step, _STEPS)
    while (surplus := tokens.shape[1] - wanted) > 0:
        even, odd = tokens[:, ::2], tokens[:, 1::2]
        similarity = cosine.closest(even, odd).mul_(_STEPS).add_(0.5).floor_()
        even = even.gather(1, similarity.argsort(dim=1, descending=True, stable=True))
        tokens = torch.cat([even[:, min(step, surplus, even.shape[1]) :], odd], 1)
    return tokens
