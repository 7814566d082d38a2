"""The tokens that capped largest remainder gives to zones, found in one selection over all tokens.

:func:`gridprune.allocate.apportion` rounds a zone's quota q to a budget, and :func:`gridprune.allocate.topk_per_zone`
takes that many tokens. Both at once are a single top-k: the p-th best token of a zone (p = 0, 1, ...) gets the key
q - p. Keys of at least 1 are the quotas rounded down, those between 0 and 1 the remainders, so the k largest keys are
exactly the tokens chosen. Keys are whole numbers in fp64, and made unique by the order in which zones win ties, so that
nothing depends on how a device sorts equal values.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from .quotas import PART, level, quotas, weigh
from .token_map import Zones

Guide = Literal["mean", "mass"]

_LOWEST = float("-inf")
_FAR = -1e20  # stands for tokens that do not exist or are NaN; unlike -inf, it can be subtracted from itself


def best_seats(
    scores: Tensor,
    relevance: Tensor,
    zones: Zones,
    k: int,
    temperature: float | Tensor,
    minimum: int = 0,
    guide: Guide = "mean",
) -> Tensor:
    """The best tokens of each zone, as many as its share of `k` gives it.

    Equal to :func:`~gridprune.allocate.topk_per_zone` with the budgets of :func:`~gridprune.allocate.apportion` for
    :func:`zone_shares`.

    Args:
        scores: (B, N); the larger ones of a zone win, ties go to the earlier token, NaN comes last.
        relevance: (B, N) fp32, what the shares follow.
        zones: a partition of the N tokens; N below 2^22.
        k: ``zones.size.clamp(max=minimum).sum() <= k <= N``; the caller checks.
        temperature: tau > 0 of the softmax; a number, or (B, 1) fp32.
        minimum: tokens that every non-empty zone gets first.
        guide: what stands for a zone, the mean of its relevance or its part of a softmax over all
            tokens; see :func:`zone_logits`.

    Returns:
        (B, k) int64 ascending token indices.
    """
    order = best_first(scores, zones)
    quota = _quotas(zone_shares(relevance, zones, temperature, guide), zones, k, minimum)
    key = torch.add(zones.ladder(PART), quota.unsqueeze(-1), alpha=zones.count)
    # The k largest are positive; such numbers sort like their bits, which is faster.
    chosen = key.view(torch.int64).flatten(1).topk(k, dim=-1, sorted=False).indices
    token = zones.members.view(1, zones.count, -1).expand_as(order).gather(-1, order)
    return token.flatten(1).gather(-1, chosen).sort(dim=-1).values


def best_first(scores: Tensor, zones: Zones) -> Tensor:
    """(B, Z, M) int64: the places of each zone in :attr:`Zones.members` by descending score.

    Ties go to the earlier token; NaN comes last, but before places without a token.
    """
    table = zones.by_zone(scores.float().nan_to_num(nan=_LOWEST), fill=_LOWEST)
    return table.argsort(dim=-1, descending=True, stable=True)


def zone_shares(values: Tensor, zones: Zones, temperature: float | Tensor, guide: Guide) -> Tensor:
    """Softmax of :func:`zone_logits` over the zones, (B, Z) fp64; empty zones get 0."""
    if guide == "mean":
        return torch.softmax(zone_logits(values, zones, temperature, guide), dim=-1)
    share = torch.softmax(_cleaned(values).div_(temperature), dim=-1)
    return zones.by_zone(share, fill=0.0).sum(-1, dtype=torch.float64)  # exact, in whatever order


def zone_logits(values: Tensor, zones: Zones, temperature: float | Tensor, guide: Guide) -> Tensor:
    """Logits of the zones' shares of the budget, (B, Z) fp64; hardly anything where a zone is empty.

    "mean": the mean of a zone over the temperature. "mass": the logarithm of its sum of exp(v / temperature), so that
    a softmax over zones is the part of a softmax over all *tokens* that falls into each zone: one token that answers
    the question counts in full, however little is around it.

    Logits are rounded to fp32, so that the order of summing does not show.

    Args:
        values: (B, N) fp32. A token that is NaN or infinite is worth nothing, and makes a zone's mean worth nothing.
        temperature: above 0; a number, or (B, 1) fp32.
    """
    logits = _cleaned(values).double().div_(temperature)
    if guide == "mean":
        mean = zones.by_zone(logits, fill=0.0).sum(-1).div_(zones.size)
        return mean.float().double().nan_to_num_(nan=_FAR, neginf=_FAR)
    return zones.by_zone(logits, fill=_FAR).logsumexp(-1).float().double()


def _cleaned(values: Tensor) -> Tensor:
    return values.nan_to_num(nan=_FAR, posinf=_FAR, neginf=_FAR)


def _quotas(shares: Tensor, zones: Zones, k: int, minimum: int) -> Tensor:
    """(B, Z) fp64, as :func:`gridprune.quotas.quotas`, tokens of the minimum included."""
    weight = weigh(shares)
    surplus, first = k - len(zones.index), min(minimum, zones.most)
    if zones.absent is not None:
        taken = zones.size.clamp(max=first)
        return quotas(weight, (zones.size - taken).double(), surplus).add_(taken, alpha=PART)
    # All zones have the same room: they fill up in the order of their weights, and what is left is known beforehand.
    room = zones.most - first
    quota = weight * level(weight.sort(dim=-1).values, zones.left(room, surplus, PART))
    quota = quota.clamp_(max=room * PART).round_()
    return quota.add_(first * PART) if first else quota
