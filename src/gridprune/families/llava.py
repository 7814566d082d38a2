"""LLaVA-1.5 and its kin: one image, one view, one CLIP tower, a raster of patches."""

from __future__ import annotations

from functools import cached_property
from typing import Any, ClassVar

from torch import Tensor

from ..compat import is_compiled
from ..core.token_map import TokenMap
from ..errors import UnsupportedModelError
from .base import CLIP_TEXT, Family


class Llava(Family):
    """`LlavaForConditionalGeneration` on a CLIP tower (LLaVA-1.5, BakLLaVA and others with its layout)."""

    name: ClassVar[str] = "llava"
    classes: ClassVar[tuple[str, ...]] = ("LlavaForConditionalGeneration",)
    option_keys: ClassVar[tuple[str, ...]] = ("vision_feature_layer", "vision_feature_select_strategy")
    relevance: ClassVar[str] = CLIP_TEXT
    text_tower: ClassVar[str] = CLIP_TEXT
    one_size: ClassVar[bool] = True

    def last_block(self, vision: dict[str, Any]) -> int | None:
        layer = getattr(self.model.config, "vision_feature_layer", None)
        given = vision.get("vision_feature_layer") is not None or is_compiled(self.tower.module)
        return self.feature_block if isinstance(layer, int) and not given else None

    @property
    def grid(self) -> tuple[int, int]:
        """Patches of one view, rows and columns."""
        side = self.vision_config.image_size // self.vision_config.patch_size
        return side, side

    def token_maps(self, vision: dict[str, Any]) -> list[TokenMap]:
        self.check_strategy(vision)
        return [self._map] * len(vision[self.pixel_keys[0]])

    def check_strategy(self, vision: dict[str, Any]) -> None:
        """Refuse models that hand [CLS] to the language model."""
        strategy = vision.get("vision_feature_select_strategy") or self.model.config.vision_feature_select_strategy
        if strategy != "default":
            raise UnsupportedModelError(
                f"vision_feature_select_strategy={strategy!r} hands [CLS] to the language model as a visual token. "
                "gridprune supports 'default' (patches only)."
            )

    @cached_property
    def _map(self) -> TokenMap:
        return TokenMap.from_grid(*self.grid)

    def crops(self, vision: dict[str, Any]) -> Tensor:
        return vision["pixel_values"]  # type: ignore[no-any-return]

    def project(self, tower_features: Tensor) -> Tensor:
        projector = self.base.multi_modal_projector
        return projector(tower_features.to(next(projector.parameters()).dtype))
