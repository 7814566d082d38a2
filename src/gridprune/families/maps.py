"""Token maps of towers whose neighbouring patches are fused, and of images cut into tiles."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..core.token_map import TokenMap


def pooled(rows: int, columns: int, kernel: int, *, frames: int = 1) -> TokenMap:
    """Squares of `kernel` x `kernel` patches fused into a token each; what does not fill a square is dropped."""
    patches = torch.arange(frames * rows * columns, dtype=torch.float64, device="cpu").view(frames, 1, rows, columns)
    source = (
        nn.functional.unfold(patches, kernel, stride=kernel).transpose(1, 2).flatten(0, 1)
    )  # [frames * n, kernel^2]
    token_map = TokenMap.from_grid(rows // kernel, columns // kernel, frames=frames)
    return replace(token_map, source=source.long())


def interpolated(places: Tensor, size: tuple[int, int], grid: tuple[int, int]) -> TokenMap:
    """Tokens that an interpolation read off a grid of patches: each comes from the four nearest.

    Args:
        places: (frames, n, 2) row and column of each token among the patches.
        size: rows and columns of the tokens.
        grid: rows and columns of the patches.
    """
    frames, (rows, columns) = places.shape[0], grid
    places = places.mul(1e6).round().div(1e6)  # interpolation leaves whole numbers off by a rounding error
    low, high = places.floor().long(), places.ceil().long()
    corners = [row * columns + column for row in (low[..., 0], high[..., 0]) for column in (low[..., 1], high[..., 1])]
    offset = torch.arange(frames, device="cpu")[:, None, None] * rows * columns
    source = (torch.stack(corners, dim=-1) + offset).flatten(0, 1)
    return replace(TokenMap.from_grid(*size, frames=frames), source=source)


def with_separators(token_map: TokenMap, before: Sequence[int]) -> TokenMap:
    """The map with separators put in front of the given tokens (its length means behind the last).

    Each stands on a line of its own, so it stays whatever is kept, in the frame of the token that follows it.
    """
    n = len(token_map)
    numbers = [-1 if kind else place for place in range(n + 1) for kind in _marks(place, before, n)]
    marks = torch.tensor(numbers, device="cpu")
    separator = marks < 0
    following = torch.where(separator, n - 1, marks).flip(0).cummin(0).values.flip(0)  # the next token's number
    wide = token_map.take(following)
    return replace(
        wide,
        row=torch.where(separator, token_map.grid[0], wide.row),
        column=torch.where(separator, 0, wide.column),
        separator=separator,
        boxes=wide.boxes.masked_fill(separator[:, None], 0.0),
        source=wide.source.masked_fill(separator[:, None], -1),
    )


def _marks(place: int, before: Sequence[int], n: int) -> list[bool]:
    return [True] * before.count(place) + ([False] if place < n else [])


def tiled(tile: TokenMap, down: int, across: int, *, whole: bool) -> TokenMap:
    """An image in `down` x `across` tiles, tile by tile, with a view of the whole image behind them.

    Plane 0 is the mosaic, plane 1 the whole image.

    Args:
        tile: tokens of one tile.
        whole: whether there is a view of the whole image.
    """
    rows, columns = tile.grid
    parts = []
    for number in range(down * across):
        row, column = tile.row + number // across * rows, tile.column + number % across * columns
        corner = torch.stack([column, row], dim=-1)
        size = torch.tensor([across * columns, down * rows], device="cpu")
        boxes = torch.cat([corner.double() / size, (corner + 1).double() / size], dim=-1).float()
        parts.append(replace(tile, row=row, column=column, boxes=boxes, view=tile.view + number))
    if whole:
        parts.append(replace(tile, plane=tile.plane + 1, view=tile.view + down * across))
    joined = join(parts)
    return replace(joined, grid=(down * rows, across * columns))


def views(token_map: TokenMap) -> int:
    """How many views of its image it has: tiles, and the whole image."""
    return int(token_map.view.max()) + 1


def last_view(maps: Sequence[TokenMap], index: int) -> int:
    """The number of the last view of image `index` among those of all images; in tiled families it is the whole
    image."""
    return sum(map(views, maps[: index + 1])) - 1


def join(views: Sequence[TokenMap]) -> TokenMap:
    """Views of one image behind each other; every tower patch of a view is in one of its tokens."""
    sizes = [int(view.source.max()) + 1 for view in views]
    source = [view.source + start for view, start in zip(views, itertools.accumulate(sizes, initial=0))]
    names = ("plane", "view", "row", "column", "frame", "separator", "boxes")
    joined: dict[str, Any] = {name: torch.cat([getattr(view, name) for view in views]) for name in names}
    return replace(views[0], **joined, source=torch.cat(source))
