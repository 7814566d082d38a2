"""From scores to integers: zone shares, zone budgets, and the best tokens of each zone.

Everything here is batched tensor code without Python loops over zones or tokens and without a host synchronisation, so
that it may run inside a captured graph. Budgets are computed in fixed point: they do not depend on the device, the
batch or the order of a floating-point sum, and tensor-parallel ranks agree.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .quotas import PART, quotas, weigh
from .seats import best_first
from .token_map import Zones

_LOWEST = float("-inf")
_TINY32 = torch.finfo(torch.float32).tiny


def zone_mean(values: Tensor, zones: Zones) -> Tensor:
    """Mean of `values` (B, N) in every zone, fp32 (B, Z). The mean of an empty zone is NaN."""
    return zones.by_zone(values, fill=0.0).sum(-1, dtype=torch.float64).div_(zones.size).float()


def softmax_shares(relevance: Tensor, temperature: float) -> Tensor:
    """P_j = softmax_j(relevance / temperature); fp64 (..., Z), rows sum to 1.

    A zone whose relevance is NaN (an empty one) gets no share; a row of nothing but NaN is shared out equally.
    """
    logits = relevance.double().nan_to_num(nan=-1e30, posinf=1e30, neginf=-1e30) / temperature
    return torch.softmax(logits, dim=-1)


def apportion(
    shares: Tensor,
    total: int | Tensor,
    capacity: Tensor,
    priority: Tensor | None = None,
    minimum: int = 0,
    *,
    normalised: bool = False,
) -> Tensor:
    """Capped largest remainder: integers that follow `shares`, never exceed `capacity`, and sum to `total` exactly.

    The rule, in words: every zone first gets ``min(minimum, capacity)``. The rest is split in proportion to the shares;
    a zone whose quota reaches its capacity is filled, and what it leaves is split again among the others by the same
    rule. Quotas are rounded down, and the tokens still missing go to the largest remainders; ties go to the larger
    `priority`, then to the earlier zone.

    Shares are rounded to 2^-32 and quotas to 2^-30 tokens (:mod:`gridprune.quotas`), so that neither the device nor the
    order of a sum shows. A zone with a vanishing share still takes tokens when every other zone is full.

    Args:
        shares: (..., Z) of any scale; what is negative, NaN or infinite counts as 0, and nothing but 0 as equal shares.
        total: tokens to hand out, ``capacity.clamp(max=minimum).sum() <= total <= capacity.sum()`` in every row (the
            caller checks; no sync here), at most 2^22. An integer, or int64 (..., 1) for totals that differ by row.
        capacity: (Z,) or (..., Z) int64, tokens per zone.
        priority: (..., Z) breaks ties between equal remainders, larger first, NaN last.
        minimum: tokens that every non-empty zone gets first.
        normalised: the rows of `shares` sum to 1 already, as those of :func:`softmax_shares` do.

    Returns:
        (..., Z) int64 budgets.
    """
    weight = weigh(shares if normalised else _normalised(shares))
    room = capacity if isinstance(total, Tensor) else capacity.clamp(max=total)  # so that no sum exceeds 2^22 a zone
    first = room.clamp(max=minimum)
    quota = quotas(weight, (room - first).double(), total - room.sum(-1, keepdim=True))
    whole = (quota / PART).floor()  # one more goes to the largest remainders, of which there are enough
    missing = total - (first + whole).sum(-1, keepdim=True)
    remainder = quota - whole * PART
    if priority is None:
        winners = remainder.argsort(dim=-1, descending=True, stable=True)
    else:
        by_priority = priority.nan_to_num(nan=_LOWEST).argsort(dim=-1, descending=True, stable=True)
        by_remainder = remainder.gather(-1, by_priority).argsort(dim=-1, descending=True, stable=True)
        winners = by_priority.gather(-1, by_remainder)  # zones from most to least deserving
    place = torch.arange(quota.shape[-1], device=quota.device)
    return (whole.long() + first).scatter_add(-1, winners, (place < missing).long())


def _normalised(values: Tensor) -> Tensor:
    values = values.double().nan_to_num(nan=0.0, posinf=0.0, neginf=0.0).clamp(min=0)
    highest = values.amax(-1, keepdim=True)
    values = torch.where(highest > 0, values / highest, 1.0)
    return values / values.sum(-1, keepdim=True)


def equal_parts(total: int, capacity: Sequence[int]) -> list[int]:
    """:func:`apportion` with equal shares and no priorities, in plain integers, for a handful of parts."""
    parts = [0] * len(capacity)
    open_parts = list(range(len(capacity)))
    while True:
        full = [i for i in open_parts if capacity[i] * len(open_parts) <= total]
        if not full:
            break
        for i in full:
            parts[i] = capacity[i]
            total -= capacity[i]
        open_parts = [i for i in open_parts if i not in full]
    for place, i in enumerate(open_parts):
        parts[i] = total // len(open_parts) + (place < total % len(open_parts))
    return parts


def rank_in_zone(scores: Tensor, zones: Zones) -> Tensor:
    """Place of every token in its zone by descending score, ties to the earlier token; int64 (B, N). NaN comes last."""
    return zones.by_token(_rank(scores, zones))


def topk_per_zone(scores: Tensor, zones: Zones, budget: Tensor, k: int) -> Tensor:
    """The `budget` (B, Z) best tokens of each zone as (B, k) ascending indices; rows of `budget` sum to k."""
    return ascending_indices(zones.by_token(_rank(scores, zones) < budget[..., None]), k)


def _rank(scores: Tensor, zones: Zones) -> Tensor:
    """(B, Z, M) int64: which place among its zone's best the token at each place has."""
    order = best_first(scores, zones)
    return torch.empty_like(order).scatter_(-1, order, torch.arange(zones.most, device=order.device).expand_as(order))


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


def rank01(values: Tensor, groups: Zones | None = None) -> Tensor:
    """Each row of (B, N), or each of its `groups`, as ranks scaled to [0, 1], ties in token order; fp32."""
    values = values.float().nan_to_num(nan=_LOWEST)
    if groups is not None and groups.count > 1:
        return rank_in_zone(-values, groups) / (groups.size - 1).clamp(min=1).float()[groups.index]
    order = values.argsort(dim=-1, stable=True)
    place = torch.arange(values.shape[-1], device=values.device, dtype=torch.float32).expand_as(order)
    return torch.zeros_like(place).scatter(-1, order, place) / max(values.shape[-1] - 1, 1)


def zscore(values: Tensor) -> Tensor:
    """Each row of (B, N) centred and divided by its standard deviation (population), fp32; a constant row becomes 0."""
    values = values.float()
    centred = values - values.mean(-1, keepdim=True)
    deviation = centred.pow(2).mean(-1, keepdim=True).sqrt()
    floor = 1e-6 * values.abs().amax(-1, keepdim=True) + _TINY32
    return torch.where(deviation > floor, centred / deviation.clamp(min=_TINY32), 0.0)


def deviation(values: Tensor) -> Tensor:
    """Standard deviation (population) of each row of cosines (B, N), (B, 1) fp32; at least 1e-6, which is rounding."""
    return values.float().std(-1, correction=0, keepdim=True).clamp_(min=1e-6)
