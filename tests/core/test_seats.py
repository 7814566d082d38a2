"""One selection over all seats equals budgets first and the best tokens of each zone second."""

import math
import random

import pytest
import torch

from gridprune.allocate import apportion, topk_per_zone
from gridprune.seats import best_seats, zone_shares
from gridprune.token_map import TokenMap, Zones

from .maps import anyres

AWKWARD = [0.0, 0.25, 0.5, -1.0, math.nan]


def two_steps(scores, relevance, zones, k, temperature, minimum, guide):
    shares = zone_shares(relevance, zones, temperature, guide)
    budgets = apportion(shares, k, zones.size, minimum=minimum, normalised=True)
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
        scores, relevance = (torch.tensor([[rng.choice(pool) for _ in range(n)] for _ in range(batch)]) for _ in "ab")
        minimum = rng.choice([0, 0, 1, 2])
        k = rng.choice([1, n, rng.randint(1, n)])
        minimum = minimum if sum(min(minimum, size) for size in zones.sizes) <= k else 0
        temperature = rng.choice([0.01, 0.05, 1.0, 100.0])
        for guide in ("mean", "mass"):
            indices = best_seats(scores, relevance, zones, k, temperature, minimum, guide)
            assert indices.dtype == torch.int64
            assert indices.tolist() == two_steps(scores, relevance, zones, k, temperature, minimum, guide).tolist()


@pytest.mark.parametrize("side", [128, 256])
def test_no_overflow_on_large_maps(side):
    """At 65,536 tokens every spare bit of the keys is used."""
    zones = TokenMap.from_grid(side, side).zones(2)
    torch.manual_seed(0)
    scores, relevance = torch.rand(1, side * side), torch.randn(1, side * side)
    for k in (1, side * side // 9, side * side - 1, side * side):
        for temperature in (0.01, 1.0):
            found = best_seats(scores, relevance, zones, k, temperature)
            assert torch.equal(found, two_steps(scores, relevance, zones, k, temperature, 0, "mean"))
