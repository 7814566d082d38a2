"""LLaVA-NeXT: an overview and a mosaic of tiles, cut to the image, with a newline token behind every row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..compat import in_memory
from ..core.token_map import TokenMap
from .base import as_sizes
from .llava import Llava
from .parts import CropBatch, TowerLayout


class LlavaNext(Llava):
    """`LlavaNextForConditionalGeneration`. Plane 0 is the overview, plane 1 the mosaic of all tiles.

    A newline token stays if, and only if, its row of the mosaic keeps a token; newlines never count towards k.
    """

    name: ClassVar[str] = "llava-next"
    classes: ClassVar[tuple[str, ...]] = ("LlavaNextForConditionalGeneration",)
    layout_keys: ClassVar[tuple[str, ...]] = ("image_sizes",)

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self._maps: dict[tuple[int, ...], TokenMap] = {}

    def vision(self, call: dict[str, Any]) -> dict[str, Any] | None:
        found = super().vision(call)
        if found is not None and isinstance(found.get("image_sizes"), Tensor):
            found["image_sizes"] = found["image_sizes"].cpu()  # read several times, by the model as well
        return found

    def token_maps(self, vision: dict[str, Any]) -> list[TokenMap]:
        self.check_strategy(vision)
        return [self.anyres_map(tuple(size), tiles) for size, tiles in zip(self._sizes(vision), self.tiles(vision))]

    def _sizes(self, vision: dict[str, Any]) -> list[list[int]]:
        return as_sizes(vision["image_sizes"]).tolist()  # type: ignore[no-any-return]

    def tiles(self, vision: dict[str, Any]) -> list[int]:
        """Views of each image, the overview included."""
        from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

        points, side = self.model.config.image_grid_pinpoints, self.vision_config.image_size
        return [int(image_size_to_num_patches(size, points, side)) for size in self._sizes(vision)]

    def anyres_map(self, size: tuple[int, ...], tiles: int) -> TokenMap:
        """Geometry of an image of H x W pixels in `tiles` views; remembered."""
        key = (*size, tiles)
        if key not in self._maps:
            self._maps[key] = self._build_map(size, tiles)
        return self._maps[key]

    def _build_map(self, size: Sequence[int], tiles: int) -> TokenMap:
        """Push coordinates of every tower patch through the model's own packing: where it put them, tokens lie."""
        rows, columns = self.grid
        patch = torch.arange(rows * columns, device="cpu")
        place = torch.stack([patch // columns, patch % columns], dim=-1)  # [P, 2]
        across = 1 if tiles == 1 else self._across(size)
        tile = torch.arange(tiles, device="cpu") - 1  # the overview is view 0, tile -1
        origin = torch.stack([tile.div(across, rounding_mode="floor") * rows, tile % across * columns], dim=-1)
        origin[0] = 0
        numbers = (place + origin[:, None]).double()  # [V, P, 2] row and column within the plane
        newline = torch.full((2,), -1.0, dtype=torch.float64, device="cpu")
        packed = self._pack([numbers], torch.tensor([list(size)], device="cpu"), newline)[0]  # [n, 2]
        return map_from_places(packed, (rows, columns), across)

    def _across(self, size: Sequence[int]) -> int:
        """Tiles in a row of the mosaic."""
        from transformers.models.llava_next.modeling_llava_next import get_anyres_image_grid_shape

        shape = get_anyres_image_grid_shape(  # type: ignore[no-untyped-call]
            list(size), self.model.config.image_grid_pinpoints, self.vision_config.image_size
        )
        return int(shape[1])

    def _pack(self, features: list[Tensor], sizes: Tensor, newline: Tensor) -> list[Tensor]:
        packed, _ = self.base.pack_image_features(
            features, sizes, vision_feature_select_strategy="default", image_newline=newline
        )
        return packed  # type: ignore[no-any-return]

    def features(self, vision: dict[str, Any]) -> Any:
        with in_memory(self.base):  # the newline is read outside of any forward call
            return super().features(vision)

    def crops(self, vision: dict[str, Any]) -> Tensor:
        return torch.cat([pixels[:count] for pixels, count in zip(vision["pixel_values"], self.tiles(vision))])

    def parts(self, vision: dict[str, Any], maps: list[TokenMap]) -> TowerLayout:
        return CropBatch(self.tiles(vision), self.prefix)

    def image(self, vision: dict[str, Any], maps: Sequence[TokenMap], index: int) -> Tensor:
        return vision["pixel_values"][index][0].detach()  # type: ignore[no-any-return]


def map_from_places(place: Tensor, grid: tuple[int, int], across: int) -> TokenMap:
    """Geometry from each token's place, as the model's packing left it.

    Args:
        place: (n, 2) fp64 row and column: first the overview's, then the mosaic's, -1 for newlines. Fractions say that
            the packing shrank the mosaic by interpolation.
        grid: rows and columns of one view.
        across: tiles in a row of the mosaic.
    """
    rows, columns = grid
    place = place.mul(1e6).round().div(1e6)  # interpolation leaves whole numbers off by a rounding error
    per_view, n = rows * columns, len(place)
    separator = place[:, 0] < 0
    mosaic = torch.arange(n, device="cpu") >= per_view
    if not bool((mosaic & ~separator).any()):
        mosaic = torch.zeros_like(mosaic)
    row, column, height, width = _count(place, separator, mosaic, rows, columns)
    source = _source(place, mosaic, grid, across).masked_fill(separator[:, None], -1)
    sizes = torch.tensor([[rows, columns], [height, width]], device="cpu")
    cells = sizes[mosaic.long()]  # [n, 2]
    corner = torch.stack([column, row], dim=-1)
    boxes = torch.cat([corner.double() / cells.flip(-1), (corner + 1).double() / cells.flip(-1)], dim=-1).float()
    return TokenMap(
        plane=mosaic.long(),
        view=_view(source, separator, per_view),
        row=row,
        column=column,
        frame=torch.zeros_like(row),
        separator=separator,
        boxes=boxes.masked_fill(separator[:, None], 0.0),
        source=source,
        grid=(height, width),
    )


def _count(
    place: Tensor, separator: Tensor, mosaic: Tensor, rows: int, columns: int
) -> tuple[Tensor, Tensor, int, int]:
    """Row and column of each token within its plane, counted from 0, and the size of the finest plane."""
    number = torch.arange(len(place), device="cpu")
    row, column = number // columns, number % columns
    if not bool(mosaic.any()):  # the overview alone, and perhaps a newline behind it, on a line of its own
        return row, column, rows, columns
    behind = mosaic & separator
    width = int(behind.nonzero()[0]) - rows * columns if bool(behind.any()) else len(set(place[mosaic, 1].tolist()))
    step = width + int(behind.any())
    inside = number - rows * columns
    row, column = torch.where(mosaic, inside // step, row), torch.where(mosaic, inside % step, column)
    return row, column, int(row[mosaic].max()) + 1, width


def _source(place: Tensor, mosaic: Tensor, grid: tuple[int, int], across: int) -> Tensor:
    """(n, m) tower patches under each token: one, or the four that an interpolation read."""
    rows, columns = grid
    whole = bool((place == place.round()).all())
    steps = ((0.0, 0.0),) if whole else ((0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0))
    patches = []
    for down, right in steps:
        row = (place[:, 0].ceil() if down else place[:, 0].floor()).long()
        column = (place[:, 1].ceil() if right else place[:, 1].floor()).long()
        tile = row // rows * across + column // columns
        patches.append(torch.where(mosaic, tile + 1, 0) * rows * columns + row % rows * columns + column % columns)
    return torch.stack(patches, dim=-1)


def _view(source: Tensor, separator: Tensor, per_view: int) -> Tensor:
    """The crop each token comes from; a newline belongs to the tile it ends."""
    view = source[:, 0] // per_view
    return torch.where(separator, view.roll(1), view).clamp(min=0)
