"""The token map: geometry, zones, cells, separators."""

import math
import random
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gridprune.core.token_map import TokenMap, Zones
from gridprune.errors import BudgetError, SettingError

from . import reference
from .maps import anyres, build, listed


def random_map(rng):
    if rng.random() < 0.4:
        return TokenMap.from_grid(rng.randrange(1, 9), rng.randrange(1, 9), frames=rng.choice([1, 1, 2, 3]))
    tile, tiles = (rng.randrange(1, 5), rng.randrange(1, 5)), (rng.randrange(1, 3), rng.randrange(1, 4))
    crop = rng.randrange(tile[0]), rng.randrange(tile[1])
    return anyres((rng.randrange(1, 5), rng.randrange(1, 5)), tiles, tile, crop=crop)


def test_from_grid():
    token_map = TokenMap.from_grid(2, 3, frames=2)
    assert len(token_map) == 12
    assert listed(token_map) == [(0, 0, r, c, f) for f in range(2) for r in range(2) for c in range(3)]
    assert not token_map.separator.any()
    assert token_map.candidates is token_map
    assert token_map.source[:, 0].tolist() == list(range(12))
    assert token_map.boxes[4].tolist() == pytest.approx([1 / 3, 1 / 2, 2 / 3, 1])
    assert token_map.grid == (2, 3)


def test_zones_equal_the_reference():
    rng = random.Random(5)
    for _ in range(300):
        token_map = random_map(rng)
        height, width, frames = rng.randrange(1, 6), rng.randrange(1, 6), rng.randrange(1, 3)
        within = rng.choice(["plane", "view"])
        zones = token_map.zones(height, width, frames, within=within)
        sheet = 0 if within == "plane" else 1
        index, zone_sheet = reference.zones(listed(token_map), height, width, frames, sheet)
        assert zones.index.tolist() == index
        assert zones.size.tolist() == [index.count(j) for j in range(len(zone_sheet))]
        assert zones.count == len(zone_sheet)
        assert max(zones.sizes) <= height * width * frames
        ordinals = {s: i for i, s in enumerate(sorted(set(zone_sheet)))}
        assert zones.sheets.index.tolist() == [ordinals[s] for s in zone_sheet]
        assert zones.sheets.sizes == tuple(zone_sheet.count(s) for s in ordinals)
        assert token_map.zones(height, width, frames, within=within) is zones
        for side, axis in ((height, 2), (width, 3)):  # zones of a plane differ by at most one token per axis
            if len(set(zone_sheet)) == 1:
                length = len({t[axis] for t in listed(token_map)})
                where, parts = reference.cut(length, side)
                sizes = [where.count(p) for p in range(parts)]
                assert max(sizes) - min(sizes) <= 1


def test_zone_layout():
    rng = random.Random(6)
    for _ in range(200):
        count = rng.randrange(1, 7)
        index = [rng.randrange(count) for _ in range(rng.randrange(1, 30))]
        zones = Zones(torch.tensor(index), torch.bincount(torch.tensor(index), minlength=count))
        values = torch.rand(2, len(index))
        table = zones.by_zone(values, fill=-1.0)
        assert table.shape == (2, count, zones.most)
        for j in range(count):
            members = [i for i in range(len(index)) if index[i] == j]
            row = table[:, j]
            assert torch.equal(row[:, : len(members)], values[:, members])
            assert (row[:, len(members) :] == -1).all()
            if members:
                assert (zones.by_zone(values)[:, j, len(members) :] == values[:, members[:1]]).all()
        assert torch.equal(zones.by_token(table), values)
        assert (zones.absent is None) == (len(set(zones.sizes)) == 1)


def test_zones_on_another_device_are_remembered():
    zones = TokenMap.from_grid(5, 5).zones(2)
    meta = torch.device("meta")
    assert zones.on(torch.device("cpu")) is zones
    assert zones.on(meta) is zones.on(meta)
    assert zones.on(meta).members.device == zones.on(meta).sheets.index.device == meta
    assert zones.on(meta).sizes == zones.sizes
    full = TokenMap.from_grid(4, 4).zones(2)
    assert full.absent is full.on(meta).absent is None


def test_zone_errors():
    token_map = TokenMap.from_grid(4, 4)
    for wrong in ((0,), (2, 0), (2, 2, 0), (-1,)):
        with pytest.raises(SettingError, match="at least 1 x 1"):
            token_map.zones(*wrong)
    with pytest.raises(SettingError, match="grouped by"):
        token_map.zones(2, within="row")
    with pytest.raises(SettingError, match="grouped by"):
        token_map.groups("column")


def test_groups():
    token_map = anyres((1, 2), (1, 2), (2, 2))
    assert token_map.groups("plane").sizes == (2, 8)
    assert token_map.groups("view").index.tolist() == [0, 0, 1, 1, 2, 2, 1, 1, 2, 2]
    assert token_map.take(torch.tensor([2, 5])).groups("view").index.tolist() == [0, 1]  # numbered without gaps
    assert TokenMap.from_grid(1, 2, frames=2).groups("frame").index.tolist() == [0, 0, 1, 1]
    assert token_map.groups("view") is token_map.groups("view")


def test_cells_are_exact_and_nearly_equal():
    rng = random.Random(7)
    for _ in range(400):
        token_map = random_map(rng)
        n = len(token_map)
        k = rng.choice([1, n, max(1, n - 1), rng.randint(1, n)])
        cells = token_map.cells(k)
        assert cells.count == k
        assert sum(cells.sizes) == n
        assert min(cells.sizes) >= 1
        sheets = {(p, f) for p, _, _, _, f in listed(token_map)}
        if k >= len(sheets) and len(sheets) == 1:
            assert max(cells.sizes) - min(cells.sizes) <= 1
        assert token_map.cells(k) is cells


def test_cells_are_compact():
    """Every cell is one connected piece, also where bands or cells do not divide the grid."""
    for rows, columns in ((24, 24), (7, 5), (1, 9), (9, 1), (10, 3), (12, 31)):
        token_map = TokenMap.from_grid(rows, columns)
        for k in {1, 2, 5, rows, rows * columns // 3, rows * columns // 2, rows * columns - 1, rows * columns}:
            if not 1 <= k <= rows * columns:
                continue
            cells: dict[int, set] = {}
            for cell, (_, _, r, c, _) in zip(token_map.cells(k).index.tolist(), listed(token_map)):
                cells.setdefault(cell, set()).add((r, c))
            for members in cells.values():
                seen, edge = set(), [next(iter(members))]
                while edge:
                    r, c = edge.pop()
                    if (r, c) in members and (r, c) not in seen:
                        seen.add((r, c))
                        edge += [(r + i, c + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
                assert seen == members, (rows, columns, k)


def test_64_cells_of_24_x_24_are_3_x_3():
    index = TokenMap.from_grid(24, 24).cells(64).index.view(8, 3, 8, 3)
    assert len(index[:, 0, :, 0].unique()) == 64
    assert (index == index[:, :1, :, :1]).all()


def test_cell_errors():
    for k in (0, -1, 17):
        with pytest.raises(BudgetError, match="give 1 to 16"):
            TokenMap.from_grid(4, 4).cells(k)


def test_keep_mask_without_separators():
    mask = TokenMap.from_grid(2, 3).keep_mask(torch.tensor([1, 4]))
    assert mask.tolist() == [False, True, False, False, True, False]


@given(st.integers(0, 2**30))
def test_newlines_stay_with_their_row(seed):
    rng = random.Random(seed)
    token_map = anyres((2, 2), (1, 2), (3, 2), crop=(rng.randrange(2), rng.randrange(2)), newlines=True)
    n = len(token_map.candidates)
    assert not token_map.candidates.separator.any()
    kept = sorted(rng.sample(range(n), rng.randint(1, n)))
    mask = token_map.keep_mask(torch.tensor(kept)).tolist()
    tokens, separator = listed(token_map), token_map.separator.tolist()
    content = [i for i in range(len(tokens)) if not separator[i]]
    assert [i for i in content if mask[i]] == [content[i] for i in kept]
    for i, (plane, _, row, _, _) in enumerate(tokens):
        if separator[i]:
            assert mask[i] == any(mask[j] and tokens[j][0] == plane and tokens[j][2] == row for j in content)


def test_a_separator_without_a_row_stays_if_anything_stays():
    token_map = build([(0, 0, 0, 0, 0, False), (0, 0, 0, 1, 0, False), (0, 0, 1, 0, 0, True)], (1, 2))
    assert token_map.keep_mask(torch.tensor([1])).tolist() == [False, True, True]
    assert token_map.keep_mask(torch.tensor([], dtype=torch.int64)).tolist() == [False, False, False]
    assert token_map.candidate_positions.tolist() == [0, 1]


def test_take_and_replace_start_with_a_clean_memory():
    token_map = TokenMap.from_grid(4, 4)
    token_map.zones(2)
    half = token_map.take(torch.arange(16) < 8)
    assert len(half) == 8
    assert half.zones(2).count == 2
    assert replace(token_map, row=token_map.row // 2).zones(2).count != token_map.zones(2).count


def test_key_tells_geometries_apart():
    maps = [
        TokenMap.from_grid(4, 6),
        TokenMap.from_grid(6, 4),
        TokenMap.from_grid(4, 3, frames=2),
        anyres((2, 2), (1, 1), (4, 5)),
        anyres((2, 2), (1, 1), (4, 5), newlines=True),
        anyres((2, 2), (2, 1), (2, 5)),
    ]
    assert len({token_map.key for token_map in maps}) == len(maps)
    assert TokenMap.from_grid(4, 6).key == maps[0].key


def test_cells_share_sheets_in_proportion():
    token_map = anyres((2, 2), (1, 2), (4, 4))  # 4 and 32 tokens
    for k in range(2, 37):
        cells = token_map.cells(k)
        first = len(set(cells.index[:4].tolist()))
        assert abs(first - k * 4 / 36) <= 1 or math.isclose(first, k * 4 / 36)
