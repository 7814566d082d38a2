"""Clips: every frame keeps a token unless it may vanish, and the rest of the budget goes where the question points."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gridprune import GridPrune
from gridprune.budget import Budget
from gridprune.errors import BudgetError
from gridprune.methods.base import Cues
from gridprune.together import apart, cues_side_by_side, side_by_side, split, split_over_rows
from gridprune.token_map import TokenMap

FRAMES, ROWS, COLUMNS = 5, 4, 6


def clip_cues(seed=0, batch=2):
    """A clip whose relevant tokens all lie in frame 2."""
    generator = torch.Generator().manual_seed(seed)
    n = FRAMES * ROWS * COLUMNS
    relevance = torch.rand(batch, n, generator=generator) * 0.1
    relevance[:, 2 * ROWS * COLUMNS : 3 * ROWS * COLUMNS] += 0.8
    return Cues(relevance=relevance, saliency=torch.rand(batch, n, generator=generator))


def frames_kept(selection, token_map):
    return [sorted(set(token_map.frame[row].tolist())) for row in selection.indices]


@pytest.mark.parametrize("settings", [{}, {"temperature": 0.01}, {"zone": 3}, {"scope": "view"}], ids=str)
@pytest.mark.parametrize("k", [5, 6, 13, 60, 120])
def test_every_frame_keeps_a_token(settings, k):
    token_map = TokenMap.from_grid(ROWS, COLUMNS, frames=FRAMES)
    selection = GridPrune(keep=k, **settings).select(clip_cues(), token_map, k)
    assert selection.indices.shape == (2, k)
    assert frames_kept(selection, token_map) == [list(range(FRAMES))] * 2
    assert selection.budgets.sum(-1).tolist() == [k, k]
    assert (selection.budgets <= selection.zones.size).all()


def test_frames_vanish_when_asked():
    token_map = TokenMap.from_grid(ROWS, COLUMNS, frames=FRAMES)
    selection = GridPrune(keep=10, zone=2, temperature=1.0, frames_may_vanish=True).select(clip_cues(), token_map, 10)
    assert frames_kept(selection, token_map) == [[2], [2]]


def test_fewer_tokens_than_frames():
    token_map = TokenMap.from_grid(ROWS, COLUMNS, frames=FRAMES)
    with pytest.raises(BudgetError, match="frames_may_vanish"):
        GridPrune(keep=4).select(clip_cues(), token_map, 4)
    assert GridPrune(keep=4, frames_may_vanish=True).select(clip_cues(), token_map, 4).indices.shape == (2, 4)


def test_budgets_equal_a_loop():
    """One token for the best zone of each frame, then largest remainder over what is left, written out."""
    token_map, k = TokenMap.from_grid(ROWS, COLUMNS, frames=FRAMES), 23
    cues = clip_cues(3, batch=1)
    cues.relevance[:] = torch.rand(cues.relevance.shape, generator=torch.Generator().manual_seed(4)) * 0.1
    selection = GridPrune(keep=k, relevance_sign=1, guide="mean", calibrate=False, temperature=0.1).select(
        cues, token_map, k
    )
    zones = selection.zones
    means, members = [], []
    for zone in range(zones.count):
        member = [i for i in range(len(token_map)) if zones.index[i] == zone]
        members.append(member)
        means.append(sum(cues.relevance[0, i].double().item() for i in member) / len(member))
    first = [0] * zones.count
    for frame in range(FRAMES):
        own = [z for z in range(zones.count) if token_map.frame[members[z][0]] == frame]
        first[max(own, key=lambda z: means[z])] = 1
    weights = [math.exp(mean / 0.1) for mean in means]
    quota = [(k - FRAMES) * weight / sum(weights) for weight in weights]
    assert all(q < len(m) - f for q, m, f in zip(quota, members, first))  # no zone is full: the simple rule is enough
    budget = [math.floor(q) + f for q, f in zip(quota, first)]
    order = sorted(range(zones.count), key=lambda z: math.floor(quota[z]) - quota[z])
    for z in order[: k - sum(budget)]:
        budget[z] += 1
    assert selection.budgets[0].tolist() == budget


def test_pictures_side_by_side_compete():
    maps = [TokenMap.from_grid(4, 4), TokenMap.from_grid(2, 6), TokenMap.from_grid(3, 3)]
    generator = torch.Generator().manual_seed(1)
    cues = [Cues(relevance=torch.rand(1, len(m), generator=generator), images=1) for m in maps]
    cues[1].relevance.add_(3)
    joined, method = side_by_side(maps), GridPrune(keep=9, zone=2, temperature=1.0, alpha=0, relevance_sign=1)
    whole = method.select(cues_side_by_side(cues), joined, 9)
    parts = apart(whole, [len(m) for m in maps])
    assert [part.indices.shape[1] for part in parts] == [1, 7, 1]
    for part, own in zip(parts, maps):
        assert torch.equal(part.zones.index, own.zones(2).index)
        assert int(part.budgets.sum()) == part.indices.shape[1]
        assert torch.equal(
            torch.bincount(part.zones.index[part.indices[0]], minlength=part.zones.count), part.budgets[0]
        )


def test_split_by_hand():
    assert split(10, [30, 60, 10]) == [3, 6, 1]
    assert split(7, [1, 1, 1]) == [3, 2, 2]
    assert split(3, [1000, 1, 1]) == [1, 1, 1]
    assert split(5, [1000, 1, 1]) == [3, 1, 1]
    assert split(9, [4, 4, 1]) == [4, 4, 1]
    with pytest.raises(BudgetError, match="3 pictures"):
        split(2, [5, 5, 5])


@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=9), st.data())
def test_split_is_exact(sizes, data):
    total = data.draw(st.integers(len(sizes), sum(sizes)))
    parts = split(total, sizes)
    assert sum(parts) == total
    assert all(1 <= part <= size for part, size in zip(parts, sizes))
    if min(parts) > 1:
        assert all(abs(part - Fraction(total * size, sum(sizes))) < 1 for part, size in zip(parts, sizes))


def test_each_row_has_its_own_budget():
    assert split_over_rows(Budget.parse("50%"), [0, 1, 0], [10, 7, 30]) == [5, 4, 15]
    assert split_over_rows(Budget.parse(4), [0, 1, 0], [10, 7, 30]) == [1, 4, 3]
