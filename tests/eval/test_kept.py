"""Kept tokens in rows: bits and places come back as they were."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from gridprune.core.token_map import TokenMap
from gridprune.eval import data, entries, kept, shared, store
from gridprune.eval.evidence import seen_part
from gridprune.families.maps import tiled

SQUARE = TokenMap.from_grid(24, 24)
TILES = tiled(TokenMap.from_grid(4, 4), 2, 3, whole=True)  # tile by tile: no plane in raster order


def anyres() -> TokenMap:
    """An overview and a mosaic behind each other, as LLaVA-NeXT has them without its newlines."""
    overview, mosaic = TokenMap.from_grid(3, 3), TokenMap.from_grid(5, 7)
    names = ("view", "row", "column", "frame", "separator", "boxes", "source")
    joined = {name: torch.cat([getattr(overview, name), getattr(mosaic, name)]) for name in names}
    plane = torch.cat([overview.plane, mosaic.plane + 1])
    return replace(mosaic, plane=plane, **joined)


@pytest.mark.parametrize("n", [1, 7, 8, 576])
def test_bits_come_back(n):
    generator = torch.Generator().manual_seed(n)
    indices = torch.randperm(n, generator=generator)[: max(1, n // 3)].sort().values
    text = kept.pack(indices, n)
    assert np.flatnonzero(kept.unpack(text, n)).tolist() == indices.tolist()


@pytest.mark.parametrize(
    ("token_map", "form"),
    [(SQUARE, "grids"), (anyres(), "grids"), (TILES, "boxes"), (SQUARE.take(SQUARE.row > 20), "grids")],
)
def test_places_come_back(token_map, form):
    places = kept.places_of(token_map)
    assert set(places) == {"n", form}
    assert places["n"] == len(token_map)
    np.testing.assert_allclose(kept.boxes_of(places), token_map.boxes, atol=2 * 10**-kept._DIGITS)


def test_rows_hold_what_the_method_kept(loaded):
    questions = data.generated("dev", 12)
    cells = shared.cells(entries.parse_list("uniform,gridprune"), [48])
    result = shared.Shared(loaded, cells).run(list(questions.scenes())[:1])[0]
    row = store.row_of(result, with_kept=True)
    assert set(row["kept"]) == {"uniform|48", "gridprune|48"}
    assert isinstance(row["kept"]["uniform|48"], str)  # it reads no question: once for all of them
    packed = row["kept"]["gridprune|48"]
    for number, indices in enumerate(result.kept["gridprune|48"]):
        text = packed if isinstance(packed, str) else packed[number]
        assert np.flatnonzero(kept.unpack(text, row["places"]["n"])).tolist() == indices.tolist()
    assert row["seen"] == [0, 0, 1, 1]
    assert "kept" not in store.row_of(result)


class Cropping:
    class image_processor:
        do_center_crop = True


def test_what_the_tower_sees():
    assert seen_part((200, 100), Cropping) == (0.25, 0.0, 0.75, 1.0)
    assert seen_part((100, 200), Cropping) == (0.0, 0.25, 1.0, 0.75)
    assert seen_part((200, 100), object()) == (0.0, 0.0, 1.0, 1.0)
