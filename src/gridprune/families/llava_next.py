"""LLaVA-NeXT: an overview and a mosaic of tiles, cut to the picture, with a newline token behind every row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

from ..errors import UnsupportedCallError
from ..token_map import TokenMap
from .base import Encoded, as_sizes, stack_output
from .llava import Llava


class LlavaNext(Llava):
    """`LlavaNextForConditionalGeneration`. Plane 0 is the overview, plane 1 the mosaic of all tiles."""

    name: ClassVar[str] = "llava-next"
    classes: ClassVar[tuple[str, ...]] = ("LlavaNextForConditionalGeneration",)

    def token_maps(self, vision: dict[str, Any]) -> list[TokenMap]:
        super().token_maps({**vision, "pixel_values": vision["pixel_values"][:1]})  # the same check of the strategy
        return [self._anyres_map(size) for size in as_sizes(vision["image_sizes"]).tolist()]

    def _tiles(self, size: Sequence[int]) -> int:
        """Views of a picture of H x W pixels, the overview included."""
        config = self.model.config
        return int(image_size_to_num_patches(list(size), config.image_grid_pinpoints, config.vision_config.image_size))

    def _anyres_map(self, size: Sequence[int]) -> TokenMap:
        """Push the number of every tower patch through the model's own packing; -1 comes back where it put a newline."""
        key = tuple(size)
        cache: dict[tuple[int, ...], TokenMap] = self.__dict__.setdefault("_maps", {})
        if key in cache:
            return cache[key]
        rows, columns = self.grid
        per_view, views = rows * columns, self._tiles(size)
        numbers = torch.arange(views * per_view, dtype=torch.float64).view(views, per_view, 1)
        packed, _ = self.base.pack_image_features(
            [numbers],
            torch.tensor([list(size)]),
            vision_feature_select_strategy="default",
            image_newline=torch.full((1,), -1.0, dtype=torch.float64),
        )
        source = packed[0][:, 0].round().long()  # [n]
        cache[key] = _map_from_source(source, rows, columns, size)
        return cache[key]

    def encode(self, vision: dict[str, Any]) -> Encoded:
        arguments = {k: v for k, v in vision.items() if v is not None}
        with self._capture() as captured:
            output = self.base.get_image_features(**arguments, return_dict=True)
        maps = self.token_maps(vision)
        counts = [self._tiles(size) for size in as_sizes(vision["image_sizes"]).tolist()]
        ends = torch.tensor(counts).cumsum(0).tolist()
        views = [slice(end - count, end) for end, count in zip(ends, counts)]
        return Encoded(output, list(output.pooler_output), maps, views, captured)

    def handed_on(self, encoded: Encoded, kept: list[Tensor]) -> Any:
        return stack_output(encoded.output, kept)

    def encode_resized(self, vision: dict[str, Any], grid: tuple[int, int]) -> Encoded:
        raise UnsupportedCallError(
            "LLaVA-NeXT chooses its tiles by the picture's size: downsample the picture itself before the processor."
        )

    def picture(self, vision: dict[str, Any], index: int) -> Tensor:
        return torch.as_tensor(vision["pixel_values"][index][0]).detach()


def _map_from_source(source: Tensor, rows: int, columns: int, size: Sequence[int]) -> TokenMap:
    """Geometry from the patch number of each token: which plane, row and column, and which part of the picture."""
    per_view = rows * columns
    separator = source < 0
    view = torch.where(separator, 0, source // per_view)
    if int(view.max()) == 0:  # one view: the overview, and a newline behind it
        return _single_view_map(source, separator, rows, columns)
    n = len(source)
    plane = torch.ones(n, dtype=torch.int64)
    plane[:per_view] = 0
    # In the mosaic a newline ends every row, so rows are counted by the newlines before.
    mosaic = torch.arange(n) >= per_view
    row = (separator & mosaic).long().cumsum(0) - separator.long()
    width = int((separator & mosaic).nonzero()[0]) - per_view
    column = torch.where(mosaic, (torch.arange(n) - per_view) % (width + 1), source % columns)
    row = torch.where(mosaic, row, source // columns)
    view = torch.where(separator, view.roll(1), view)  # a newline belongs to the tile it ends
    height = int(row[mosaic].max()) + 1
    boxes = torch.where(
        mosaic[:, None], _boxes(row, column, height, width), _boxes(row, column, rows, columns)
    ).masked_fill(separator[:, None], 0.0)
    return TokenMap(
        plane=plane,
        view=view,
        row=row,
        column=column,
        frame=torch.zeros(n, dtype=torch.int64),
        separator=separator,
        boxes=boxes,
        source=source[:, None],
        grid=(height, width),
    )


def _single_view_map(source: Tensor, separator: Tensor, rows: int, columns: int) -> TokenMap:
    plain = TokenMap.from_grid(rows, columns)
    where = torch.where(separator, 0, source)
    picked = plain.take(where)
    row = torch.where(separator, rows, picked.row)  # behind the whole picture: a line of its own
    return TokenMap(
        plane=picked.plane,
        view=picked.view,
        row=row,
        column=torch.where(separator, 0, picked.column),
        frame=picked.frame,
        separator=separator,
        boxes=picked.boxes.masked_fill(separator[:, None], 0.0),
        source=source[:, None],
        grid=(rows, columns),
    )


def _boxes(row: Tensor, column: Tensor, rows: int, columns: int) -> Tensor:
    """(N, 4) fp32 boxes of grid cells in [0, 1]."""
    return torch.stack([column / columns, row / rows, (column + 1) / columns, (row + 1) / rows], dim=-1).float()
