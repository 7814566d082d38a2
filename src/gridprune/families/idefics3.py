"""Idefics3 and SmolVLM: tiles with text markers between them, then the whole image; patches fused by pixel shuffle.

In the prompt every tile is a run of placeholders behind a marker, `<row_1_col_2>` or, for the view of the whole image
that ends an image, `<global-img>`. The markers are text: they stay, and are not counted. They tell where images end
and how their tiles lie.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..core.token_map import TokenMap
from ..cues.text_tower import SIGLIP_TEXT
from ..cues.tower import Tower, find_clip_tower
from .base import Family, ImageSpan
from .maps import last_view, tiled
from .parts import CropBatch, TowerLayout
from .spans import runs

_GAP = 2  # text tokens between tiles of a row: <fake_token_around_image> and the next marker; a line break adds one


class Idefics3(Family):
    """Idefics3 and SmolVLM, still images (frames of a video count as images)."""

    name: ClassVar[str] = "idefics3"
    classes: ClassVar[tuple[str, ...]] = ("Idefics3ForConditionalGeneration", "SmolVLMForConditionalGeneration")
    layout_keys: ClassVar[tuple[str, ...]] = ("pixel_attention_mask",)
    text_tower: ClassVar[str] = SIGLIP_TEXT

    @cached_property
    def tower(self) -> Tower:
        return find_clip_tower(self.base.vision_model)

    @cached_property
    def _tile(self) -> TokenMap:
        """Push patch numbers through the model's own pixel shuffle."""
        side = self.vision_config.image_size // self.vision_config.patch_size
        connector = self.base.connector
        numbers = torch.arange(side * side, dtype=torch.float64, device="cpu").view(1, -1, 1)
        source = connector.pixel_shuffle(numbers, connector.scale_factor)[0].long()  # [n, m]
        across = side // connector.scale_factor
        return replace(TokenMap.from_grid(across, across), source=source)

    def token_maps(self, vision: dict[str, Any]) -> list[TokenMap]:
        return [self._tile] * sum(len(row) for row in _real(vision))

    def locate(self, ids: Tensor, vision: dict[str, Any]) -> list[ImageSpan] | None:
        found = runs(ids, self.placeholder)
        if any(len(columns) != len(self._tile) for _, columns in found):
            return None
        if len(found) != len(self.token_maps(vision)):
            return None
        places = []
        for row in range(len(ids)):
            tiles = [columns for where, columns in found if where == row]
            places += [self._place(row, group) for group in images_by_marker(ids[row], tiles)]
        return places

    def _place(self, row: int, tiles: list[Tensor]) -> ImageSpan:
        down, across = _shape(tiles)
        token_map = tiled(self._tile, down, across, whole=True) if len(tiles) > 1 else self._tile
        return ImageSpan(row, torch.cat(tiles), token_map)

    def take_places(self, vision: dict[str, Any], places: list[ImageSpan], new: list[int]) -> dict[str, Any]:
        """Tiles of other images become zeros, which the model drops as padding."""
        pixels = vision["pixel_values"].clone()
        position = [0] * len(pixels)
        real = _real(vision)
        for number, place in enumerate(places):
            for _ in range(len(place.token_map) // len(self._tile)):
                if number not in new:
                    pixels[place.row, real[place.row][position[place.row]]] = 0
                position[place.row] += 1
        return {**vision, "pixel_values": pixels}

    def packed(self, output: Any) -> Any:
        """One tensor (tokens, 1, D): SmolVLM before transformers 5.21 counts a row's tokens in blocks of the second
        axis."""
        if isinstance(output.pooler_output, Tensor):
            return output
        return type(output)(pooler_output=torch.cat(list(output.pooler_output))[:, None])

    def parts(self, vision: dict[str, Any], maps: list[TokenMap]) -> TowerLayout:
        return CropBatch([len(token_map) // len(self._tile) for token_map in maps], 0)

    def image(self, vision: dict[str, Any], maps: Sequence[TokenMap], index: int) -> Tensor:
        tiles = [vision["pixel_values"][row, tile] for row, real in enumerate(_real(vision)) for tile in real]
        return tiles[last_view(maps, index)].detach()  # type: ignore[no-any-return]


def _real(vision: dict[str, Any]) -> list[list[int]]:
    """Which tiles of each row of the batch are not padding."""
    real = (vision["pixel_values"] != 0).flatten(2).any(-1)
    return [row.nonzero()[:, 0].tolist() for row in real]


def images_by_marker(ids: Tensor, tiles: Sequence[Tensor]) -> list[list[Tensor]]:
    """Runs of one row grouped into images: the marker in front of the last run is the one that ends an image."""
    if not tiles:
        return []
    markers = [int(ids[int(run[0]) - 1]) if int(run[0]) else -1 for run in tiles]
    groups: list[list[Tensor]] = [[]]
    for run, marker in zip(tiles, markers):
        groups[-1].append(run)
        if marker == markers[-1]:
            groups.append([])
    return [group for group in groups if group]


def _shape(tiles: Sequence[Tensor]) -> tuple[int, int]:
    """Rows and columns of the mosaic, from where the gaps between its tiles are wider: there a row ends."""
    mosaic = tiles[:-1]
    wide = [int(b[0]) - int(a[-1]) - 1 > _GAP for a, b in itertools.pairwise(mosaic)]
    across = wide.index(True) + 1 if True in wide else max(len(mosaic), 1)
    return max(len(mosaic) // across, 1), across
