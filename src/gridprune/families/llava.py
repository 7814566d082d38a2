"""LLaVA-1.5 and its kin: one picture, one view, one CLIP tower, a raster of patches."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..cues.tower import Captured, Tower, find_clip_tower
from ..errors import UnsupportedModelError
from ..token_map import TokenMap
from .base import Encoded, Family, stack_output


class Llava(Family):
    """`LlavaForConditionalGeneration` on a CLIP tower (LLaVA-1.5, BakLLaVA and others with its layout)."""

    name: ClassVar[str] = "llava"
    classes: ClassVar[tuple[str, ...]] = ("LlavaForConditionalGeneration",)
    vision_keys: ClassVar[tuple[str, ...]] = (
        "pixel_values",
        "image_sizes",
        "vision_feature_layer",
        "vision_feature_select_strategy",
    )
    saliency: ClassVar[str] = "[CLS] attention of the penultimate block"
    relevance: ClassVar[str] = "CLIP text tower"

    @property
    def base(self) -> Any:
        return self.model.model

    @cached_property
    def tower(self) -> Tower:
        return find_clip_tower(self.base.vision_tower)

    @property
    def feature_block(self) -> int:
        layer = self.model.config.vision_feature_layer
        if not isinstance(layer, int):
            raise UnsupportedModelError(
                f"vision_feature_layer is {layer!r}: features of several layers have no single patch state. Methods that "
                "need relevance or tower features cannot run on this model."
            )
        # hidden_states[0] is the embedding, so hidden_states[i] is the output of block i - 1
        return self.tower.block(layer - 1 if layer > 0 else layer)

    @property
    def grid(self) -> tuple[int, int]:
        """Patches of one view, rows and columns."""
        config = self.model.config.vision_config
        side = config.image_size // config.patch_size
        return side, side

    def count_images(self, vision: dict[str, Any]) -> int:
        return len(vision["pixel_values"])

    def take_images(self, vision: dict[str, Any], indices: Sequence[int]) -> dict[str, Any]:
        picked = dict(vision)
        for key in ("pixel_values", "image_sizes"):
            if picked.get(key) is not None:
                picked[key] = picked[key][list(indices)]
        return picked

    def token_maps(self, vision: dict[str, Any]) -> list[TokenMap]:
        strategy = vision.get("vision_feature_select_strategy") or self.model.config.vision_feature_select_strategy
        if strategy != "default":
            raise UnsupportedModelError(
                f"vision_feature_select_strategy={strategy!r} hands [CLS] to the language model as a visual token. "
                "gridprune supports 'default' (patches only)."
            )
        return [self._map] * self.count_images(vision)

    @cached_property
    def _map(self) -> TokenMap:
        return TokenMap.from_grid(*self.grid)

    def encode(self, vision: dict[str, Any]) -> Encoded:
        arguments = {k: v for k, v in vision.items() if v is not None}
        with self._capture() as captured:
            output = self.base.get_image_features(**arguments, return_dict=True)
        embeddings = list(output.pooler_output)
        views = [slice(i, i + 1) for i in range(len(embeddings))]
        return Encoded(output, embeddings, self.token_maps(vision), views, captured)

    def _capture(self) -> Any:
        return self.tower.capture()

    def project(self, tower_features: Tensor) -> Tensor:
        projector = self.base.multi_modal_projector
        return projector(tower_features.to(next(projector.parameters()).dtype))

    def handed_on(self, encoded: Encoded, kept: list[Tensor]) -> Any:
        return stack_output(encoded.output, kept)

    def encode_resized(self, vision: dict[str, Any], grid: tuple[int, int]) -> Encoded:
        patch = self.model.config.vision_config.patch_size
        small = nn.functional.interpolate(
            vision["pixel_values"].float(), size=(grid[0] * patch, grid[1] * patch), mode="bilinear", antialias=True
        ).to(vision["pixel_values"].dtype)
        output = self.base.get_image_features(small, interpolate_pos_encoding=True, return_dict=True)
        views = [slice(i, i + 1) for i in range(len(small))]
        return Encoded(output, list(output.pooler_output), self.token_maps(vision), views, Captured())

    def picture(self, vision: dict[str, Any], index: int) -> Tensor:
        return torch.as_tensor(vision["pixel_values"][index]).detach()
