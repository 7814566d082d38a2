"""Shares, budgets and the best tokens of each zone, against loops over integers and Fractions."""

import math
import random
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gridprune.core import allocate
from gridprune.core import scores as scores_of
from gridprune.core.token_map import Zones
from rounding import bound

from . import reference

AWKWARD = [math.nan, math.inf, -math.inf, 0.0, -0.0, 1.0, -1.0, reference.FLOAT_MAX, -reference.FLOAT_MAX, 1e-45]


def zones_of(index, count):
    index = torch.tensor(index)
    return Zones(index, torch.bincount(index, minlength=count))


def dyadic_shares(rng, count):
    """`count` integers that sum to 2^20: their shares are exact in floating point."""
    kind = rng.choice(["any", "few", "peaked", "tiny", "equal"])
    if kind == "equal":
        raw = [1] * count
    elif kind == "few":
        raw = [rng.choice([0, 1, 1, 2, 3]) for _ in range(count)]
    elif kind == "peaked":
        raw = [2 ** rng.randrange(0, 20) for _ in range(count)]
    elif kind == "tiny":
        raw = [0] * count
        raw[rng.randrange(count)] = 1
    else:
        raw = [rng.randrange(1000) for _ in range(count)]
    raw = raw if sum(raw) else [1] * count
    shares = [r * 2**20 // sum(raw) for r in raw]
    shares[max(range(count), key=lambda j: shares[j])] += 2**20 - sum(shares)
    return [s / 2**20 for s in shares]


def test_apportion_equals_the_reference():
    rng = random.Random(1)
    for _ in range(2000):
        count = rng.randrange(1, 12)
        capacity = [rng.choice([0, 1, 2, 4, 4, 4, 9, rng.randrange(60)]) for _ in range(count)]
        if not sum(capacity):
            continue
        minimum = rng.choice([0, 0, 0, 1, 2])
        least = sum(min(minimum, c) for c in capacity)
        total = rng.choice([rng.randint(least, sum(capacity)), sum(capacity), least, max(least, sum(capacity) - 1)])
        batch = rng.randrange(1, 3)
        shares = [dyadic_shares(rng, count) for _ in range(batch)]
        priority = [[rng.choice([0.0, 0.25, -1.0, rng.random(), math.nan]) for _ in range(count)] for _ in range(batch)]
        priority = torch.tensor(priority, dtype=torch.float32)
        got = allocate.apportion(
            torch.tensor(shares, dtype=torch.float64), total, torch.tensor(capacity), priority, minimum
        )
        assert got.dtype == torch.int64
        for row, share, prior in zip(got.tolist(), shares, priority.tolist()):
            assert row == reference.apportion(reference.weights(share), total, capacity, prior, minimum)
            assert sum(row) == total
            assert all(min(minimum, c) <= b <= c for b, c in zip(row, capacity))


def test_apportion_with_a_total_and_capacities_per_row():
    rng = random.Random(2)
    for _ in range(400):
        count, rows = rng.randrange(1, 8), rng.randrange(1, 4)
        capacity = [[rng.randrange(0, 9) for _ in range(count)] for _ in range(rows)]
        totals = [rng.randint(0, sum(c)) for c in capacity]
        shares = [dyadic_shares(rng, count) for _ in range(rows)]
        got = allocate.apportion(
            torch.tensor(shares, dtype=torch.float64), torch.tensor(totals)[:, None], torch.tensor(capacity)
        )
        for row, share, total, caps in zip(got.tolist(), shares, totals, capacity):
            assert row == reference.apportion(reference.weights(share), total, caps, [0.0] * count)


@given(
    st.lists(st.tuples(st.floats(width=64), st.integers(0, 20)), min_size=1, max_size=20),
    st.floats(0, 1),
    st.sampled_from([0, 1]),
)
def test_apportion_takes_any_shares(zones, part, minimum):
    shares, capacity = zip(*zones)
    least = sum(min(minimum, c) for c in capacity)
    total = least + round(part * (sum(capacity) - least))
    shares = torch.tensor([shares], dtype=torch.float64)
    budget = allocate.apportion(shares, total, torch.tensor(capacity), minimum=minimum)[0].tolist()
    assert sum(budget) == total
    assert all(min(minimum, c) <= b <= c for b, c in zip(budget, capacity))


@pytest.mark.parametrize("scale", [1e-320, 1e-300, 1.0, 1e300, 1.7e308])
def test_apportion_does_not_depend_on_the_scale(scale):
    shares = torch.tensor([[0.5, 0.25, 0.25, 0.0]], dtype=torch.float64) * scale
    budget = allocate.apportion(shares, 8, torch.tensor([9, 9, 9, 9]))
    assert budget.tolist() == [[4, 2, 2, 0]]


def test_apportion_knows_nan_infinity_and_nothing():
    capacity, priority = torch.tensor([5, 5, 5, 5]), torch.zeros(1, 4)
    for bad in (math.nan, -1.0, math.inf):
        shares = torch.tensor([[bad, 1.0, 1.0, 0.0]])
        assert allocate.apportion(shares, 8, capacity, priority).tolist() == [[0, 4, 4, 0]]
        everything = torch.full((1, 4), bad)
        assert allocate.apportion(everything, 9, capacity, priority).tolist() == [[3, 2, 2, 2]]
    assert allocate.apportion(torch.zeros(1, 4), 8, capacity, priority).tolist() == [[2, 2, 2, 2]]


def test_a_vanishing_share_takes_what_full_zones_leave():
    shares = torch.tensor([[1.0, 1e-30, 0.0]])
    assert allocate.apportion(shares, 9, torch.tensor([4, 3, 4])).tolist() == [[4, 3, 2]]
    assert allocate.apportion(shares, 11, torch.tensor([4, 3, 4])).tolist() == [[4, 3, 4]]


def test_ties_go_to_the_priority_then_to_the_earlier_zone():
    capacity, shares = torch.full((5,), 3), torch.ones(1, 5)
    priority = torch.tensor([[0.0, 2.0, 1.0, 2.0, math.nan]])
    taken = [allocate.apportion(shares, k, capacity, priority)[0].tolist() for k in range(1, 6)]
    assert taken == [[0, 1, 0, 0, 0], [0, 1, 0, 1, 0], [0, 1, 1, 1, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]


@pytest.mark.parametrize("total", [65535, 65536, 131071, 262144])
@pytest.mark.parametrize("peaked", [False, True])
def test_huge_totals_do_not_overflow(total, peaked):
    rng = random.Random(total)
    count = 64
    share = [0.5] + [0.5 / 63] * 63 if peaked else dyadic_shares(rng, count)
    capacity = [rng.randrange(total // 16, total // 4) for _ in range(count)]
    shares = torch.tensor([share], dtype=torch.float64)
    got = allocate.apportion(shares, total, torch.tensor(capacity))
    assert got[0].tolist() == reference.apportion(reference.weights(share), total, capacity, [0.0] * count)
    everything = allocate.apportion(shares, sum(capacity), torch.tensor(capacity))
    assert everything[0].tolist() == capacity
    one_full = allocate.apportion(shares, total, torch.tensor([total] * count))
    assert int(one_full.sum()) == total


def test_rows_do_not_depend_on_their_neighbours():
    torch.manual_seed(0)
    shares, priority, capacity = torch.rand(7, 30), torch.rand(7, 30), torch.randint(0, 5, (30,))
    whole = allocate.apportion(shares, 40, capacity, priority)
    for row in range(7):
        alone = allocate.apportion(shares[row : row + 1], 40, capacity, priority[row : row + 1])
        assert torch.equal(alone[0], whole[row])


@given(st.lists(st.integers(0, 30), min_size=1, max_size=8), st.floats(0, 1))
def test_equal_parts(capacity, part):
    total = round(part * sum(capacity))
    got = allocate.equal_parts(total, capacity)
    assert got == reference.equal_parts(total, capacity)
    ones = torch.ones(1, len(capacity))
    assert got == allocate.apportion(ones, total, torch.tensor(capacity), torch.zeros_like(ones))[0].tolist()


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.floats(0, 1))
def test_parts_by_size_are_quotas_and_largest_remainders(sizes, part):
    total = round(part * sum(sizes))
    quotas = [Fraction(total * size, sum(sizes)) for size in sizes]
    got = allocate.shared_out(total, sizes, sizes)
    assert sum(got) == total
    assert all(math.floor(quota) <= given <= math.floor(quota) + 1 for quota, given in zip(quotas, got))
    more, less = (
        [(quota % 1, -i) for i, quota in enumerate(quotas) if (got[i] > math.floor(quota)) is up]
        for up in (True, False)
    )
    assert not more or not less or min(more) > max(less)


@given(st.integers(1, 40), st.integers(1, 6), st.randoms(use_true_random=False))
def test_zone_mean(tokens, count, rng):
    index = [rng.randrange(count) for _ in range(tokens)]
    values = [[rng.randrange(-64, 65) / 64 for _ in range(tokens)] for _ in range(2)]
    means = scores_of.zone_mean(torch.tensor(values), zones_of(index, count))
    assert means.dtype == torch.float32
    for got, row in zip(means.tolist(), values):
        for mean, expected in zip(got, reference.zone_mean(row, index, count)):
            assert math.isnan(mean) if expected is None else mean == reference.float32(expected)


def test_zone_mean_keeps_nan_where_it_is():
    means = scores_of.zone_mean(torch.tensor([[math.nan, 1.0, 3.0]]), zones_of([0, 1, 1], 2))[0]
    assert math.isnan(means[0])
    assert means[1] == 2


def test_ranks_and_top_k_per_zone():
    rng = random.Random(4)
    for round_ in range(400):
        count, tokens = rng.randrange(1, 7), rng.randrange(1, 40)
        index = [rng.randrange(count) if rng.random() < 0.7 else 0 for _ in range(tokens)]  # zone 0 may need sorting
        pool = AWKWARD if round_ % 2 else [0.0, 0.5, 1.0]
        scores = [[rng.choice([*pool, rng.random()]) for _ in range(tokens)] for _ in range(2)]
        table = torch.tensor(scores, dtype=torch.float32)
        scores = table.tolist()
        zones = zones_of(index, count)
        ranks = allocate.rank_in_zone(table, zones)
        budgets = [[0] * count, [0] * count]
        k = rng.randint(1, tokens)
        for budget in budgets:
            for i in rng.sample(range(tokens), k):
                budget[index[i]] += 1
        kept = allocate.topk_per_zone(table, zones, torch.tensor(budgets), k)
        assert kept.dtype == ranks.dtype == torch.int64
        for row in range(2):
            assert ranks[row].tolist() == reference.rank_in_zone(scores[row], index)
            assert kept[row].tolist() == reference.topk_per_zone(scores[row], index, budgets[row])
        assert scores_of.topk(table, k).tolist() == [reference.topk(row, k) for row in scores]


@pytest.mark.parametrize("largest", [1, 2, 15, 16, 17, 40])
def test_ranks_in_zones_of_every_size(largest):
    rng = random.Random(largest)
    index = [0] * largest + [1, 1, 3]
    rng.shuffle(index)
    scores = [rng.choice([0.0, 1.0, math.nan, rng.random()]) for _ in index]
    got = allocate.rank_in_zone(torch.tensor([scores]), zones_of(index, 4))[0].tolist()
    assert got == reference.rank_in_zone(torch.tensor(scores).tolist(), index)


@given(st.lists(st.booleans(), min_size=1, max_size=50).filter(any))
def test_ascending_indices(mask):
    expected = [i for i, kept in enumerate(mask) if kept]
    assert scores_of.ascending_indices(torch.tensor(mask), len(expected)).tolist() == expected
    assert scores_of.ascending_indices(torch.tensor([mask, mask[::-1]]), len(expected))[0].tolist() == expected


@given(st.lists(st.integers(-64, 64), min_size=1, max_size=30), st.integers(1, 4), st.randoms(use_true_random=False))
def test_minmax(values, count, rng):
    index = [rng.randrange(count) for _ in values]
    groups = zones_of(index, count)
    table = torch.tensor([values], dtype=torch.float32)
    assert scores_of.minmax(table)[0].tolist() == pytest.approx(
        [float(x) for x in reference.minmax(values)], abs=bound(1.0, terms=2)
    )
    got = scores_of.minmax(table, groups)[0].tolist()
    for group in set(index):
        inside = [i for i, j in enumerate(index) if j == group]
        expected = [float(x) for x in reference.minmax([values[i] for i in inside])]
        assert [got[i] for i in inside] == pytest.approx(expected, abs=bound(1.0, terms=2))
