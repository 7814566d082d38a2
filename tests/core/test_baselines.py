"""The baselines: random, uniform, pooling, top-k of one cue, everything."""

import math
import random
from fractions import Fraction

import pytest
import torch

from gridprune.core.token_map import TokenMap
from gridprune.errors import BudgetError, MissingCueError, SettingError
from gridprune.methods import Cues, create
from gridprune.methods.checks import checked_select
from gridprune.methods.keep_all import KeepAll
from rounding import assert_same, bound

from . import reference
from .maps import anyres, listed

MAPS = [TokenMap.from_grid(6, 6), TokenMap.from_grid(5, 7), anyres((3, 4), (1, 2), (4, 3), crop=(1, 1))]


def cues_for(token_map, batch=2, width=4):
    n = len(token_map)
    return Cues(relevance=torch.randn(batch, n), saliency=torch.rand(batch, n), features=torch.randn(batch, n, width))


def test_random_draws_by_seed_alone():
    token_map = TokenMap.from_grid(24, 24)
    first = create("random", seed=3).select(cues_for(token_map, batch=3), token_map, 64).indices
    again = create("random", seed=3).select(cues_for(token_map, batch=1), token_map, 64).indices
    other = create("random", seed=4).select(cues_for(token_map, batch=1), token_map, 64).indices
    assert torch.equal(first, again.expand(3, 64))
    assert not torch.equal(again, other)
    counts = torch.zeros(36)
    for seed in range(600):
        small = create("random", seed=seed).select(cues_for(MAPS[0], batch=1), MAPS[0], 9).indices[0]
        assert len(set(small.tolist())) == 9
        counts[small] += 1
    assert (counts - 150).abs().max() < 6 * math.sqrt(600 * 0.25 * 0.75)


@pytest.mark.parametrize("seed", [-1, 2**63, 10**30])
def test_random_takes_any_whole_number(seed):
    assert create("random", seed=seed).select(cues_for(MAPS[0]), MAPS[0], 5).indices.shape == (2, 5)


@pytest.mark.parametrize("seed", ["0", 1.5, None, True])
def test_random_seed_must_be_whole(seed):
    with pytest.raises(SettingError, match="seed"):
        create("random", seed=seed)


def test_uniform_is_a_regular_stride():
    token_map = TokenMap.from_grid(24, 24)
    kept = create("uniform").select(cues_for(token_map), token_map, 64).indices
    assert kept[0].tolist() == [r * 24 + c for r in range(1, 24, 3) for c in range(1, 24, 3)]
    assert torch.equal(kept[0], kept[1])


def test_uniform_takes_the_token_nearest_to_the_middle_of_its_cell():
    for token_map in MAPS:
        tokens = listed(token_map)
        for k in range(1, len(token_map) + 1):
            selection = create("uniform").select(cues_for(token_map), token_map, k)
            cell = selection.zones.index.tolist()
            expected = []
            for j in range(k):
                inside = [i for i in range(len(cell)) if cell[i] == j]
                middle = [Fraction(sum(tokens[i][axis] for i in inside), len(inside)) for axis in (2, 3)]
                far = {i: sum((tokens[i][axis] - m) ** 2 for axis, m in zip((2, 3), middle)) for i in inside}
                expected.append(far)
            kept = selection.indices[0].tolist()
            assert kept == sorted(set(kept))
            for far in expected:
                (centre,) = [i for i in kept if i in far]
                error = bound(float(max(far.values())), terms=len(far), depth=2, dtype=torch.float64)
                assert float(far[centre]) == pytest.approx(float(min(far.values())), abs=error)
            assert selection.budgets.tolist() == [[1] * k] * 2


def test_pooling_is_average_pooling():
    token_map = TokenMap.from_grid(24, 24)
    cues = cues_for(token_map, width=8)
    selection = create("pooling").select(cues, token_map, 64)
    pooled = torch.nn.functional.avg_pool2d(cues.features.transpose(1, 2).view(2, 8, 24, 24), 3)
    expected = pooled.flatten(2).transpose(1, 2)
    assert_same(selection.merge.apply(cues.features, 64), expected, terms=9)


def test_pooling_puts_the_mean_of_each_cell_at_its_centre():
    for token_map in MAPS:
        cues = cues_for(token_map)
        for k in range(1, len(token_map) + 1):
            selection = create("pooling").select(cues, token_map, k)
            merged = selection.merge.apply(cues.features, k)
            for slot, token in enumerate(selection.indices[0].tolist()):
                cell = selection.zones.index == selection.zones.index[token]
                assert_same(merged[:, slot], cues.features[:, cell].mean(1), terms=int(cell.sum()) + 1)


def test_top_k_baselines():
    rng = random.Random(10)
    for _ in range(100):
        token_map = rng.choice(MAPS)
        n = len(token_map)
        values = [[rng.choice([0.0, 0.5, rng.random()]) for _ in range(n)] for _ in range(2)]
        k, sign = rng.randint(1, n), rng.choice([1, -1])
        table = torch.tensor(values)
        kept = checked_select(create("fastervlm"), Cues(saliency=table), token_map, k).indices.tolist()
        assert kept == [reference.topk(row, k) for row in table.tolist()]
        cues = Cues(relevance=table, reading="plus" if sign == 1 else "minus")
        for setting, factor in (("tower", sign), ("plus", 1), ("minus", -1)):
            kept = checked_select(create("relevance", reading=setting), cues, token_map, k).indices.tolist()
            assert kept == [reference.topk([x * factor for x in row], k) for row in table.tolist()]


def test_keep_all():
    token_map = MAPS[1]
    selection = checked_select(create("keep-all"), cues_for(token_map), token_map, 35)
    assert selection.indices.tolist() == [list(range(35))] * 2
    given = KeepAll(keep=64)
    assert given.budget.resolve(35) == 35
    assert given.explain() == {"keep": "100%"}
    with pytest.raises(BudgetError):
        KeepAll(keep="nothing")
    with pytest.raises(BudgetError, match="keeps all 35"):
        checked_select(given, cues_for(token_map), token_map, 34)


def test_checked_select_guards_the_count_and_the_cues():
    token_map, method = MAPS[0], create("gridprune")
    cues = cues_for(token_map)
    for k in (0, -1, 37):
        with pytest.raises(BudgetError, match=rf"keep {k} of 36 .* \[1, 36\]"):
            checked_select(method, cues, token_map, k)
    for name in ("relevance", "saliency"):
        with pytest.raises(MissingCueError, match=name):
            checked_select(method, Cues(**{**cues.tensors(), name: None}), token_map, 9)
        for bad in (math.nan, math.inf, -math.inf):
            spoilt = cues.tensors()[name].clone()
            spoilt[1, 7] = bad
            with pytest.raises(MissingCueError, match=rf"{name}.*NaN or infinite"):
                checked_select(method, Cues(**{**cues.tensors(), name: spoilt}), token_map, 9)
        short = Cues(**{**cues.tensors(), name: torch.rand(2, 35)})
        with pytest.raises(MissingCueError, match=rf"{name}.*35 .* 36"):
            checked_select(method, short, token_map, 9)
