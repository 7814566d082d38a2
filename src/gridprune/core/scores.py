"""Scores of tokens, brought to a common scale and ranked; batched, without loops and host synchronisations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .token_map import Zones

_LOWEST = float("-inf")
_TINY32 = torch.finfo(torch.float32).tiny


def topk(scores: Tensor, k: int) -> Tensor:
    """The `k` best tokens of (B, N) as ascending unique int64 indices; ties to the earlier token, NaN last."""
    scores = scores.float().nan_to_num(nan=_LOWEST)
    worst = scores.topk(k, dim=-1).values[..., -1:]  # the k-th best; the tokens that tie with it are taken in order
    better, tied = scores > worst, scores == worst
    return ascending_indices(better | (tied & (tied.cumsum(-1) <= k - better.sum(-1, keepdim=True))), k)


def ascending_indices(mask: Tensor, k: int) -> Tensor:
    """Indices of the `k` true entries of each row of `mask` (..., N), ascending, without a host synchronisation."""
    counted = mask.cumsum(-1)
    nth = torch.arange(1, k + 1, device=mask.device).expand(*mask.shape[:-1], k)
    return torch.searchsorted(counted, nth.contiguous())


def minmax(values: Tensor, groups: Zones | None = None) -> Tensor:
    """Each row of (B, N) scaled to [0, 1], or each of its `groups` by itself; fp32. What is constant becomes 0."""
    values = values.float()
    if groups is None or groups.count == 1:
        low, high = torch.aminmax(values, dim=-1, keepdim=True)
        return (values - low).div_((high - low).clamp_(min=_TINY32))
    low, high = torch.aminmax(groups.by_zone(values), dim=-1)
    span = (high - low).clamp(min=_TINY32)
    return (values - low.index_select(1, groups.index)) / span.index_select(1, groups.index)


def deviation(values: Tensor) -> Tensor:
    """Standard deviation (population) of each row of cosines (B, N), (B, 1) fp32; at least 1e-6, which is rounding."""
    return values.float().std(-1, correction=0, keepdim=True).clamp_(min=1e-6)


def zone_mean(values: Tensor, zones: Zones) -> Tensor:
    """Mean of `values` (B, N) in every zone, fp32 (B, Z). The mean of an empty zone is NaN."""
    return zones.by_zone(values, fill=0.0).sum(-1, dtype=torch.float64).div_(zones.size).float()
