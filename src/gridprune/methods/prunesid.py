"""PruneSID: groups by principal components, and in each the salient tokens (https://arxiv.org/abs/2603.09480)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..core.token_map import TokenMap
from .base import Cues, Method, Selection
from .ops.similarity import Cosine, ranked
from .settings import is_whole, setting

_SIZE = 4  # kept tokens per component
_SCALE = 32
_MOST = 5  # tokens of a group, per 64 kept ones


@dataclass(frozen=True, kw_only=True)
class PruneSID(Method):
    """Tokens are grouped by the principal component they weigh most in; every group gives some of its salient tokens.

    1. k / 4 components of the sigmoid of the tower states, channels as samples. A token belongs to the component in
       which its weight is largest.
    2. In each group, by falling attention: a token whose cosine with one that is left in exceeds (k / 32) times the
       mean cosine of the image is left out. (From k = 192 on this leaves nobody out.)
    3. Every group gets one token, and of the others a part by the number of its survivors, at most 5 ceil(k / 64) in
       all. Survivors go first, then attention; what the caps leave goes to the best tokens of the image by the same
       order.

    Complexity: O(N C k) for the components, O(N^2 C) for the cosines.

    Published and this class: components come from a randomised decomposition there, anew at each call; here its start
    is drawn from `seed`, on the CPU, so that an image's tokens are always the same. [CLS] counts as one of the k there
    and is no candidate here. Cosines are those of the tower states themselves.

    Attributes:
        seed: decides the start of the decomposition.
    """

    seed: int = setting(0, lambda v: is_whole(v) and 0 <= v < 2**63, "a whole number of at least 0")

    name: ClassVar[str] = "prunesid"
    paper: ClassVar[str] = "https://arxiv.org/abs/2603.09480"
    reads_values: ClassVar[bool] = True
    cost: ClassVar[str] = "O(N^2 C)"
    reads: ClassVar[frozenset[str]] = frozenset({"tower_features", "saliency"})

    def select(self, cues: Cues, token_map: TokenMap, k: int) -> Selection:
        states, saliency = cues.require("tower_features"), cues.require("saliency").float()
        weights = components(states.float().sigmoid(), max(1, k // _SIZE), self.seed).abs()  # [B, N, groups]
        group = weights.argmax(-1)
        groups = weights.shape[-1]
        alive = survivors(Cosine(states).matrix(), group, saliency, k / _SCALE)

        def per_group(values: Tensor) -> Tensor:
            return values.new_zeros(len(values), groups).scatter_add_(1, group, values)

        size, left = per_group(torch.ones_like(group)), per_group(alive.long())
        first = size.clamp(max=1)
        rest = k - first.sum(1, keepdim=True)
        reached = (2 * rest * left.cumsum(1) + left.sum(1, keepdim=True)) // (2 * left.sum(1, keepdim=True))
        budget = first + reached.diff(dim=1, prepend=torch.zeros_like(rest))
        budget = budget.clamp(max=_MOST * -(-k // 64))

        order = ranked([-group, alive.long(), saliency])  # one group behind the other, the best of each in front
        start = (size.cumsum(1) - size).gather(1, group.gather(1, order))
        place = torch.arange(group.shape[1], device=group.device) - start
        within = torch.zeros_like(place).scatter(1, order, place)
        granted = within < budget.gather(1, group)
        best = ranked([granted.long(), alive.long(), saliency])
        return Selection(best[:, :k].sort(dim=1).values)


def components(x: Tensor, count: int, seed: int) -> Tensor:
    """(B, N, count) the largest principal components of `x` (B, N, C), channels as samples; 0 where it has no more.

    A randomised decomposition with two rounds of subspace iteration.
    """
    x = x - x.mean(-1, keepdim=True)
    count = min(count, *x.shape[1:])
    generator = torch.Generator("cpu").manual_seed(seed)
    start = torch.randn(x.shape[1], count, generator=generator, dtype=torch.float32, device="cpu").to(x.device)
    basis = torch.linalg.qr(x.mT @ start).Q  # [B, C, count]
    for _ in range(2):
        basis = torch.linalg.qr(x.mT @ torch.linalg.qr(x @ basis).Q).Q
    left, size, _ = torch.linalg.svd(x @ basis, full_matrices=False)
    return left * (size > 1e-5 * size[:, :1])[:, None]


def survivors(cosine: Tensor, group: Tensor, saliency: Tensor, scale: float) -> Tensor:
    """(B, N) bool: who is left of each group if a token drops out that is too like a more salient one that is left.

    Args:
        cosine: (B, N, N).
        group: (B, N) int64.
        scale: of the mean cosine between two tokens, to be too like.
    """
    n = group.shape[1]
    between = (cosine.sum((1, 2)) - cosine.diagonal(dim1=1, dim2=2).sum(1)) / max(n * (n - 1), 1)
    place = ranked([saliency]).argsort(dim=1)  # 0 for the most salient
    behind = place[:, :, None] > place[:, None]
    beats = behind & (group[:, :, None] == group[:, None]) & (cosine > scale * between[:, None, None])
    alive = torch.ones_like(group, dtype=torch.bool)
    while True:  # a chain of k tokens that beat each other is settled after k rounds; chains are short
        settled = ~(beats & alive[:, None]).any(-1)
        if torch.equal(settled, alive):
            return alive
        alive = settled
