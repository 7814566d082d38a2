"""From scores to integers: zone shares, zone budgets, and the best tokens of each zone.

Everything here is batched tensor code without Python loops over zones or tokens and without a host synchronisation, so
that it may run inside a captured graph. Budgets are computed in *integer* arithmetic: they do not depend on the device,
the batch or the order of a floating-point sum, and tensor-parallel ranks agree.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .seats import Guide, places
from .seats import zone_logits as _zone_logits
from .token_map import Zones

_LOWEST = float("-inf")
_TINY32 = torch.finfo(torch.float32).tiny


def zone_mean(values: Tensor, zones: Zones) -> Tensor:
    """Mean of `values` (B, N) in every zone, fp32 (B, Z). The mean of an empty zone is NaN."""
    return zone_logits(values, zones, 1.0, "mean").float()


def zone_logits(values: Tensor, zones: Zones, temperature: float | Tensor, guide: Guide) -> Tensor:
    """Logits of the zones' shares, fp64 (B, Z): see :func:`gridprune.seats.zone_logits`."""
    return _zone_logits(values, zones.seats, temperature, guide)[:, 0].flip(-1)


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
    priority: Tensor,
    minimum: int = 0,
    *,
    most: int | None = None,
    normalised: bool = False,
) -> Tensor:
    """Capped largest remainder: integers that follow `shares`, never exceed `capacity`, and sum to `total` exactly.

    The rule, in words: every zone first gets ``min(minimum, capacity)``. The rest is split in proportion to the shares;
    a zone whose quota reaches its capacity is filled, and what it leaves is split again among the others by the same
    rule. Quotas are rounded down, and the tokens still missing go to the largest remainders; ties go to the larger
    `priority`, then to the earlier zone.

    Shares are quantised to 2^-44 or finer where `most` is below 2^18 (plus one unit, so that a zone with a vanishing
    share still takes tokens when every other zone is full); from there on all arithmetic is exact in int64.

    Args:
        shares: (..., Z) of any scale; what is negative, NaN or infinite counts as 0, and nothing but 0 as equal shares.
        total: tokens to hand out, ``capacity.clamp(max=minimum).sum() <= total <= capacity.sum()`` in every row (the
            caller checks; no sync here). An integer, or int64 (..., 1) for totals that differ between rows.
        capacity: (Z,) or (..., Z) int64, tokens per zone.
        priority: (..., Z) breaks ties between equal remainders, larger first, NaN last.
        minimum: tokens that every non-empty zone gets first.
        most: what ``capacity.sum()`` cannot exceed in any row, if the host knows it; needed where `total` is a tensor.
        normalised: the rows of `shares` are fp64 and sum to 1 already, as :func:`softmax_shares` gives them.

    Returns:
        (..., Z) int64 budgets.
    """
    if most is None:
        if not isinstance(total, int):
            raise TypeError("apportion needs `most` where `total` is a tensor.")
        capacity = capacity.clamp(max=total)
        most = total * shares.shape[-1]
    if minimum > 0:
        first = capacity.clamp(max=minimum)
        rest = total - first.sum(-1, keepdim=True)
        return first + apportion(shares, rest, capacity - first, priority, most=most, normalised=normalised)
    if not normalised:
        shares = _normalised(shares)
    weight = (shares * float(1 << min(50, 62 - max(most, 1).bit_length()))).long() + 1  # no product exceeds 2^63

    # Zones fill up in the order of capacity / weight. In that order, a zone is full if the share it has in what those
    # before it leave exceeds its capacity. The last one never is: it takes exactly what is left.
    order = (capacity.double() / weight).argsort(dim=-1, stable=True)
    c, w = capacity.expand_as(order).gather(-1, order), weight.gather(-1, order)
    c_sum, w_sum = c.cumsum(-1), w.cumsum(-1)
    left = total - c_sum + c  # [..., Z] what the zones before leave
    divisor = w_sum[..., -1:] - w_sum + w  # [..., Z] the weight of the zones that share it
    full = (left * w > c * divisor).sum(-1, keepdim=True)  # how many are: the first ones
    left, divisor = left.gather(-1, full), divisor.gather(-1, full)

    # What is left goes to the zones that are not full: quotas rounded down, then one more to the largest remainders.
    # These are always fewer than the zones that have a remainder, so none goes beyond a capacity.
    product = left * weight
    quota = torch.div(product, divisor, rounding_mode="floor")
    remainder = (product - quota * divisor).masked_fill(quota >= capacity, 0)
    budget = torch.minimum(quota, capacity)
    missing = total - budget.sum(-1, keepdim=True)

    by_priority = priority.nan_to_num(nan=_LOWEST).argsort(dim=-1, descending=True, stable=True)
    by_remainder = remainder.gather(-1, by_priority).argsort(dim=-1, descending=True, stable=True)
    winners = by_priority.gather(-1, by_remainder)  # zones from most to least deserving
    place = torch.arange(budget.shape[-1], device=budget.device)
    return budget.scatter_add(-1, winners, (place < missing).long())


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
    return zones.seats.tokens(places(scores, zones.seats)).long()


def topk_per_zone(scores: Tensor, zones: Zones, budget: Tensor, k: int) -> Tensor:
    """The `budget` (B, Z) best tokens of each zone as (B, k) ascending indices; rows of `budget` sum to k."""
    kept = places(scores, zones.seats) < budget.flip(-1)[:, None]
    return ascending_indices(zones.seats.tokens(kept), k)


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
