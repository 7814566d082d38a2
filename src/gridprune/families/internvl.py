"""InternVL: tiles of equal size, patches fused 2 x 2 by pixel shuffle, [CLS] in the tower only.

The model is not told how tiles lie in an image, only that those of one image stand in one run of placeholders and
that the last of several is the whole image. So every tile is a plane of its own, and only the view of the whole
image has boxes. [CLS] is not trained to sum the image up; saliency is the attention received.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..core.token_map import TokenMap
from ..cues.tower import Tower, find_tower
from .base import Family, ImageSpan
from .maps import join, last_view
from .parts import CropBatch, TowerLayout
from .spans import runs


class InternVL(Family):
    """InternVL 2 to 3.5 in transformers' own format, and Qianfan-OCR, which is built alike."""

    name: ClassVar[str] = "internvl"
    classes: ClassVar[tuple[str, ...]] = ("InternVLForConditionalGeneration", "QianfanOCRForConditionalGeneration")
    option_keys: ClassVar[tuple[str, ...]] = ("vision_feature_layer", "vision_feature_select_strategy")
    dense: ClassVar[bool] = True
    one_size: ClassVar[bool] = True

    @cached_property
    def tower(self) -> Tower:
        return find_tower(self.base.vision_tower, prefix=1)

    @cached_property
    def _tile(self) -> TokenMap:
        """Push patch numbers through the model's own pixel shuffle."""
        (height, width), (down, right) = _pair(self.vision_config.image_size), _pair(self.vision_config.patch_size)
        rows, columns = height // down, width // right
        numbers = torch.arange(rows * columns, dtype=torch.float64, device="cpu").view(1, rows, columns, 1)
        shuffled = self.shuffle(numbers, self.model.config.downsample_ratio)[0]  # [r, c, m]
        tile = TokenMap.from_grid(*shuffled.shape[:2])
        return replace(tile, source=shuffled.flatten(0, 1).long())

    def shuffle(self, patches: Tensor, ratio: float) -> Tensor:
        """The model's own pixel shuffle, (V, r, c, C) to fewer rows and columns of more channels."""
        return self.base.pixel_shuffle(patches, scale_factor=ratio)  # type: ignore[no-any-return]

    def image_map(self, tiles: int) -> TokenMap:
        """Geometry of an image in so many tiles."""
        if tiles == 1:
            return self._tile
        unknown = replace(self._tile, boxes=torch.zeros_like(self._tile.boxes))
        views = [*[unknown] * (tiles - 1), self._tile]
        views = [replace(view, plane=view.plane + i, view=view.view + i) for i, view in enumerate(views)]
        return join(views)

    def token_maps(self, vision: dict[str, Any]) -> list[TokenMap]:
        return [self._tile] * len(vision["pixel_values"])

    def locate(self, ids: Tensor, vision: dict[str, Any]) -> list[ImageSpan] | None:
        places = []
        for row, columns in runs(ids, self.placeholder):
            tiles, rest = divmod(len(columns), len(self._tile))
            if rest:
                return None
            places.append(ImageSpan(row, columns, self.image_map(tiles)))
        tiles = sum(len(place.token_map) for place in places) // len(self._tile)
        return places if tiles == len(vision["pixel_values"]) else None

    def take_places(self, vision: dict[str, Any], places: list[ImageSpan], new: list[int]) -> dict[str, Any]:
        counts = [len(place.token_map) // len(self._tile) for place in places]
        tiles = vision["pixel_values"].split(counts)
        return {**vision, "pixel_values": torch.cat([tiles[i] for i in new])}

    def crops(self, vision: dict[str, Any]) -> Tensor:
        return vision["pixel_values"]  # type: ignore[no-any-return]

    def parts(self, vision: dict[str, Any], maps: list[TokenMap]) -> TowerLayout:
        return CropBatch([len(token_map) // len(self._tile) for token_map in maps], self.prefix)

    def image(self, vision: dict[str, Any], maps: Sequence[TokenMap], index: int) -> Tensor:
        return vision["pixel_values"][last_view(maps, index)].detach()  # type: ignore[no-any-return]


def _pair(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
