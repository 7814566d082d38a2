"""What zones get of a budget before it is rounded to whole tokens, the same on every device and in every batch.

Shares become whole numbers of 2^-32, quotas whole numbers of 2^-30 tokens, both held in fp64, which adds such numbers
exactly and in any order. Rounding hides the last bits of the softmax and of the one division in between. Exact for up
to 2^22 tokens.
"""

from __future__ import annotations

from torch import Tensor

_SHARE = float(1 << 32)
PART = float(1 << 30)  #: a token in units of a quota


def weigh(shares: Tensor) -> Tensor:
    """Shares (fp64, summing to 1) as whole numbers of at least 1: a vanishing share still takes what others leave."""
    return shares.mul(_SHARE).add_(1.0).floor_()


def level(weight: Tensor, left: Tensor) -> Tensor:
    """Quota per weight of the zones that do not fill up, (..., 1) fp64.

    If the zones in a set S are taken to be full, the others get (k - room of S) / (their weight) per weight. Handing
    out min(room, level * weight) in all is at most what any such set would, so the level is the largest of these
    ratios; zones fill up in the order of room / weight, so that the sets to look at are the ends of one sorted row.

    Args:
        weight: (..., Z) with room / weight descending.
        left: (..., Z), k minus the room of all zones behind each one, in the unit of the quotas.
    """
    return (left / weight.cumsum(-1)).amax(-1, keepdim=True)


def quotas(weight: Tensor, room: Tensor, surplus: int | Tensor) -> Tensor:
    """Every zone's part of k by weight, where no zone takes more than its room; (..., Z) fp64, in 2^-30 tokens.

    Args:
        weight: (..., Z), see :func:`weigh`.
        room: (..., Z) fp64, tokens that fit into each zone.
        surplus: k minus the room there is in all, 0 or less; a number, or (..., 1).
    """
    order = (room / weight).argsort(dim=-1, descending=True, stable=True)
    left = room.expand_as(order).gather(-1, order).cumsum(-1).add_(surplus).mul_(PART)
    share = weight * level(weight.gather(-1, order), left)
    return share.minimum(room * PART).round_()
