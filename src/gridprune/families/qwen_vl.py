"""Qwen2-VL, Qwen2.5-VL, Qwen3-VL and what shares their layout: images of any size, patches merged 2 x 2, M-RoPE.

The tower runs all patches of a call in one sequence, in blocks of 2 x 2 that become one token each, so token j comes
from patches 4j to 4j + 3. Qwen2.5-VL shuffles these blocks into windows; captured values are put back in order. Kept
tokens always keep their M-RoPE positions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..core.token_map import TokenMap
from ..cues.first_layer import FirstAttention, find_first_attention
from ..cues.tower import Tower, find_tower
from .base import Encoded, Family, by_row
from .limits import PADDING_BEHIND_CACHE, Limit
from .parts import PackedSequence, TowerLayout


class QwenVL(Family):
    """Qwen2-VL and Qwen2.5-VL, still images."""

    name: ClassVar[str] = "qwen-vl"
    classes: ClassVar[tuple[str, ...]] = ("Qwen2VLForConditionalGeneration", "Qwen2_5_VLForConditionalGeneration")
    layout_keys: ClassVar[tuple[str, ...]] = ("image_grid_thw",)
    video: ClassVar[bool] = True

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self._maps: dict[tuple[int, ...], TokenMap] = {}

    @cached_property
    def streams(self) -> list[Family]:  # type: ignore[override]
        return [self, _videos_of(type(self))(self.model)]

    @cached_property
    def tower(self) -> Tower:
        full = tuple(getattr(self.vision_config, "fullatt_block_indexes", None) or ())
        return find_tower(self.base.visual, full_blocks=full, saliency_block=full[-1] if full else -2)

    @property
    def merge(self) -> int:
        """Side of the square of patches that becomes one token."""
        return int(self.vision_config.spatial_merge_size)

    # -- images ------------------------------------------------------------------------------------------------

    @property
    def _grid_key(self) -> str:
        return self.layout_keys[0]

    def grids(self, vision: dict[str, Any]) -> list[list[int]]:
        """Frames, rows and columns of patches of each image."""
        return vision[self._grid_key].tolist()  # type: ignore[no-any-return]

    def token_maps(self, vision: dict[str, Any]) -> list[TokenMap]:
        return [self._map(tuple(grid)) for grid in self.grids(vision)]

    def _map(self, grid: tuple[int, ...]) -> TokenMap:
        if grid not in self._maps:
            frames, rows, columns = grid
            merged = TokenMap.from_grid(rows // self.merge, columns // self.merge, frames=frames)
            patches = torch.arange(frames * rows * columns, device="cpu").view(len(merged), self.merge**2)
            self._maps[grid] = replace(merged, source=patches)
        return self._maps[grid]

    def take_images(self, vision: dict[str, Any], indices: Sequence[int]) -> dict[str, Any]:
        pixels = vision[self.pixel_keys[0]].split(vision[self._grid_key].prod(-1).tolist())
        taken = {self.pixel_keys[0]: torch.cat([pixels[i] for i in indices])}
        return {**vision, **taken, self._grid_key: vision[self._grid_key][list(indices)]}

    def features(self, vision: dict[str, Any]) -> Any:
        encoder = getattr(self.base, f"get_{self.modality}_features")
        return encoder(vision[self.pixel_keys[0]], vision[self._grid_key], return_dict=True)

    def embeddings(self, output: Any, maps: list[TokenMap]) -> list[Tensor]:
        return list(output.pooler_output)

    def parts(self, vision: dict[str, Any], maps: list[TokenMap]) -> TowerLayout:
        grids = self.grids(vision)
        frames = [rows * columns for count, rows, columns in grids for _ in range(count)]
        return PackedSequence([t * h * w for t, h, w in grids], frames, self._order(vision))

    def _order(self, vision: dict[str, Any]) -> Tensor | None:
        """Where the tower's window order put each patch; None if the tower has no windows."""
        if not self.tower.full_blocks:
            return None
        window = window_index(self.base.visual, vision[self._grid_key])
        back = window.argsort()
        unit = self.merge**2
        return (back[:, None] * unit + torch.arange(unit, device=back.device)).flatten()

    def image(self, vision: dict[str, Any], maps: Sequence[TokenMap], index: int) -> Tensor:
        grid = self.grids(vision)[index]
        pixels = vision[self.pixel_keys[0]].split(vision[self._grid_key].prod(-1).tolist())[index]
        frames = unpatched(pixels, grid, self.merge, self.vision_config)
        return frames if self.modality == "video" else frames[0]

    # -- positions -----------------------------------------------------------------------------------------------

    def rope(
        self, call: dict[str, Any], ids: Tensor, mask: Tensor | None, types: Tensor
    ) -> tuple[Tensor, Tensor] | None:
        grids = {
            stream._grid_key: grid
            for stream in self.streams
            if isinstance(stream, QwenVL) and (grid := stream._last_grids(call, ids)) is not None
        }
        seconds = call.get("second_per_grid_ts")
        if seconds is not None and "video_grid_thw" in grids:
            last = seconds[-len(grids["video_grid_thw"]) :]
            grids["second_per_grid_ts"] = last.cpu() if isinstance(last, Tensor) else last
        positions, delta = self.base.get_rope_index(ids, mm_token_type_ids=types, attention_mask=mask, **grids)
        real = mask.sum(1, keepdim=True) if mask is not None else ids.shape[1]
        return positions, delta + real

    def _last_grids(self, call: dict[str, Any], ids: Tensor) -> Tensor | None:
        """The grids, on the CPU, of the images that `ids` hold: a call may bring those of earlier turns as well."""
        given = call.get(self._grid_key)
        if given is None:
            return None
        given = given.cpu()
        wanted = int((ids == self.placeholder).sum())
        held = (given.prod(-1) // self.merge**2).flip(0).cumsum(0)
        return given[len(given) - int((held <= wanted).sum()) :]  # type: ignore[no-any-return]


class Qwen3VL(QwenVL):
    """Qwen3-VL: features of several tower layers are added in the first layers of the language model (deepstack)."""

    name: ClassVar[str] = "qwen3-vl"
    classes: ClassVar[tuple[str, ...]] = ("Qwen3VLForConditionalGeneration", "Qwen3VLMoeForConditionalGeneration")

    def handed_on(self, encoded: Encoded, kept: list[Tensor], masks: list[Tensor], rows: Sequence[int]) -> Any:
        planes = [
            by_row([values[mask.to(values.device)] for values, mask in zip(plane, masks)], rows)
            for plane in encoded.output.deepstack_features
        ]
        return type(encoded.output)(pooler_output=by_row(kept, rows), deepstack_features=planes)


class Qwen35(QwenVL):
    """Qwen3.5: Qwen3-VL's tower without deepstack, on a language model with linear attention."""

    name: ClassVar[str] = "qwen3.5"
    limits: ClassVar[Mapping[str, Limit]] = {
        **QwenVL.limits,
        PADDING_BEHIND_CACHE: Limit(
            "linear attention cannot skip the padding that evens out rows of a later turn; give them one at a time"
        ),
    }
    classes: ClassVar[tuple[str, ...]] = ("Qwen3_5ForConditionalGeneration", "Qwen3_5MoeForConditionalGeneration")

    @cached_property
    def first_attention(self) -> FirstAttention:
        return find_first_attention(self.base.get_decoder(), gated=True)


def _videos_of(family: type[QwenVL]) -> type[QwenVL]:
    """The same family for videos: tokens carry their frame, and the budget is one per video."""

    class Videos(family):  # type: ignore[valid-type, misc]
        pixel_keys: ClassVar[tuple[str, ...]] = ("pixel_values_videos",)
        layout_keys: ClassVar[tuple[str, ...]] = ("video_grid_thw",)
        modality: ClassVar[str] = "video"

    return Videos


def window_index(visual: Any, grid_thw: Tensor) -> Tensor:
    """Qwen2.5-VL's own order of 2 x 2 blocks in windows."""
    own = getattr(visual, "get_window_index", None)
    if own is not None:
        index = own(grid_thw)[0]
        return torch.as_tensor(index, device="cpu")
    from transformers.vision_utils import get_vision_window_index

    index, _ = get_vision_window_index(
        grid_thw,
        spatial_merge_size=visual.spatial_merge_size,
        window_size=visual.window_size,
        patch_size=visual.patch_size,
    )
    return torch.as_tensor(index, device="cpu")


def unpatched(pixels: Tensor, grid: Sequence[int], merge: int, config: Any) -> Tensor:
    """(t, 3, H, W) from patches (t * h * w, 3 * tp * p * p) in their order: the first of every tp frames."""
    frames, rows, columns = grid
    side = config.patch_size
    blocks = pixels.detach().view(frames, rows // merge, columns // merge, merge, merge, 3, -1, side, side)
    first = blocks[:, :, :, :, :, :, 0]  # [t, h/m, w/m, m, m, 3, p, p]
    return first.permute(0, 5, 1, 3, 6, 2, 4, 7).reshape(frames, 3, rows * side, columns * side)
