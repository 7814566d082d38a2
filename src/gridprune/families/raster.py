"""What families share whose picture is one view: a square raster of patches, projected one by one."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from torch import Tensor

from ..token_map import TokenMap
from .base import Family


class Raster(Family):
    """One view a picture, one token a patch."""

    @property
    def projector(self) -> Any:
        """From tower features to the language model's embeddings."""
        return self.base.multi_modal_projector

    def crops(self, vision: dict[str, Any]) -> Tensor:
        return vision["pixel_values"]  # type: ignore[no-any-return]

    def token_maps(self, vision: dict[str, Any]) -> list[TokenMap]:
        return [self._map] * len(vision["pixel_values"])

    @cached_property
    def _map(self) -> TokenMap:
        side = self.vision_config.image_size // self.vision_config.patch_size
        return TokenMap.from_grid(side, side)

    def project(self, tower_features: Tensor) -> Tensor:
        return self.projector(tower_features.to(next(self.projector.parameters()).dtype))
