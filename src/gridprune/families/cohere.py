"""Aya Vision and Command A Vision: InternVL's tiles on SigLIP, with text between the tiles of an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..core.token_map import TokenMap
from ..cues.text_tower import SIGLIP_TEXT
from ..cues.tower import Tower, find_clip_tower
from .base import ImageSpan
from .idefics3 import images_by_marker
from .internvl import InternVL
from .spans import runs


class Cohere2Vision(InternVL):
    """Command A Vision: a line break, one token, behind every tile; so a wider gap ends an image."""

    name: ClassVar[str] = "cohere2-vision"
    classes: ClassVar[tuple[str, ...]] = ("Cohere2VisionForConditionalGeneration",)
    option_keys: ClassVar[tuple[str, ...]] = ()
    text_tower: ClassVar[str] = SIGLIP_TEXT

    @cached_property
    def tower(self) -> Tower:
        return find_clip_tower(self.base.vision_tower)

    @cached_property
    def _tile(self) -> TokenMap:
        side = self.vision_config.image_size // self.vision_config.patch_size
        numbers = torch.arange(side * side, dtype=torch.float64, device="cpu").view(1, -1, 1)
        shuffled = self.base.multi_modal_projector.pixel_shuffle(numbers)[0]  # [r, c, m]
        tile = TokenMap.from_grid(*shuffled.shape[:2])
        return replace(tile, source=shuffled.flatten(0, 1).long())

    def locate(self, ids: Tensor, vision: dict[str, Any]) -> list[ImageSpan] | None:
        found = runs(ids, self.placeholder)
        if len(found) != len(vision["pixel_values"]) or any(len(run) != len(self._tile) for _, run in found):
            return None
        rows = [[run for where, run in found if where == row] for row in range(len(ids))]
        return [
            ImageSpan(row, torch.cat(list(tiles)), self.image_map(len(tiles)))
            for row, runs_ in enumerate(rows)
            for tiles in self._images(ids[row], runs_)
        ]

    def _images(self, ids: Tensor, tiles: Sequence[Tensor]) -> list[list[Tensor]]:
        """Runs of one row, grouped into images."""
        groups: list[list[Tensor]] = []
        for tile in tiles:
            if groups and int(tile[0]) - int(groups[-1][-1][-1]) == 2:
                groups[-1].append(tile)
            else:
                groups.append([tile])
        return groups


class AyaVision(Cohere2Vision):
    """Aya Vision: a marker in front of every tile, another one in front of the whole image, which comes last."""

    name: ClassVar[str] = "aya-vision"
    classes: ClassVar[tuple[str, ...]] = ("AyaVisionForConditionalGeneration",)
    option_keys: ClassVar[tuple[str, ...]] = ("vision_feature_layer", "vision_feature_select_strategy")

    def _images(self, ids: Tensor, tiles: Sequence[Tensor]) -> list[list[Tensor]]:
        return images_by_marker(ids, tiles)
