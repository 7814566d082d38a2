"""From zone shares to integer budgets, and from budgets to the best tokens of each zone.

Everything here is batched tensor code without Python loops over zones or tokens and without a host synchronisation, so
that it may run inside a captured graph. Budgets are computed in fixed point: shares become whole numbers of 2^-32 and
quotas whole numbers of 2^-30 tokens, both held in fp64, which adds such numbers exactly and in any order. So budgets do
not depend on the device, the batch or the order of a floating-point sum, and tensor-parallel ranks agree. Exact for up
to 2^22 tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .scores import ascending_indices

if TYPE_CHECKING:
    from .token_map import Zones

_LOWEST = float("-inf")
_SHARE = float(1 << 32)
_PART = float(1 << 30)  # a token in units of a quota


def apportion(
    shares: Tensor, total: int | Tensor, capacity: Tensor, priority: Tensor | None = None, minimum: int = 0
) -> Tensor:
    """Capped largest remainder: integers that follow `shares`, never exceed `capacity`, and sum to `total` exactly.

    The rule, in words: every zone first gets ``min(minimum, capacity)``. The rest is split in proportion to the shares;
    a zone whose quota reaches its capacity is filled, and what it leaves is split again among the others by the same
    rule. Quotas are rounded down, and the tokens still missing go to the largest remainders; ties go to the larger
    `priority`, then to the earlier zone. A zone with a vanishing share still takes tokens when every other zone is
    full.

    Args:
        shares: (..., Z) of any scale; what is negative, NaN or infinite counts as 0, and nothing but 0 as equal shares.
        total: tokens to hand out, ``capacity.clamp(max=minimum).sum() <= total <= capacity.sum()`` in every row (the
            caller checks; no sync here), at most 2^22. An integer, or int64 (..., 1) for totals that differ by row.
        capacity: (Z,) or (..., Z) int64, tokens per zone.
        priority: (..., Z) breaks ties between equal remainders, larger first, NaN last.
        minimum: tokens that every non-empty zone gets first.

    Returns:
        (..., Z) int64 budgets.
    """
    room = capacity if isinstance(total, Tensor) else capacity.clamp(max=total)  # so that no sum exceeds 2^22 a zone
    surplus = total - room.sum(-1, keepdim=True)
    first = room.clamp(max=minimum) if minimum else None
    quota = _quotas(_weights(shares), (room if first is None else room - first).double(), surplus)
    whole = quota.div(_PART).floor_()  # one more goes to the largest remainders, of which there are enough
    remainder = quota.sub_(whole, alpha=_PART)
    whole = whole if first is None else whole.add_(first)
    missing = total - whole.sum(-1, keepdim=True)
    if priority is None:
        winners = remainder.argsort(dim=-1, descending=True, stable=True)
    else:
        by_priority = priority.nan_to_num(nan=_LOWEST).argsort(dim=-1, descending=True, stable=True)
        by_remainder = remainder.gather(-1, by_priority).argsort(dim=-1, descending=True, stable=True)
        winners = by_priority.gather(-1, by_remainder)  # zones from most to least deserving
    place = torch.arange(winners.shape[-1], device=winners.device)
    return whole.long().scatter_add_(-1, winners, (place < missing).long())


def _weights(shares: Tensor) -> Tensor:
    """Whole numbers in fp64 that follow the shares and sum to about 2^32; at least 1, so that a zone takes what others
    leave."""
    values = shares.double().nan_to_num(nan=0.0, posinf=0.0, neginf=0.0).clamp_(min=0)
    highest = values.amax(-1, keepdim=True)
    values = torch.where(highest > 0, values / highest, 1.0)
    return values.div_(values.sum(-1, keepdim=True)).mul_(_SHARE).add_(1.0).floor_()


def _quotas(weight: Tensor, room: Tensor, surplus: Tensor) -> Tensor:
    """Every zone's part of the total by weight, where no zone takes more than its room; (..., Z) fp64, in 2^-30 tokens.

    If the zones in a set S are taken to be full, the others get (total - room of S) / (their weight) per weight.
    Handing out min(room, level * weight) in all is at most what any such set would, so the level is the largest of
    these ratios; zones fill up in the order of room / weight, so that the sets to look at are the ends of one sorted
    row.

    Args:
        weight: (..., Z) whole numbers of at least 1.
        room: (..., Z) fp64, tokens that fit into each zone.
        surplus: (..., 1) the total minus the room there is in all, 0 or less.
    """
    order = (room / weight).argsort(dim=-1, descending=True, stable=True)
    left = room.expand_as(order).gather(-1, order).cumsum(-1).add_(surplus).mul_(_PART)
    level = (left / weight.gather(-1, order).cumsum(-1)).amax(-1, keepdim=True)
    return (weight * level).minimum(room * _PART).round_()


def shared_out(total: int, shares: Sequence[int], capacity: Sequence[int]) -> list[int]:
    """:func:`apportion` in plain integers, without priorities: for a handful of parts, which take no kernel."""
    parts, left = [0] * len(shares), list(range(len(shares)))
    while full := [i for i in left if capacity[i] * sum(shares[j] for j in left) <= total * shares[i]]:
        for i in full:
            parts[i] = capacity[i]
            total -= capacity[i]
            left.remove(i)
    whole = sum(shares[i] for i in left)
    for i in left:
        parts[i] = total * shares[i] // whole
    missing = total - sum(parts[i] for i in left)
    for i in sorted(left, key=lambda i: -(total * shares[i] % whole))[:missing]:
        parts[i] += 1
    return parts


def equal_parts(total: int, capacity: Sequence[int]) -> list[int]:
    """:func:`shared_out` with equal shares."""
    return shared_out(total, [1] * len(capacity), capacity)


def topk_per_zone(scores: Tensor, zones: Zones, budget: Tensor, k: int) -> Tensor:
    """The `budget` (B, Z) best tokens of each zone as (B, k) ascending indices; rows of `budget` sum to k.

    Ties go to the earlier token; NaN comes last.
    """
    return ascending_indices(zones.by_token(_rank(scores, zones) < budget[..., None]), k)


def rank_in_zone(scores: Tensor, zones: Zones) -> Tensor:
    """Place of every token in its zone by descending score, ties to the earlier token; int64 (B, N). NaN comes last."""
    return zones.by_token(_rank(scores, zones))


def _rank(scores: Tensor, zones: Zones) -> Tensor:
    """(B, Z, M) int64: which place among its zone's best the token at each place has."""
    table = zones.by_zone(scores.float().nan_to_num(nan=_LOWEST), fill=_LOWEST)
    order = table.argsort(dim=-1, descending=True, stable=True)
    return torch.empty_like(order).scatter_(-1, order, torch.arange(zones.most, device=order.device).expand_as(order))
