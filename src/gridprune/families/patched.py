"""Families that hand their tower every view as a row of patches, padded to the longest: LFM2-VL and Gemma 4."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..core.token_map import TokenMap
from ..cues.first_layer import FirstAttention, find_first_attention
from ..cues.tower import Tower, find_tower
from ..errors import UnsupportedCallError
from .base import Family, ImageSpan
from .limits import CHUNKED_PREFILL, PADDING_BEHIND_CACHE, STATIC_CACHE, Limit
from .maps import join, last_view, pooled, views
from .parts import PaddedCropBatch, TowerLayout
from .spans import runs


class Patched(Family):
    """Views (V, P, patch * patch * 3) of any size; squares of patches become one token."""

    name: ClassVar[str] = "patched"

    @cached_property
    def tower(self) -> Tower:
        return find_tower(self.base.vision_tower)

    @property
    @abstractmethod
    def merge(self) -> int:
        """Side of the square of patches that becomes one token."""

    @abstractmethod
    def grids(self, vision: dict[str, Any]) -> list[tuple[int, int]]:
        """Patches of each view, rows and columns."""

    def token_maps(self, vision: dict[str, Any]) -> list[TokenMap]:
        return [pooled(rows, columns, self.merge) for rows, columns in self.grids(vision)]

    def parts(self, vision: dict[str, Any], maps: list[TokenMap]) -> TowerLayout:
        lengths = [rows * columns for rows, columns in self.grids(vision)]
        return PaddedCropBatch([views(token_map) for token_map in maps], self.prefix, lengths)

    def image(self, vision: dict[str, Any], maps: Sequence[TokenMap], index: int) -> Tensor:
        view = last_view(maps, index)
        rows, columns = self.grids(vision)[view]
        side = self.vision_config.patch_size
        patches = vision["pixel_values"][view, : rows * columns].detach().view(rows, columns, side, side, 3)
        return patches.permute(4, 0, 2, 1, 3).reshape(3, rows * side, columns * side)  # type: ignore[no-any-return]


class Lfm2Vl(Patched):
    """LFM2-VL: tiles with one marker, which is text, between them; the whole image comes last.

    The model is not told how tiles lie in an image: as in InternVL each is a plane of its own, without boxes.
    """

    name: ClassVar[str] = "lfm2-vl"
    classes: ClassVar[tuple[str, ...]] = ("Lfm2VlForConditionalGeneration",)
    layout_keys: ClassVar[tuple[str, ...]] = ("spatial_shapes", "pixel_attention_mask")
    limits: ClassVar[Mapping[str, Limit]] = {
        **Family.limits,
        PADDING_BEHIND_CACHE: Limit(
            "convolutions cannot skip the padding that evens out rows of a later turn; give them one at a time"
        ),
    }

    @cached_property
    def first_attention(self) -> FirstAttention:
        names = {"query_norm": "q_layernorm", "key_norm": "k_layernorm"}
        return find_first_attention(self.base.get_decoder(), norm="operator_norm", **names)

    @property
    def merge(self) -> int:
        return int(self.model.config.downsample_factor)

    def grids(self, vision: dict[str, Any]) -> list[tuple[int, int]]:
        return [(rows, columns) for rows, columns in vision["spatial_shapes"].tolist()]

    def locate(self, ids: Tensor, vision: dict[str, Any]) -> list[ImageSpan] | None:
        left, places = self.token_maps(vision), []
        for row, columns in _joined(runs(ids, self.placeholder)):
            taken: list[TokenMap] = []
            while left and sum(len(view) for view in taken) < len(columns):
                taken.append(left.pop(0))
            if sum(len(view) for view in taken) != len(columns):
                return None
            places.append(ImageSpan(row, columns, _planes(taken)))
        return None if left else places

    def take_places(self, vision: dict[str, Any], places: list[ImageSpan], new: list[int]) -> dict[str, Any]:
        owner = [number for number, place in enumerate(places) for _ in range(views(place.token_map))]
        return self.take_images(vision, [view for view, number in enumerate(owner) if number in new])


class Gemma4(Patched):
    """Gemma 4, still images: squares of patches averaged, 3 x 3 in the released models. Audio stays as it is."""

    name: ClassVar[str] = "gemma4"
    classes: ClassVar[tuple[str, ...]] = ("Gemma4ForConditionalGeneration",)
    layout_keys: ClassVar[tuple[str, ...]] = ("image_position_ids",)
    limits: ClassVar[Mapping[str, Limit]] = {
        CHUNKED_PREFILL: Limit("a chunk would cut an image, which sees itself in both directions in the larger models"),
        STATIC_CACHE: Limit("the larger models mask it wrongly", before="5.23"),
    }

    @property
    def merge(self) -> int:
        return int(self.vision_config.pooling_kernel_size)

    def grids(self, vision: dict[str, Any]) -> list[tuple[int, int]]:
        return [(rows + 1, columns + 1) for columns, rows in vision["image_position_ids"].amax(1).tolist()]

    def vision(self, call: dict[str, Any]) -> dict[str, Any] | None:
        if call.get("pixel_values_videos") is not None:
            raise UnsupportedCallError("Videos of Gemma 4 are not pruned: give their frames as images.")
        return super().vision(call)


def _joined(found: Sequence[tuple[int, Tensor]]) -> list[tuple[int, Tensor]]:
    """Runs of one row with a single token between them belong to one image."""
    joined: list[tuple[int, Tensor]] = []
    for row, columns in found:
        if joined and joined[-1][0] == row and int(columns[0]) - int(joined[-1][1][-1]) == 2:
            joined[-1] = (row, torch.cat([joined[-1][1], columns]))
        else:
            joined.append((row, columns))
    return joined


def _planes(views: Sequence[TokenMap]) -> TokenMap:
    """Views of one image, each a plane of its own; the last is the whole image."""
    placed = [replace(view, plane=view.plane + i, view=view.view + i) for i, view in enumerate(views)]
    unknown = [replace(view, boxes=torch.zeros_like(view.boxes)) for view in placed[:-1]]
    return join([*unknown, placed[-1]])
