"""What families share whose image is one view: its tokens lie alike in every image."""

from __future__ import annotations

from abc import abstractmethod
from functools import cached_property
from typing import Any, ClassVar

from torch import Tensor

from ..core.token_map import TokenMap
from .base import Family


class OneView(Family):
    """One view an image, of one size."""

    one_size: ClassVar[bool] = True

    @cached_property
    @abstractmethod
    def _map(self) -> TokenMap:
        """Where the tokens of every image lie."""

    def crops(self, vision: dict[str, Any]) -> Tensor:
        return vision["pixel_values"]  # type: ignore[no-any-return]

    def token_maps(self, vision: dict[str, Any]) -> list[TokenMap]:
        return [self._map] * len(vision["pixel_values"])


class Raster(OneView):
    """One token a patch, projected one by one."""

    @property
    def projector(self) -> Any:
        """From tower features to the language model's embeddings."""
        return self.base.multi_modal_projector

    @cached_property
    def _map(self) -> TokenMap:
        side = self.vision_config.image_size // self.vision_config.patch_size
        return TokenMap.from_grid(side, side)

    def project(self, tower_features: Tensor) -> Tensor:
        return self.projector(tower_features.to(next(self.projector.parameters()).dtype))
