"""Shared parts: cosines without a matrix, incremental coverage, neighbourhoods, moments of the Laplacian."""

from __future__ import annotations

import inputs
import numpy as np
import pytest
import reference
import torch

from gridprune.core.token_map import TokenMap
from gridprune.cues.structure import laplacian_moments
from gridprune.methods import create
from gridprune.methods.ops import similarity
from gridprune.methods.ops.geometry import neighbours, previous_frame, smooth
from gridprune.methods.s2prune import bisect
from rounding import assert_same


def test_cosines_without_a_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    cues, token_map = inputs.cues("random", 2, 30), TokenMap.from_grid(5, 6)
    names = ("divprune", "cdpruner", "vispruner", "fsr", "prumerge-fixed", "visionzip", "merge-rest", "scope")
    kept = [create(name).select(cues, token_map, 8).indices for name in names]
    monkeypatch.setattr(similarity, "_KEEP", 0)
    monkeypatch.setattr(similarity, "_BLOCK", 7)
    for name, expected in zip(names, kept):
        assert torch.equal(create(name).select(cues, token_map, 8).indices, expected)


def test_coverage_is_what_it_says() -> None:
    g = torch.Generator().manual_seed(0)
    affinity, weight = torch.randn(3, 11, 20, generator=g), torch.rand(3, 11, generator=g)
    state = similarity.Coverage(affinity, weight, start=-0.5)
    cover = torch.full((3, 11), -0.5)
    for token in torch.randint(0, 20, (6, 3), generator=g):
        expected = (weight.double()[..., None] * (affinity - cover[..., None]).clamp(min=0).double()).sum(1)
        assert_same(state.gain, expected, terms=11, depth=6)
        state.add(token)
        cover = cover.maximum(affinity.gather(2, token[:, None, None].expand(-1, 11, 1))[..., 0])


def test_unit_vectors_of_any_fp16_size() -> None:
    x = torch.tensor([[6e4] * 64, [6e-8] * 64, [0.0] * 64]).half()
    lengths = similarity.unit(x).norm(dim=-1)
    assert_same(lengths, torch.tensor([1.0, 1.0, 0.0]), terms=64, depth=2)


@pytest.mark.parametrize("token_map", [TokenMap.from_grid(4, 5), inputs.anyres(), inputs.holes(), inputs.video()])
def test_neighbours(token_map: TokenMap) -> None:
    table = neighbours(token_map)
    for i in range(len(token_map)):
        assert [j for j in table[i].tolist() if j >= 0] == reference.beside(token_map, i)


def test_previous_frame_through_numbered_views() -> None:
    token_map = inputs.video()
    assert previous_frame(token_map).tolist() == [-1] * 12 + list(range(24))
    object.__setattr__(token_map, "view", token_map.frame.clone())  # a view per frame
    assert previous_frame(token_map).tolist() == [-1] * 12 + list(range(24))


def test_smoothing_reflects() -> None:
    values = torch.rand(1, 20, dtype=torch.float64)
    side = np.exp(-0.5)
    kernel = np.array([side, 1, side]) / (1 + 2 * side)
    padded = np.pad(values.view(4, 5).numpy(), 1, mode="reflect")
    expected = [[kernel @ padded[y : y + 3, x : x + 3] @ kernel for x in range(5)] for y in range(4)]
    found = smooth(values, neighbours(TokenMap.from_grid(4, 5)), 1.0)
    assert_same(found.view(4, 5), torch.tensor(expected), terms=3, depth=2)
    constant = smooth(torch.ones(1, 30), neighbours(inputs.holes()), 1.0)
    assert_same(constant, torch.ones(1, 30), terms=3, depth=2)


@pytest.mark.parametrize(("rows", "columns"), [(6, 6), (1, 9), (7, 3), (2, 2), (5, 8)])
def test_bisection_fills_every_cell(rows: int, columns: int) -> None:
    token_map = TokenMap.from_grid(rows, columns)
    n = rows * columns
    position = torch.stack([token_map.row, token_map.column], -1)
    corners = torch.tensor([[0, rows, 0, columns]]).expand(n, 4)
    for m in range(n + 1):
        cell = bisect(corners, torch.full((1, n), m), position)[0]
        assert set(cell.tolist()) == (set(range(m)) if m else {-1})
        if m:
            sizes = torch.bincount(cell, minlength=m)
            assert int(sizes.max()) <= 4 * -(-n // m)


def test_laplacian_moments() -> None:
    pixels = torch.rand(2, 3, 8, 12)
    grey = (pixels[1].double() * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(0).numpy()
    padded = np.pad(grey, 1, mode="edge")
    lap = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:] - 4 * grey
    found = laplacian_moments(pixels, 2, 3)
    assert found.shape == (2, 6, 2)
    for token in range(6):
        y, x = token // 3 * 4, token % 3 * 4
        part = lap[y : y + 4, x : x + 4]
        expected = torch.tensor([part.mean(), (part**2).mean()], dtype=torch.float32)
        assert_same(found[1, token], expected, terms=16, depth=2)
