"""LLaVA-NeXT-Video and Video-LLaVA: families on CLIP towers that see videos frame by frame."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar

from torch import Tensor

from ..core.token_map import TokenMap
from ..cues.tower import Tower, find_clip_tower
from .base import CLIP_TEXT, Family
from .llava import Llava
from .llava_next import LlavaNext
from .maps import pooled, with_separators
from .parts import CropBatch, TowerLayout


class Videos(Family):
    """Videos as (videos, frames, 3, H, W), here on CLIP towers; one budget per video, tokens carry their frame."""

    name: ClassVar[str] = "videos"
    classes: ClassVar[tuple[str, ...]] = ()
    pixel_keys: ClassVar[tuple[str, ...]] = ("pixel_values_videos",)
    option_keys: ClassVar[tuple[str, ...]] = ("vision_feature_layer", "vision_feature_select_strategy")
    relevance: ClassVar[str] = CLIP_TEXT
    text_tower: ClassVar[str] = CLIP_TEXT
    modality: ClassVar[str] = "video"
    dense: ClassVar[bool] = True

    @property
    def side(self) -> int:
        """Patches along a side of a frame."""
        return int(self.vision_config.image_size // self.vision_config.patch_size)

    def token_maps(self, vision: dict[str, Any]) -> list[TokenMap]:
        videos, frames = vision["pixel_values_videos"].shape[:2]
        return [self.video_map(frames)] * videos

    @abstractmethod
    def video_map(self, frames: int) -> TokenMap:
        """Geometry of a video of some frames."""

    def parts(self, vision: dict[str, Any], maps: list[TokenMap]) -> TowerLayout:
        return CropBatch([vision["pixel_values_videos"].shape[1]] * len(maps), self.prefix)

    def image(self, vision: dict[str, Any], maps: Sequence[TokenMap], index: int) -> Tensor:
        return vision["pixel_values_videos"][index].detach()  # type: ignore[no-any-return]


class LlavaNextVideos(Videos):
    """Every frame pooled 2 x 2."""

    name: ClassVar[str] = "llava-next-video"

    def video_map(self, frames: int) -> TokenMap:
        return pooled(self.side, self.side, self.model.config.spatial_pool_stride, frames=frames)


class LlavaNextVideo(LlavaNext):
    """`LlavaNextVideoForConditionalGeneration`: images as LLaVA-NeXT, and videos."""

    name: ClassVar[str] = "llava-next-video"
    classes: ClassVar[tuple[str, ...]] = ("LlavaNextVideoForConditionalGeneration",)
    video: ClassVar[bool] = True

    @cached_property
    def streams(self) -> list[Family]:  # type: ignore[override]
        return [self, LlavaNextVideos(self.model)]


class VideoLlavaVideos(Videos):
    """Every frame with its [CLS] in front. [CLS] is handed on by the model; it counts as a separator and stays."""

    name: ClassVar[str] = "video-llava"
    option_keys: ClassVar[tuple[str, ...]] = ("vision_feature_layer",)

    @cached_property
    def tower(self) -> Tower:
        return find_clip_tower(self.base.video_tower)

    def video_map(self, frames: int) -> TokenMap:
        per_frame = self.side**2
        return with_separators(
            TokenMap.from_grid(self.side, self.side, frames=frames), [frame * per_frame for frame in range(frames)]
        )


class VideoLlava(Llava):
    """`VideoLlavaForConditionalGeneration`: images and videos through towers of their own.

    Its images were called `pixel_values_images` before transformers 5.21, and its processor may still call them so.
    """

    name: ClassVar[str] = "video-llava"
    classes: ClassVar[tuple[str, ...]] = ("VideoLlavaForConditionalGeneration",)
    pixel_keys: ClassVar[tuple[str, ...]] = ("pixel_values", "pixel_values_images")
    dense: ClassVar[bool] = True
    video: ClassVar[bool] = True

    @cached_property
    def streams(self) -> list[Family]:  # type: ignore[override]
        return [self, VideoLlavaVideos(self.model)]

    @cached_property
    def tower(self) -> Tower:
        return find_clip_tower(self.base.image_tower)

    def vision(self, call: dict[str, Any]) -> dict[str, Any] | None:
        found = super().vision(call)
        if found is None or "pixel_values_images" not in found:
            return found
        pixels = found.pop("pixel_values_images")
        return {**found, "pixel_values": pixels}

    def features(self, vision: dict[str, Any]) -> Any:
        encoder = self.base.get_image_features
        name = next(key for key in inspect.signature(encoder).parameters if key in self.pixel_keys)
        others = {key: value for key, value in vision.items() if key != "pixel_values"}
        return encoder(**{name: vision["pixel_values"]}, **others, return_dict=True)
