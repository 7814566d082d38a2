"""DeepSeek-VL and Janus: one image, one view, a raster of patches, projected one by one."""

from __future__ import annotations

from functools import cached_property
from typing import Any, ClassVar

from ..cues.tower import Tower, find_tower
from .raster import Raster


class Deepseek(Raster):
    """DeepSeek-VL on SigLIP; Janus and Janus-Pro where they read images (those they draw are not pruned)."""

    name: ClassVar[str] = "deepseek-vl"
    classes: ClassVar[tuple[str, ...]] = ("DeepseekVLForConditionalGeneration", "JanusForConditionalGeneration")
    dense: ClassVar[bool] = True

    @cached_property
    def tower(self) -> Tower:
        return find_tower(self.base.vision_model)

    @property
    def projector(self) -> Any:
        return self.base.aligner
