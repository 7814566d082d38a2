"""The tokens that capped largest remainder gives to zones, found in one selection over all tokens.

:func:`gridprune.allocate.apportion` rounds a zone's quota q to a budget, and :func:`gridprune.allocate.topk_per_zone`
takes that many tokens. Both at once are a single top-k: the p-th best token of a zone (p = 0, 1, ...) gets the key
q - p. Keys of at least 1 are the quotas rounded down, those between 0 and 1 the remainders, so the k largest keys are
exactly the tokens chosen. The keys are integers over one denominator, and made unique by the order in which zones win
ties, so that nothing depends on how a device sorts equal values.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from .token_map import Seats, Zones

Guide = Literal["mean", "mass"]

_LOWEST = float("-inf")
_FAR = -1e30  # stands for tokens that do not exist; unlike -inf, it can be subtracted from itself


def best_seats(
    scores: Tensor,
    relevance: Tensor,
    zones: Zones,
    k: int,
    temperature: float | Tensor,
    minimum: int = 0,
    guide: Guide = "mean",
) -> Tensor:
    """The best tokens of each zone, as many as its softmax share of `k` gives it.

    Equal to :func:`~gridprune.allocate.topk_per_zone` with the budgets of :func:`~gridprune.allocate.apportion` for
    :func:`~gridprune.allocate.softmax_shares` of the zones' guide, which also breaks ties between zones.

    Args:
        scores: (B, N); the larger ones of a zone win, ties go to the earlier token, NaN comes last.
        relevance: (B, N) fp32, what the shares follow. A zone with a NaN is worth nothing.
        k: ``zones.size.clamp(max=minimum).sum() <= k <= N``; the caller checks.
        temperature: tau > 0 of the softmax; a number, or (B, 1, 1) fp64.
        minimum: tokens that every non-empty zone gets first.
        guide: what stands for a zone, the mean of its relevance or its part of a softmax over all
            tokens; see :func:`zone_logits`.

    Returns:
        (B, k) int64 ascending token indices.
    """
    seats = zones.seats
    place = places(scores, seats)
    logits = zone_logits(relevance, seats, temperature, guide)
    key = _keys(place, logits, zones, k, minimum)
    chosen = key.flatten(1).topk(k, dim=-1, sorted=False).indices
    return seats.token.take(chosen).sort(dim=-1).values


def zone_logits(values: Tensor, seats: Seats, temperature: float | Tensor, guide: Guide) -> Tensor:
    """Logits of the zones' shares of the budget, (B, 1, Z) fp64; NaN, or hardly anything, where a zone is empty.

    "mean": the mean of a zone over the temperature. "mass": the logarithm of its sum of exp(v / temperature), so that
    a softmax over zones is the part of a softmax over all *tokens* that falls into each zone: one token that answers
    the question counts in full, however little is around it.

    Sums are rounded to fp32, so that the order of summing does not show.

    Args:
        values: (B, N) fp32; a zone with a NaN has the logit NaN.
        temperature: above 0; a number, or (B, 1, 1) fp64.
    """
    if guide == "mean":
        sums = seats.lay(values, 0.0).sum(1, keepdim=True, dtype=torch.float64)
        return sums.div_(seats.size).float().double().div_(temperature)
    logits = seats.lay(values, _FAR).double().div_(temperature)
    highest = logits.amax(1, keepdim=True)
    return logits.sub_(highest).exp_().sum(1, keepdim=True).log_().add_(highest).float().double()


def places(scores: Tensor, seats: Seats) -> Tensor:
    """Place of every token in its zone by descending score, ties to the earlier token, NaN last; (B, M, Z) int64."""
    table = seats.lay(scores.float().nan_to_num(nan=_LOWEST), _LOWEST)
    if seats.pairs is None:
        order = table.argsort(dim=1, descending=True, stable=True)
        row = torch.arange(seats.rows, device=table.device)[:, None]
        return torch.zeros_like(order).scatter_(1, order, row.expand_as(order))
    pairs = seats.pairs
    wins = table.index_select(1, pairs.earlier).ge_(table.index_select(1, pairs.later))  # [B, P, Z], 1 or 0
    return torch.baddbmm(pairs.behind, pairs.moved.expand(len(wins), -1, -1), wins).long()


def _keys(place: Tensor, logits: Tensor, zones: Zones, k: int, minimum: int) -> Tensor:
    """(B, M, Z) int64: Z (q - p) over the common denominator, plus a number below Z that is larger for better zones.

    From `weight` on everything is exact: no product exceeds 2^62.
    """
    seats, count, most = zones.seats, zones.count, zones.most
    lowest = torch.finfo(torch.float64).min
    logit, order = logits.nan_to_num_(nan=lowest).sort(dim=-1, stable=True)  # zones, worst first
    unit = float(1 << min(50, 62 - (count * most).bit_length()))
    weight = torch.softmax(logit, dim=-1).mul_(unit).long().add_(1)
    first = min(minimum, most)
    size = most if seats.absent is None else seats.size.take(order)
    room = size - first if isinstance(size, int) else size.sub(first).clamp_(min=0)
    left, divisor = _level(weight, room, k - len(zones.index), seats)
    key = torch.minimum(left * weight, divisor * room)
    if first:
        key += divisor * (size - room)
    key = torch.add(seats.zone, key, alpha=count)
    return torch.addcmul(key.scatter(-1, order, key), place, divisor, value=-count)


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
    fits = left * weight <= divisor * room  # the first one always does
    last = fits[..., 1:].sum(-1, keepdim=True)
    return left.expand_as(divisor).gather(-1, last), divisor.gather(-1, last)
