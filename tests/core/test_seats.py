"""One selection over all seats equals budgets first and the best tokens of each zone second."""

import math
import random

import pytest
import torch

from gridprune.allocate import apportion, softmax_shares, topk_per_zone, zone_mean
from gridprune.seats import best_seats
from gridprune.token_map import TokenMap, Zones

from .maps import anyres

AWKWARD = [0.0, 0.25, 0.5, -1.0, math.nan]


def two_steps(scores, guide, zones, k, temperature, minimum):
    mean = zone_mean(guide, zones)
    most = len(zones.index)
    budgets = apportion(softmax_shares(mean, temperature), k, zones.size, mean, minimum, most=most, normalised=True)
    return topk_per_zone(scores, zones, budgets, k)


def random_zones(rng):
    kind = rng.choice(["grid", "ragged", "any", "anyres"])
    if kind == "grid":
        return TokenMap.from_grid(2 * rng.randint(1, 6), 2 * rng.randint(1, 6)).zones(2)
    if kind == "ragged":
        return TokenMap.from_grid(rng.randint(1, 9), rng.randint(1, 9)).zones(rng.randint(1, 6))
    if kind == "anyres":
        return anyres((4, 4), (2, 2), (3, 5), crop=(1, 2)).zones(rng.randint(1, 5))
    count = rng.randint(1, 6)
    index = torch.tensor([rng.randrange(count) for _ in range(rng.randint(1, 50))])
    return Zones(index, torch.bincount(index, minlength=count))  # with empty zones and zones that must be sorted


def test_equals_apportion_and_topk_per_zone():
    rng = random.Random(0)
    for _ in range(400):
        zones = random_zones(rng)
        n, batch = len(zones.index), rng.randint(1, 3)
        pool = rng.choice([AWKWARD, [0.5], [rng.uniform(-1, 1) for _ in range(200)]])
        scores, guide = (torch.tensor([[rng.choice(pool) for _ in range(n)] for _ in range(batch)]) for _ in "ab")
        minimum = rng.choice([0, 0, 1, 2])
        k = rng.choice([1, n, rng.randint(1, n)])
        minimum = minimum if sum(min(minimum, size) for size in zones.sizes) <= k else 0
        temperature = rng.choice([0.01, 0.05, 1.0, 100.0])
        indices = best_seats(scores, guide, zones, k, temperature, minimum)
        assert indices.dtype == torch.int64
        assert indices.tolist() == two_steps(scores, guide, zones, k, temperature, minimum).tolist()


@pytest.mark.parametrize("side", [128, 256])
def test_no_overflow_on_large_maps(side):
    """At 65,536 tokens every spare bit of the keys is used."""
    zones = TokenMap.from_grid(side, side).zones(2)
    torch.manual_seed(0)
    scores, guide = torch.rand(1, side * side), torch.randn(1, side * side)
    for k in (1, side * side // 9, side * side - 1, side * side):
        for temperature in (0.01, 1.0):
            found = best_seats(scores, guide, zones, k, temperature)
            assert torch.equal(found, two_steps(scores, guide, zones, k, temperature, 0))


def test_seats_turn_the_zones_round():
    rng = random.Random(1)
    for _ in range(100):
        zones = random_zones(rng)
        values = torch.rand(2, len(zones.index))
        table = zones.seats.lay(values, -1.0)
        assert torch.equal(table, zones.by_zone(values, fill=-1.0).flip(1).transpose(1, 2))
        assert torch.equal(zones.seats.tokens(table), values)
        assert torch.equal(zones.seats.size.flip(0), zones.size)
        assert zones.on(torch.device("meta")).seats.token.device.type == "meta"
