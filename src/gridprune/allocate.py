"""From scores to integers: zone shares, zone budgets, and the best tokens of each zone.

Everything here is batched tensor code without Python loops over zones or tokens and without a host synchronisation, so
that it may run inside a captured graph. Budgets are computed in *integer* arithmetic: they do not depend on the device,
the batch or the order of a floating-point sum, and tensor-parallel ranks agree.
"""

from __future__ import annotations

import torch
from torch import Tensor

_LOWEST = float("-inf")


def zone_mean(values: Tensor, zone: Tensor, size: Tensor) -> Tensor:
    """Mean of `values` (B, N) in every zone, fp32 (B, Z). An empty zone has mean 0.

    Args:
        values: (B, N) floating point.
        zone: (N,) int64, the zone of each token, in [0, Z).
        size: (Z,) int64, tokens per zone.
    """
    total = values.new_zeros(values.shape[0], size.shape[0], dtype=torch.float64)
    total.index_add_(1, zone, values.double())
    return (total / size.clamp(min=1)).float()


def softmax_shares(relevance: Tensor, temperature: float, size: Tensor) -> Tensor:
    """P_j = softmax_j(relevance / temperature) over the zones that hold a token; fp64 (B, Z), rows sum to 1."""
    logits = relevance.double().nan_to_num(nan=_LOWEST) / temperature
    return torch.softmax(logits.masked_fill(size == 0, _LOWEST), dim=-1).nan_to_num(nan=0.0)


def apportion(shares: Tensor, total: int, capacity: Tensor, priority: Tensor, minimum: int = 0) -> Tensor:
    """Capped largest remainder: integers that follow `shares`, never exceed `capacity`, and sum to `total` exactly.

    The rule, in words: every zone first gets ``min(minimum, capacity)``. The rest is split in proportion to the shares;
    a zone whose quota reaches its capacity is filled, and what it leaves is split again among the others by the same
    rule. Quotas are rounded down, and the tokens still missing go to the largest remainders; ties go to the larger
    `priority`, then to the earlier zone.

    Shares are quantised to at least 2^-44 (plus one unit, so that a zone with a vanishing share still takes tokens when
    every other zone is full); from there on all arithmetic is exact in int64.

    Args:
        shares: (B, Z) non-negative, any scale.
        total: tokens to hand out, ``minimum * Z <= total <= capacity.sum()`` (the caller checks; no sync here).
        capacity: (Z,) int64, tokens per zone.
        priority: (B, Z) breaks ties between equal remainders, larger first.
        minimum: tokens that every non-empty zone gets first.

    Returns:
        (B, Z) int64 budgets.
    """
    first = capacity.clamp(max=minimum)
    rest = total - first.sum()  # 0-dim tensor: stays on the device
    room = torch.minimum(capacity - first, rest)  # [Z]; the bound by `rest` keeps the products below 2^62

    bits = min(50, 62 - max(total, 1).bit_length())
    shares = shares.double().nan_to_num(nan=0.0, posinf=0.0).clamp(min=0)
    scale = shares.sum(-1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
    weight = (shares / scale * (1 << bits)).long() + 1  # [B, Z]
    weight = weight.masked_fill(room == 0, 0)

    # Zones fill up in the order of room/weight. Walking that order, zone m is full if its quota out of what the
    # zones before it left (rest_m) is at least its room: rest_m * w_m >= room_m * W_m.
    order = (room / weight.clamp(min=1).double()).argsort(dim=-1, stable=True)  # [B, Z]
    w, r = weight.gather(-1, order), room.expand_as(weight).gather(-1, order)
    rest_m = rest - (r.cumsum(-1) - r)
    weight_m = w.sum(-1, keepdim=True) - (w.cumsum(-1) - w)
    full = (rest_m > 0) & (rest_m * w >= r * weight_m) & (r > 0) | (r == 0)
    full = full.long().cumprod(-1).bool()

    left = rest - (r * full).sum(-1, keepdim=True)  # [B, 1] for the zones that are not full
    w = w.masked_fill(full, 0)
    divisor = w.sum(-1, keepdim=True).clamp(min=1)
    quota = torch.minimum(left * w // divisor, r)
    remainder = (left * w % divisor).masked_fill(full | (quota >= r), -1)
    quota = torch.where(full, r, quota)

    budget = torch.zeros_like(weight).scatter(-1, order, quota)
    remainder = torch.zeros_like(weight).scatter(-1, order, remainder)
    missing = rest - budget.sum(-1, keepdim=True)
    by_priority = priority.double().nan_to_num(nan=_LOWEST).argsort(dim=-1, descending=True, stable=True)
    ranked = remainder.gather(-1, by_priority).argsort(dim=-1, descending=True, stable=True)
    winners = by_priority.gather(-1, ranked)  # zones from most to least deserving
    place = torch.arange(weight.shape[-1], device=weight.device).expand_as(weight)
    bonus = torch.zeros_like(weight).scatter(-1, winners, (place < missing).long())
    return first + budget + bonus


def rank_in_zone(scores: Tensor, zone: Tensor, size: Tensor) -> Tensor:
    """Place of every token among its zone by descending score, ties to the earlier token; int64 (B, N). NaN comes last."""
    by_score = scores.float().nan_to_num(nan=_LOWEST).argsort(dim=-1, descending=True, stable=True)
    by_zone = zone[by_score].argsort(dim=-1, stable=True)
    order = by_score.gather(-1, by_zone)  # tokens zone by zone, best first
    start = (size.cumsum(0) - size)[zone]  # [N]
    place = torch.arange(scores.shape[-1], device=scores.device).expand_as(order)
    return torch.zeros_like(order).scatter(-1, order, place) - start


def topk_per_zone(scores: Tensor, zone: Tensor, size: Tensor, budget: Tensor, k: int) -> Tensor:
    """The `budget` best tokens of each zone as (B, k) ascending unique int64 indices; `budget` sums to `k` in each row."""
    return ascending_indices(rank_in_zone(scores, zone, size) < budget[:, zone], k)


def topk(scores: Tensor, k: int) -> Tensor:
    """The `k` best tokens of (B, N) as ascending unique int64 indices; ties to the earlier token, NaN last."""
    order = scores.float().nan_to_num(nan=_LOWEST).argsort(dim=-1, descending=True, stable=True)
    return order[..., :k].sort(dim=-1).values


def ascending_indices(mask: Tensor, k: int) -> Tensor:
    """Indices of the `k` true entries of each row of `mask` (B, N), ascending, without a host synchronisation."""
    return (~mask).to(torch.uint8).argsort(dim=-1, stable=True)[..., :k]


def minmax(values: Tensor) -> Tensor:
    """Each row of (B, N) scaled to [0, 1] in fp32; a constant row becomes 0."""
    values = values.float()
    low, high = values.amin(-1, keepdim=True), values.amax(-1, keepdim=True)
    return torch.where(high > low, (values - low) / (high - low).clamp(min=torch.finfo(torch.float32).tiny), 0.0)


def rank01(values: Tensor) -> Tensor:
    """Each row of (B, N) replaced by its ranks scaled to [0, 1], ties in token order; fp32."""
    order = values.float().nan_to_num(nan=_LOWEST).argsort(dim=-1, stable=True)
    place = torch.arange(values.shape[-1], device=values.device, dtype=torch.float32).expand_as(order)
    return torch.zeros_like(place).scatter(-1, order, place) / max(values.shape[-1] - 1, 1)


def zscore(values: Tensor) -> Tensor:
    """Each row of (B, N) centred and divided by its standard deviation (population), fp32; a constant row becomes 0."""
    values = values.float()
    centred = values - values.mean(-1, keepdim=True)
    deviation = centred.pow(2).mean(-1, keepdim=True).sqrt()
    floor = 1e-6 * values.abs().amax(-1, keepdim=True) + torch.finfo(torch.float32).tiny
    return torch.where(deviation > floor, centred / deviation.clamp(min=torch.finfo(torch.float32).tiny), 0.0)
