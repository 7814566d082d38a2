"""The tokens that capped largest remainder gives to zones, found in one selection over all tokens.

:func:`gridprune.allocate.apportion` rounds a zone's quota q to a budget, and :func:`gridprune.allocate.topk_per_zone`
takes that many tokens. Both at once are a single top-k: the p-th best token of a zone (p = 0, 1, ...) gets the key
q - p. Keys of at least 1 are the quotas rounded down, those between 0 and 1 the remainders, so the k largest keys are
exactly the tokens chosen. The keys are integers over one denominator, and made unique by the order in which zones win
ties, so that nothing depends on how a device sorts equal values.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .token_map import Seats, Zones

_LOWEST = float("-inf")
_FEW = 16  # tokens of a zone up to which all pairs are compared; larger zones are sorted


def best_seats(
    scores: Tensor, guide: Tensor, zones: Zones, k: int, temperature: float, minimum: int = 0
) -> tuple[Tensor, Tensor]:
    """The best tokens of each zone, as many as its softmax share of `k` gives it.

    Equal to :func:`~gridprune.allocate.topk_per_zone` with the budgets of :func:`~gridprune.allocate.apportion` for
    :func:`~gridprune.allocate.softmax_shares` of `guide`, which also breaks ties between zones.

    Args:
        scores: (B, N); the larger ones of a zone win, ties go to the earlier token, NaN comes last.
        guide: (B, N) fp32; the mean over a zone is what the zone's share follows. NaN is worth nothing.
        k: ``zones.size.clamp(max=minimum).sum() <= k <= N``; the caller checks.
        temperature: tau > 0 of the softmax over zones.
        minimum: tokens that every non-empty zone gets first.

    Returns:
        (B, k) int64 ascending token indices, and (B, Z) int64 budgets, rows sum to `k`.
    """
    seats = zones.seats
    place = places(scores, seats)
    key = _keys(place, _zone_means(guide, seats), zones, k, temperature, minimum)
    chosen = key.flatten(1).topk(k, dim=-1, sorted=False).indices
    indices = seats.token.take(chosen).sort(dim=-1).values
    zone = zones.index.take(indices)
    budgets = zone.new_zeros(zone.shape[0], zones.count).scatter_add_(1, zone, torch.ones_like(zone))
    return indices, budgets


def _zone_means(values: Tensor, seats: Seats) -> Tensor:
    """(B, 1, Z) fp64, rounded to fp32 so that no order of summing shows; NaN for empty zones."""
    sums = seats.lay(values, 0.0).sum(1, keepdim=True, dtype=torch.float64)
    return sums.div_(seats.size).float().double()


def places(scores: Tensor, seats: Seats) -> Tensor:
    """Place of every token in its zone by descending score, ties to the earlier token, NaN last; (B, M, Z) integers."""
    table = seats.lay(scores.float().nan_to_num(nan=_LOWEST), _LOWEST)
    if seats.rows > _FEW:
        order = table.argsort(dim=1, descending=True, stable=True)
        row = torch.arange(seats.rows, device=table.device)[:, None]
        return torch.zeros_like(order).scatter_(1, order, row.expand_as(order))
    # Of each pair of rows i < j, one passes the other. uint8 arithmetic wraps around, and what it sums up is below M.
    passes = (table[:, :, None] >= table[:, None]).view(torch.uint8).mul_(seats.earlier)  # [B, i, j, Z]
    return passes.sum(1, dtype=torch.uint8).sub_(passes.sum(2, dtype=torch.uint8)).add_(seats.behind)


def _keys(place: Tensor, mean: Tensor, zones: Zones, k: int, temperature: float, minimum: int) -> Tensor:
    """(B, M, Z) int64: Z (q - p) over the common denominator, plus a number below Z that is larger for better zones.

    From `weight` on everything is exact: no product exceeds 2^62.
    """
    seats, count, most = zones.seats, zones.count, zones.most
    lowest = torch.finfo(torch.float64).min
    logit, order = mean.div_(temperature).nan_to_num_(nan=lowest).sort(dim=-1, stable=True)  # zones, worst first
    unit = float(1 << min(50, 62 - (count * most).bit_length()))
    weight = torch.softmax(logit, dim=-1).mul_(unit).long().add_(1)
    first = min(minimum, most)
    size = most if seats.absent is None else seats.size.take(order)
    room = size - first if isinstance(size, int) else size.sub(first).clamp_(min=0)
    left, divisor = _level(weight, room, k - len(zones.index), seats)
    key = torch.minimum(left * weight, divisor * room)
    if first:
        key += divisor * (size - room)
    key = key.mul_(count).add_(seats.zone)
    return key.scatter(-1, order, key) - place * (divisor * count)


def _level(weight: Tensor, room: Tensor | int, surplus: int, seats: Seats) -> tuple[Tensor, Tensor]:
    """What the zones that are not full share, as tokens left over total weight; two (B, 1, 1) int64.

    Zones fill up in the order of room / weight. In that order, a zone is full if the share it has in what those before
    it leave exceeds its room. The zones are looked at from the other end, so that running sums are of those behind.

    Args:
        weight: (B, 1, Z) in ascending order.
        room: tokens that fit into every zone; (B, 1, Z), or one number for all.
        surplus: tokens to hand out minus the room there is, 0 or less.
    """
    if isinstance(room, int):
        left = seats.zone * room + (room + surplus)
    else:
        by = (room.double() / weight).argsort(dim=-1, descending=True, stable=True)
        weight, room = weight.gather(-1, by), room.gather(-1, by)
        left = room.cumsum(-1) + surplus
    divisor = weight.cumsum(-1)
    last = (left * weight <= divisor * room).sum(-1, keepdim=True) - 1
    return left.expand_as(divisor).gather(-1, last), divisor.gather(-1, last)
