"""LLaVA-OneVision: anyres on SigLIP, shrunk by interpolation above nine tiles; videos pooled 2 x 2."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..core.token_map import TokenMap
from ..cues.text_tower import SIGLIP_TEXT
from ..errors import UnsupportedCallError
from .base import EMBEDDINGS, Family
from .llava_next import LlavaNext
from .maps import interpolated, with_separators
from .video import Videos


class OneVision(LlavaNext):
    """`LlavaOnevisionForConditionalGeneration`. Several images in one row of the batch are seen as overviews only."""

    name: ClassVar[str] = "llava-onevision"
    classes: ClassVar[tuple[str, ...]] = ("LlavaOnevisionForConditionalGeneration",)
    option_keys: ClassVar[tuple[str, ...]] = (
        "vision_feature_layer",
        "vision_feature_select_strategy",
        "vision_aspect_ratio",
        "batch_num_images",
    )
    relevance: ClassVar[str] = EMBEDDINGS
    text_tower: ClassVar[str] = SIGLIP_TEXT
    video: ClassVar[bool] = True

    @cached_property
    def streams(self) -> list[Family]:  # type: ignore[override]
        return [self, OneVisionVideos(self.model)]

    def check_strategy(self, vision: dict[str, Any]) -> None:
        """SigLIP has no [CLS] to hand on."""

    def tiles(self, vision: dict[str, Any]) -> list[int]:
        return [count if alone else 1 for count, alone in zip(super().tiles(vision), self._alone(vision))]

    def _alone(self, vision: dict[str, Any]) -> list[bool]:
        """Which images are the only one of their row: only these are cut into tiles."""
        given = vision.get("batch_num_images")
        if given is None:
            return [True] * len(vision["image_sizes"])
        return [count == 1 for count in torch.as_tensor(given, device="cpu").tolist() for _ in range(count)]

    def take_images(self, vision: dict[str, Any], indices: Sequence[int]) -> dict[str, Any]:
        taken = super().take_images(vision, indices)
        if vision.get("batch_num_images") is None:
            return taken
        alone = [self._alone(vision)[i] for i in indices]
        if not all(alone) and any(alone):
            raise UnsupportedCallError("Some of these images were seen in an earlier turn: give the new ones only.")
        counts = [1] * len(indices) if all(alone) else [len(indices)]
        if counts == [1] and not alone[0]:
            raise UnsupportedCallError("Some of these images were seen in an earlier turn: give the new ones only.")
        return {**taken, "batch_num_images": torch.tensor(counts, device=taken["image_sizes"].device)}

    def _pack(self, features: list[Tensor], sizes: Tensor, newline: Tensor) -> list[Tensor]:
        packed, _ = self.base.pack_image_features(
            features, sizes, image_newline=newline, vision_aspect_ratio=self.model.config.vision_aspect_ratio
        )
        return packed  # type: ignore[no-any-return]


class OneVisionVideos(Videos):
    """Its videos: every frame pooled to half its rows and columns, one newline behind the last."""

    name: ClassVar[str] = "llava-onevision"
    relevance: ClassVar[str] = EMBEDDINGS
    text_tower: ClassVar[str] = SIGLIP_TEXT

    def video_map(self, frames: int) -> TokenMap:
        """Push the coordinates of every patch through the model's own pooling."""
        side = self.side
        patch = torch.arange(side * side, device="cpu")
        places = torch.stack([patch // side, patch % side], dim=-1).double().expand(frames, -1, -1)
        half = math.ceil(side / 2)
        token_map = interpolated(self.base.apply_pooling(places), (half, half), (side, side))
        return with_separators(token_map, [len(token_map)])
