"""DeepSeek-VL and Janus: one picture, one view, a raster of patches, projected one by one."""

from __future__ import annotations

from functools import cached_property
from typing import Any, ClassVar

from torch import Tensor

from ..cues.tower import Tower, find_tower
from ..token_map import TokenMap
from .base import Family


class Deepseek(Family):
    """DeepSeek-VL on SigLIP; Janus and Janus-Pro where they read pictures (those they draw are not pruned)."""

    name: ClassVar[str] = "deepseek-vl"
    classes: ClassVar[tuple[str, ...]] = ("DeepseekVLForConditionalGeneration", "JanusForConditionalGeneration")
    dense: ClassVar[bool] = True

    @cached_property
    def tower(self) -> Tower:
        return find_tower(self.base.vision_model)

    def crops(self, vision: dict[str, Any]) -> Tensor:
        return vision["pixel_values"]  # type: ignore[no-any-return]

    def token_maps(self, vision: dict[str, Any]) -> list[TokenMap]:
        return [self._map] * len(vision["pixel_values"])

    @cached_property
    def _map(self) -> TokenMap:
        side = self.vision_config.image_size // self.vision_config.patch_size
        return TokenMap.from_grid(side, side)

    def project(self, tower_features: Tensor) -> Tensor:
        aligner = self.base.aligner
        return aligner(tower_features.to(next(aligner.parameters()).dtype))
