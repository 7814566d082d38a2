"""Where every visual token lies: crop, row, column, frame and place in the picture; and zones over that map.

A :class:`TokenMap` describes the tokens *one image (or clip) contributes to the prompt*, in prompt order. Methods see it
without its separators (newline tokens and the like), through :attr:`TokenMap.candidates`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from .errors import SettingError


@dataclass(frozen=True, eq=False)
class Zones:
    """A partition of N tokens.

    Attributes:
        index: (N,) int64, the zone of each token, in [0, count).
        size: (count,) int64, tokens per zone.
    """

    index: Tensor
    size: Tensor

    @property
    def count(self) -> int:
        return self.size.shape[0]


@dataclass(frozen=True, eq=False)
class TokenMap:
    """Geometry of the visual tokens of one image.

    A *plane* is a gap-free 2-D grid of tokens: the overview of an anyres image is one plane, the mosaic of its tiles
    another. A *view* is one crop that went through the vision tower by itself. `row` and `column` count within the plane.

    Attributes:
        plane, view, row, column, frame: (N,) int64 on the CPU.
        separator: (N,) bool, tokens that carry no picture content (newlines); never candidates, never counted.
        boxes: (N, 4) float32, x0 y0 x1 y1 of each token in the picture, in [0, 1]; zeros for separators.
        source: (N, m) int64, the m tower patches that were merged into each token, as indices into the image's tower
            patches flattened over views; -1 for separators.
        grid: rows and columns of the plane that is best for looking at: (24, 24).
    """

    plane: Tensor
    view: Tensor
    row: Tensor
    column: Tensor
    frame: Tensor
    separator: Tensor
    boxes: Tensor
    source: Tensor
    grid: tuple[int, int]
    _zones: dict[tuple[object, ...], Zones] = field(default_factory=dict, repr=False)

    @classmethod
    def from_grid(cls, rows: int, columns: int, *, frames: int = 1) -> TokenMap:
        """One plane of `rows` x `columns` tokens in raster order (per frame), one tower patch per token."""
        n = rows * columns * frames
        position = torch.arange(n)
        row, column = position // columns % rows, position % columns
        zero = torch.zeros(n, dtype=torch.int64)
        boxes = torch.stack([column / columns, row / rows, (column + 1) / columns, (row + 1) / rows], dim=-1)
        return cls(
            plane=zero,
            view=zero,
            row=row,
            column=column,
            frame=position // (rows * columns),
            separator=torch.zeros(n, dtype=torch.bool),
            boxes=boxes.float(),
            source=position[:, None],
            grid=(rows, columns),
        )

    def __len__(self) -> int:
        return self.row.shape[0]

    @cached_property
    def candidates(self) -> TokenMap:
        """The map without separators: what a method chooses from. The same object when there are none."""
        if not bool(self.separator.any()):
            return self
        return self.take(~self.separator)

    @cached_property
    def candidate_positions(self) -> Tensor:
        """(N_candidates,) int64: where each candidate stands among all tokens of the image."""
        return (~self.separator).nonzero()[:, 0]

    def take(self, chosen: Tensor) -> TokenMap:
        """The tokens that a mask or index selects."""
        names = ("plane", "view", "row", "column", "frame", "separator", "boxes", "source")
        return replace(self, **{name: getattr(self, name)[chosen] for name in names}, _zones={})

    @cached_property
    def key(self) -> tuple[object, ...]:
        """Equal for equal geometries: images of one key can be selected from in one batch."""
        parts = (self.plane, self.view, self.row, self.column, self.frame, self.separator)
        return (self.grid, *(part.numpy().tobytes() for part in parts), self.source.numpy().tobytes())

    def keep_mask(self, kept: Tensor) -> Tensor:
        """(N,) bool over all tokens, separators included, from kept candidate indices (k,).

        A separator ends a row of its plane: it stays if, and only if, that row keeps a token. A separator that belongs
        to no row with candidates (one behind a whole image) stays if anything is kept.
        """
        mask = torch.zeros(len(self), dtype=torch.bool)
        mask[self.candidate_positions[kept]] = True
        if self.candidates is self:
            return mask
        line = self._line
        lines = int(line.max()) + 1
        kept_lines = torch.zeros(lines, dtype=torch.bool).index_fill_(0, line[mask], True)
        has_tokens = torch.zeros(lines, dtype=torch.bool).index_fill_(0, line[~self.separator], True)
        return mask | (self.separator & (kept_lines | ~has_tokens)[line])

    @cached_property
    def _line(self) -> Tensor:
        """(N,) int64: an index per (plane, frame, row)."""
        rows = int(self.row.max()) + 1
        frames = int(self.frame.max()) + 1
        return (self.plane * frames + self.frame) * rows + self.row

    def zones(self, height: int, width: int | None = None, frames: int = 1, *, within: str = "plane") -> Zones:
        """A regular partition into zones of at most `height` x `width` tokens and `frames` frames.

        A side of R tokens is cut into ceil(R / height) parts whose sizes differ by at most one. Zones never cross the
        border of a plane (or of a view, with ``within="view"``); they are numbered by plane, then frame, then
        row-major. The result is cached.
        """
        width = height if width is None else width
        if min(height, width, frames) < 1:
            raise SettingError(f"A zone is at least 1 x 1 tokens and 1 frame, got {height} x {width} x {frames}.")
        key = (height, width, frames, within)
        if key not in self._zones:
            index = torch.zeros(len(self), dtype=torch.int64)
            start = 0
            sheets = self.groups(within)
            for sheet in range(sheets.count):  # a handful of crops, and cached: not a loop over zones
                member = sheets.index == sheet
                frame, depth = _split(self.frame[member], frames)
                row, down = _split(self.row[member], height)
                column, across = _split(self.column[member], width)
                index[member] = start + (frame * down + row) * across + column
                start += depth * down * across
            self._zones[key] = Zones(index, torch.bincount(index, minlength=start))
        return self._zones[key]

    def groups(self, by: str) -> Zones:
        """The tokens grouped by `view`, `plane` or `frame`, numbered by ascending value."""
        if by not in ("view", "plane", "frame"):
            raise SettingError(f"Tokens are grouped by view, plane or frame, got {by!r}.")
        _, index = getattr(self, by).unique(return_inverse=True)
        return Zones(index, torch.bincount(index))

    def cells(self, k: int) -> Zones:
        """Exactly `k` non-empty cells of nearly equal size that tile all planes: what uniform methods stand on.

        Planes and frames share `k` in proportion to their tokens. Within one, about sqrt(k * rows / columns) bands of
        rows are cut, each into its share of columns.
        """
        index = torch.zeros(len(self), dtype=torch.int64)
        start = 0
        sheet = self.plane * (int(self.frame.max()) + 1) + self.frame
        sheets = [(sheet == s).nonzero()[:, 0] for s in sheet.unique().tolist()]
        for member, count in zip(sheets, _proportional([len(m) for m in sheets], k)):
            if count == 0:  # fewer cells than sheets: the neighbour takes these tokens in
                index[member] = max(start - 1, 0)
                continue
            order = member[_band_order(self.row[member], self.column[member], count)]
            index[order] = start + torch.arange(len(order)) * count // len(order)
            start += count
        return Zones(index, torch.bincount(index, minlength=k))


def _split(position: Tensor, size: int) -> tuple[Tensor, int]:
    """Cut 0..R-1 into ceil(R/size) parts that differ by at most one; the part of each position, and their number."""
    position = position - position.min()
    extent = int(position.max()) + 1
    parts = -(-extent // size)
    return position * parts // extent, parts


def _proportional(sizes: list[int], k: int) -> list[int]:
    """Largest remainder over a handful of sheets, plain integers."""
    total = sum(sizes)
    counts = [k * size // total for size in sizes]
    by_remainder = sorted(range(len(sizes)), key=lambda i: -(k * sizes[i] % total))
    for i in by_remainder[: k - sum(counts)]:
        counts[i] += 1
    return counts


def _band_order(row: Tensor, column: Tensor, count: int) -> Tensor:
    """An order of one sheet's tokens such that equal runs of it are compact cells: bands of rows, columns inside."""
    rows, columns = int(row.max()) + 1, int(column.max()) + 1
    bands = max(1, min(rows, count, round((count * rows / columns) ** 0.5)))
    band = row * bands // rows
    return torch.argsort((band * columns + column) * rows + row, stable=True)
