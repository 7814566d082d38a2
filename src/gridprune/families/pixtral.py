"""Families on a Pixtral tower: images of any size side by side in one sequence, row breaks that are text."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar

from torch import Tensor

from ..core.token_map import TokenMap
from ..cues.tower import Tower, find_tower
from .base import Family, as_sizes
from .maps import pooled
from .parts import PackedSequence, TowerLayout


class Pixtral(Family):
    """Pixtral in transformers' Llava classes: one token per patch. `[IMG_BREAK]` and `[IMG_END]` are text and stay."""

    name: ClassVar[str] = "pixtral"
    classes: ClassVar[tuple[str, ...]] = ("LlavaForConditionalGeneration",)
    vision_models: ClassVar[tuple[str, ...]] = ("pixtral",)
    layout_keys: ClassVar[tuple[str, ...]] = ("image_sizes",)
    option_keys: ClassVar[tuple[str, ...]] = ("vision_feature_layer", "vision_feature_select_strategy")

    @cached_property
    def tower(self) -> Tower:
        return find_tower(self.base.vision_tower)

    @property
    def merge(self) -> int:
        """Side of the square of patches that becomes one token."""
        return 1

    def _grids(self, vision: dict[str, Any]) -> list[tuple[int, int]]:
        """Patches of each image, rows and columns."""
        patch = self.vision_config.patch_size
        return [(height // patch, width // patch) for height, width in as_sizes(vision["image_sizes"]).tolist()]

    def token_maps(self, vision: dict[str, Any]) -> list[TokenMap]:
        return [pooled(rows, columns, self.merge) for rows, columns in self._grids(vision)]

    def take_images(self, vision: dict[str, Any], indices: Sequence[int]) -> dict[str, Any]:
        taken = super().take_images({**vision, "image_sizes": as_sizes(vision["image_sizes"])}, indices)
        height, width = as_sizes(taken["image_sizes"]).amax(0).tolist()
        return {**taken, "pixel_values": taken["pixel_values"][..., :height, :width]}

    def parts(self, vision: dict[str, Any], maps: list[TokenMap]) -> TowerLayout:
        lengths = [rows * columns for rows, columns in self._grids(vision)]
        return PackedSequence(lengths, lengths)

    def image(self, vision: dict[str, Any], maps: Sequence[TokenMap], index: int) -> Tensor:
        height, width = as_sizes(vision["image_sizes"])[index].tolist()
        return vision["pixel_values"][index, :, :height, :width].detach()  # type: ignore[no-any-return]


class Mistral3(Pixtral):
    """Mistral Small 3 with images: patches fused 2 x 2."""

    name: ClassVar[str] = "mistral3"
    classes: ClassVar[tuple[str, ...]] = ("Mistral3ForConditionalGeneration",)
    vision_models: ClassVar[tuple[str, ...]] = ()
    option_keys: ClassVar[tuple[str, ...]] = ("vision_feature_layer",)

    @property
    def merge(self) -> int:
        return int(self.model.config.spatial_merge_size)


class LightOnOcr(Mistral3):
    """LightOnOCR: the same under other names. Row breaks are text."""

    name: ClassVar[str] = "lighton-ocr"
    classes: ClassVar[tuple[str, ...]] = ("LightOnOcrForConditionalGeneration",)
    option_keys: ClassVar[tuple[str, ...]] = ()

    @cached_property
    def tower(self) -> Tower:
        return find_tower(self.base.vision_encoder)
