"""The shortened prompt: which columns of the original stay, and how everything of the same length follows.

Pure index arithmetic, in numpy: the host's part of a call costs no kernel launches. A :class:`PromptLayout` says for
every column of the shortened batch which original column it is; -1 is padding that was needed because rows were
shortened by different amounts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import UnsupportedCallError

# Arguments of a call that run along the prompt, and what padding looks like in each.
ALONG_PROMPT = {
    "attention_mask": 0,
    "token_type_ids": 0,
    "mm_token_type_ids": 0,
    "labels": -100,
}


@dataclass(frozen=True, eq=False)
class PromptLayout:
    """Attributes:
    columns: (B, W) int64, the original column of each column, or -1 for padding.
    full: length L of the original prompt.
    """

    columns: np.ndarray
    full: int
    _copies: dict[torch.device, tuple[Tensor, Tensor | None]] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def unchanged(cls, batch: int, length: int) -> PromptLayout:
        """Every column where it was."""
        return cls(np.broadcast_to(np.arange(length, dtype=np.int64), (batch, length)), length)

    @property
    def width(self) -> int:
        return self.columns.shape[1]

    @cached_property
    def padded(self) -> bool:
        """Whether padding had to be added."""
        return bool((self.columns < 0).any())

    @cached_property
    def identity(self) -> bool:
        """Whether nothing changed."""
        return self.width == self.full and not self.padded

    @cached_property
    def latest(self) -> np.ndarray:
        """(B, L) for every original column the last column of the shortened prompt at or before it; -1 before all."""
        spare = np.where(self.columns < 0, self.full, self.columns)  # where padding is written, and cut off again
        marks = np.full((len(spare), self.full + 1), -1)
        np.put_along_axis(marks, spare, np.broadcast_to(np.arange(self.width), spare.shape), axis=1)
        return np.maximum.accumulate(marks[:, : self.full], axis=1)  # type: ignore[no-any-return]

    def spread(self, values: Tensor) -> Tensor:
        """(B, L, ...) from what was computed along the shortened prompt, (B, W, ...).

        A dropped column gets the value of the last column before it that stayed: what the model knew when everything
        up to there was read. So the column before any token holds what that token was predicted from. Columns that
        nothing stands before are 0.
        """
        if self.identity:
            return values
        source = self.latest.clip(min=0) + np.arange(len(values))[:, None] * self.width
        found = values.flatten(0, 1).index_select(0, _tensor(source.ravel(), values.device))
        found = found.unflatten(0, self.latest.shape)
        nothing = self.latest < 0
        if not nothing.any():
            return found
        return found.masked_fill(_tensor(nothing, values.device).view(*nothing.shape, *[1] * (values.dim() - 2)), 0)

    def spread_keys(self, attention: Tensor) -> Tensor:
        """(B, H, R, L + n) from attention paid to the shortened prompt and n columns behind it, (B, H, R, W + n)."""
        more = attention.shape[-1] - self.width
        if more < 0:
            raise UnsupportedCallError(
                "Attention maps over a cache that holds a window of the prompt cannot be put back at the prompt's "
                "columns; call without output_attentions."
            )
        columns = self.followed(more).columns
        index = _tensor(np.where(columns < 0, self.full + more, columns), attention.device)
        out = attention.new_zeros(*attention.shape[:-1], self.full + more + 1)
        return out.scatter(-1, index[:, None, None].expand(*attention.shape), attention)[..., :-1]

    def gather(self, values: Tensor, fill: int) -> Tensor:
        """(..., B, W) from values (..., B, L) along the prompt."""
        if self.identity:
            return values
        index, padding = self._on(values.device)
        if values.shape[:-1] != index.shape[:-1]:
            index = index.expand(*values.shape[:-1], -1)
        picked = values.gather(-1, index)
        return picked if padding is None else picked.masked_fill(padding, fill)

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor | None]:
        """Where each column comes from, and which are padding if any is; copied once to each device."""
        if device not in self._copies:
            padding = _tensor(self.columns < 0, device) if self.padded else None
            self._copies[device] = _tensor(self.columns.clip(min=0), device), padding
        return self._copies[device]

    def behind(self, column: int, original: int) -> PromptLayout:
        """The part behind the first `column` columns, counted from the original column `original`."""
        if column == original == 0:
            return self
        rest = self.columns[:, column:]
        return PromptLayout(np.where(rest < 0, rest, rest - original), self.full - original)

    def followed(self, more: int) -> PromptLayout:
        """With so many columns of later tokens behind."""
        later = np.arange(self.full, self.full + more, dtype=np.int64)
        behind = np.broadcast_to(later, (len(self.columns), more))
        return PromptLayout(np.concatenate([self.columns, behind], axis=1), self.full + more)

    def rows(self, copies: int) -> PromptLayout:
        """Every row repeated, as beams and several return sequences repeat them."""
        return self if copies == 1 else PromptLayout(self.columns.repeat(copies, axis=0), self.full)


def _tensor(values: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).to(device)


def shorten(keep: np.ndarray, mask: np.ndarray | None, past: PromptLayout) -> PromptLayout:
    """The layout that keeps the true columns of every row, behind what a cache holds already.

    Rows are aligned on the side the batch is padded on: on the right unless the mask pads there. Padding of the
    original is dropped.

    Args:
        keep: (B, L) bool.
        mask: (B, L) bool, or None: what is not padding.
        past: the layout of what the cache holds; taken over unchanged.
    """
    start = past.full
    if past.identity and keep.all():
        return PromptLayout.unchanged(*keep.shape)
    new = keep[:, start:] if mask is None or start else keep & _inside(mask)
    pads_right = mask is not None and not mask[:, -1].all()
    count = new.sum(1)
    width = int(count.max(initial=0))
    order = np.argsort(~new, axis=1, kind="stable")[:, :width] + start  # kept columns come first, in their order
    columns = np.where(np.arange(width) < count[:, None], order, -1)
    if not pads_right:
        shift = (np.arange(width) - (width - count)[:, None]) % max(width, 1)
        columns = np.take_along_axis(columns, shift, axis=1)
    return PromptLayout(np.concatenate([past.columns, columns], axis=1), keep.shape[1])


def _inside(mask: np.ndarray) -> np.ndarray:
    """True between the first and last real token of each row; everywhere if a row has none."""
    inside = np.logical_or.accumulate(mask, axis=1) & np.logical_or.accumulate(mask[:, ::-1], axis=1)[:, ::-1]
    return inside | ~mask.any(1, keepdims=True)  # type: ignore[no-any-return]


def along(call: dict[str, Any], layout: PromptLayout, tail: PromptLayout) -> dict[str, Tensor]:
    """Everything in `call` that runs along the prompt, shortened; `tail` is the part that no cache holds."""
    found = {}
    for name, fill in ALONG_PROMPT.items():
        value = call.get(name)
        if isinstance(value, Tensor) and value.shape[-1] in (layout.full, tail.full):
            found[name] = (layout if value.shape[-1] == layout.full else tail).gather(value, fill)
    return found


def contiguous_positions(mask: Tensor, first: int = 0) -> Tensor:
    """(B, W) positions that count real tokens only, from `first`."""
    positions = mask.long().cumsum(-1) - 1 + first
    return positions.masked_fill(mask == 0, first)
