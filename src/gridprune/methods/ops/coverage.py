"""Greedy coverage inside zones: what each token adds to those picked before it in its zone."""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.token_map import Zones

_TIE = 1e-9  # gains that differ by less, relatively, differ by rounding


def marginal_gains(unit: Tensor, weights: Tensor, zones: Zones, k: int) -> Tensor:
    """(B, N) fp64: the gain of every token when its turn came in its zone, and a rest of 0 for those without a turn.

    Picked one after the other is the token of the largest gain, sum_i w_i max(0, cos_ij - c_i) over the zone, with c_i
    the largest cosine of i with those picked; ties go to the earlier token. No zone takes more than k turns.

    Args:
        unit: (B, N, D) fp64 features of length 1.
        weights: (B, N) fp64 >= 0.
    """
    places = unit.index_select(1, zones.members).unflatten(1, (zones.count, zones.most))  # [B, Z, M, D]
    cosine = places @ places.mT
    weight, free = zones.by_zone(weights, fill=0.0), torch.ones_like(weights, dtype=torch.bool)
    free = zones.by_zone(free, fill=False)
    rest = cosine.clamp(min=0) * weight[..., :, None]  # what token i of the row would be covered by more, weighed
    gains, number = torch.zeros_like(weight), torch.arange(zones.most, device=unit.device)
    for _ in range(min(zones.most, k)):
        total = rest.sum(-2).masked_fill(~free, -1.0)
        best = total.amax(-1, keepdim=True)
        place = number.where(total >= best * (1 - _TIE), zones.most).amin(-1, keepdim=True)  # the first of equal ones
        turn = (number == place) & free
        gains = torch.where(turn, best, gains)
        free = free & ~turn
        picked = place.clamp(max=zones.most - 1)[..., None, :].expand_as(rest[..., :1])
        rest = (rest - rest.gather(-1, picked)).clamp(min=0)
    return zones.by_token(gains)
