"""Where every visual token lies: crop, row, column, frame and place in the image; and zones over that map.

A :class:`TokenMap` describes the tokens *one image (or video) contributes to the prompt*, in prompt order. Methods see
it without its separators (newline tokens and the like), through :attr:`TokenMap.candidates`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..errors import BudgetError, SettingError
from .allocate import shared_out

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Zones:
    """A partition of N tokens into Z zones, some of which may be empty.

    Everything derived from it is computed once, on the CPU, and remembered; :meth:`on` remembers copies on other
    devices. So methods may use a partition in every step without a host synchronisation.

    Attributes:
        index: (N,) int64, the zone of each token, in [0, Z).
        size: (Z,) int64, tokens per zone.
        sheets: which plane or view each *zone* lies in, where zones were cut inside planes or views.
    """

    index: Tensor
    size: Tensor
    sheets: Zones | None = None
    _copies: dict[torch.device, Zones] = field(default_factory=dict, init=False, repr=False)

    @property
    def count(self) -> int:
        """Z, the number of zones."""
        return self.size.shape[0]

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """`size` as plain integers."""
        return tuple(self.size.tolist())

    @cached_property
    def most(self) -> int:
        """M, the number of tokens in the largest zone."""
        return max(self.sizes, default=0)

    @cached_property
    def members(self) -> Tensor:
        """(Z * M,) int64: row by row a Z x M table whose row j lists the tokens of zone j in ascending order.

        Zones of fewer than M tokens repeat their first token; :attr:`absent` says where.
        """
        tokens = torch.arange(len(self.index), device=self.index.device)
        first = torch.zeros_like(self.size).scatter_reduce_(0, self.index, tokens, "amin", include_self=False)
        return first.repeat_interleave(self.most).index_copy_(0, self.slot, tokens)

    @cached_property
    def slot(self) -> Tensor:
        """(N,) int64: where each token stands in :attr:`members`."""
        order = self.index.argsort(stable=True)
        start = self.size.cumsum(0) - self.size
        count = torch.arange(len(order), device=order.device)
        place = torch.empty_like(order).index_copy_(0, order, count) - start[self.index]
        return self.index * self.most + place

    @cached_property
    def absent(self) -> Tensor | None:
        """(Z, M) bool: the places of :attr:`members` that hold no token; None if every place holds one."""
        places = torch.arange(self.most, device=self.size.device) >= self.size[:, None]
        return places if bool(places.any()) else None

    def on(self, device: torch.device) -> Zones:
        """The same partition on another device."""
        if device == self.index.device:
            return self
        if device not in self._copies:
            copy = Zones(self.index.to(device), self.size.to(device), self.sheets and self.sheets.on(device))
            absent = None if self.absent is None else self.absent.to(device)
            copy.__dict__.update(sizes=self.sizes, most=self.most, absent=absent)
            copy.__dict__.update(members=self.members.to(device), slot=self.slot.to(device))
            self._copies[device] = copy
        return self._copies[device]

    def by_zone(self, values: Tensor, fill: float | None = None) -> Tensor:
        """(B, N) laid out as (B, Z, M), one zone per row; absent places hold `fill`, or the zone's first value."""
        table = values.index_select(1, self.members).view(-1, self.count, self.most)
        return table if fill is None or self.absent is None else table.masked_fill(self.absent, fill)

    def by_token(self, table: Tensor) -> Tensor:
        """The way back: (B, Z, M) -> (B, N)."""
        return table.flatten(1).index_select(1, self.slot)


@dataclass(frozen=True, eq=False)
class TokenMap:
    """Geometry of the visual tokens of one image.

    A *plane* is a gap-free 2-D grid of tokens: the overview of an anyres image is one plane, the mosaic of its tiles
    another. A *view* is one crop that went through the vision tower by itself. `row` and `column` count in the plane.

    Attributes:
        plane, view, row, column, frame: (N,) int64 on the CPU.
        separator: (N,) bool, tokens that carry no image content (newlines); never candidates, never counted.
        boxes: (N, 4) float32, x0 y0 x1 y1 of each token in the image, in [0, 1]; zeros for separators.
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
    _zones: dict[tuple[object, ...], Zones] = field(default_factory=dict, init=False, repr=False)
    _made: dict[Hashable, Any] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def from_grid(cls, rows: int, columns: int, *, frames: int = 1) -> TokenMap:
        """One plane of `rows` x `columns` tokens in raster order (per frame), one tower patch per token."""
        n = rows * columns * frames
        position = torch.arange(n, device="cpu")
        row, column = position // columns % rows, position % columns
        zero = torch.zeros_like(position)
        corners = torch.stack([column, row, column + 1, row + 1], dim=-1).double()
        boxes = corners / torch.tensor([columns, rows, columns, rows], device="cpu")
        return cls(
            plane=zero,
            view=zero,
            row=row,
            column=column,
            frame=position // (rows * columns),
            separator=torch.zeros_like(position, dtype=torch.bool),
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

    def places_on(self, device: torch.device) -> Tensor:
        """:attr:`candidate_positions` on a device."""
        return self.once_on(device, "candidates", lambda: self.candidate_positions)

    def once(self, name: str, make: Callable[[], T], *settings: Hashable) -> T:
        """What `make` computes from this map and `settings`: computed once, so that methods may ask in every step."""
        key = name, *settings
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]  # type: ignore[no-any-return]

    def once_on(self, device: torch.device, name: str, make: Callable[[], Tensor], *settings: Hashable) -> Tensor:
        """The same for a tensor that `make` computes on the CPU, copied to `device`."""
        return self.once(name, lambda: make().to(device), device, *settings)

    def take(self, chosen: Tensor) -> TokenMap:
        """The tokens that a mask or index selects."""
        names = ("plane", "view", "row", "column", "frame", "separator", "boxes", "source")
        return replace(self, **{name: getattr(self, name)[chosen] for name in names})

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
        mask = np.zeros(len(self), dtype=bool)
        mask[self.candidate_positions.numpy()[kept.cpu().numpy()]] = True
        if self.candidates is not self and kept.numel():
            line, stops = self._line.numpy(), self.separator.numpy()
            lines = np.zeros((2, int(line.max()) + 1), dtype=bool)  # which keep a token, and which have any
            lines[0, line[mask]] = lines[1, line[~stops]] = True
            mask |= stops & (lines[0] | ~lines[1])[line]
        return torch.from_numpy(mask)

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
        key = ("zones", height, width, frames, within)
        if key not in self._zones:
            index = torch.zeros_like(self.row)
            sheets = self.groups(within)
            counts: list[int] = []
            for sheet in range(sheets.count):  # a handful of crops, and cached: not a loop over zones
                member = sheets.index == sheet
                frame, depth = _split(self.frame[member], frames)
                row, down = _split(self.row[member], height)
                column, across = _split(self.column[member], width)
                index[member] = sum(counts) + (frame * down + row) * across + column
                counts.append(depth * down * across)
            sizes = torch.tensor(counts, device="cpu")
            sheet_of_zone = torch.arange(sheets.count, device="cpu").repeat_interleave(sizes)
            self._zones[key] = Zones(index, torch.bincount(index, minlength=sum(counts)), Zones(sheet_of_zone, sizes))
        return self._zones[key]

    def groups(self, by: str) -> Zones:
        """The tokens grouped by `view`, `plane` or `frame`, numbered by ascending value. The result is cached."""
        if by not in ("view", "plane", "frame"):
            raise SettingError(f"Tokens are grouped by view, plane or frame, got {by!r}.")
        key = ("groups", by)
        if key not in self._zones:
            index = torch.unique(getattr(self, by), return_inverse=True)[1]  # type: ignore[no-untyped-call]
            self._zones[key] = Zones(index, torch.bincount(index))
        return self._zones[key]

    def cells(self, k: int) -> Zones:
        """Exactly `k` non-empty cells of nearly equal size that tile all planes: what uniform methods stand on.

        Planes and frames share `k` in proportion to their tokens. Within one, about sqrt(k * rows / columns) bands of
        rows are walked in turns, left to right and back, and cut into runs whose sizes differ by at most one: 64 cells
        of 24 x 24 tokens are 3 x 3 each. The result is cached.

        Raises:
            BudgetError: k is not in [1, N].
        """
        if not 1 <= k <= len(self):
            raise BudgetError(f"Cannot cut {len(self)} visual tokens into {k} cells; give 1 to {len(self)}.")
        key = ("cells", k)
        if key not in self._zones:
            index = torch.zeros_like(self.row)
            start = 0
            sheet = self.plane * (int(self.frame.max()) + 1) + self.frame
            sheets = [(sheet == s).nonzero()[:, 0] for s in sorted(set(sheet.tolist()))]
            sizes = [len(member) for member in sheets]
            for member, count in zip(sheets, shared_out(k, sizes, sizes)):
                if count == 0:  # fewer cells than sheets: the neighbour takes these tokens in
                    index[member] = max(start - 1, 0)
                    continue
                order = member[_walk(self.row[member], self.column[member], count)]
                index[order] = start + torch.arange(len(order), device="cpu") * count // len(order)
                start += count
            self._zones[key] = Zones(index, torch.bincount(index, minlength=k))
        return self._zones[key]


def _split(position: Tensor, size: int) -> tuple[Tensor, int]:
    """Cut 0..R-1 into ceil(R/size) parts that differ by at most one; the part of each position, and their number."""
    position = position - position.min()
    extent = int(position.max()) + 1
    parts = -(-extent // size)
    return position * parts // extent, parts


def _walk(row: Tensor, column: Tensor, count: int) -> Tensor:
    """An order of one sheet's tokens whose equal runs are compact cells: bands of rows, walked to and fro."""
    row, column = row - row.min(), column - column.min()
    rows, columns = int(row.max()) + 1, int(column.max()) + 1
    bands = max(1, min(rows, count, round((count * rows / columns) ** 0.5)))
    band = row * bands // rows
    along = torch.where(
        band % 2 == 0, column, columns - 1 - column
    )  # back again, so that no run jumps across the sheet
    return torch.argsort((band * columns + along) * rows + row, stable=True)
