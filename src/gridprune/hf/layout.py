"""The shortened prompt: which columns of the original stay, and how everything of the same length follows.

Pure index arithmetic on the CPU. A :class:`PromptLayout` says for every column of the shortened batch which original
column it is; -1 is padding that was needed because rows were shortened by different amounts.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

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
    columns: (B, W) int64 on the CPU, the original column of each column, or -1 for padding.
    full: length L of the original prompt.
    """

    columns: Tensor
    full: int

    @classmethod
    def unchanged(cls, batch: int, length: int) -> PromptLayout:
        """Every column where it was."""
        return cls(torch.arange(length, device="cpu").expand(batch, -1), length)

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
    def latest(self) -> Tensor:
        """(B, L) for every original column the last column of the shortened prompt at or before it; -1 before all."""
        order = torch.arange(self.width, device=self.columns.device).expand_as(self.columns)
        spare = self.columns.masked_fill(self.columns < 0, self.full)  # where padding is written, and cut off again
        marks = torch.full_like(self.columns[:, :1], -1).repeat(1, self.full + 1)
        return marks.scatter(1, spare, order)[:, : self.full].cummax(dim=1).values

    def spread(self, values: Tensor) -> Tensor:
        """(B, L, ...) from what was computed along the shortened prompt, (B, W, ...).

        A dropped column gets the value of the last column before it that stayed: what the model knew when everything
        up to there was read. So the column before any token holds what that token was predicted from. Columns that
        nothing stands before are 0.
        """
        if self.identity:
            return values
        start = torch.arange(len(values), device=self.columns.device)[:, None] * self.width
        source = (self.latest.clamp(min=0) + start).flatten().to(values.device)
        found = values.flatten(0, 1).index_select(0, source).unflatten(0, self.latest.shape)
        nothing = self.latest < 0
        if not bool(nothing.any()):
            return found
        return found.masked_fill(nothing.to(values.device).view(*nothing.shape, *[1] * (values.dim() - 2)), 0)

    def spread_keys(self, attention: Tensor) -> Tensor:
        """(B, H, R, L + n) from attention paid to the shortened prompt and n columns behind it, (B, H, R, W + n)."""
        more = attention.shape[-1] - self.width
        if more < 0:
            raise UnsupportedCallError(
                "Attention maps over a cache that holds a window of the prompt cannot be put back at the prompt's "
                "columns; call without output_attentions."
            )
        behind = torch.arange(self.full, self.full + more, device=self.columns.device).expand(len(self.columns), -1)
        columns = torch.cat([self.columns.masked_fill(self.columns < 0, self.full + more), behind], dim=1)
        out = attention.new_zeros(*attention.shape[:-1], self.full + more + 1)
        index = columns.to(attention.device)[:, None, None].expand(*attention.shape)
        return out.scatter(-1, index, attention)[..., :-1]

    def gather(self, values: Tensor, fill: int) -> Tensor:
        """(..., B, W) from values (..., B, L) along the prompt."""
        columns = self.columns.to(values.device)
        picked = values.gather(-1, columns.clamp(min=0).expand(*values.shape[:-1], -1))
        return picked.masked_fill(columns < 0, fill)

    def behind(self, column: int, original: int) -> PromptLayout:
        """The part behind the first `column` columns, counted from the original column `original`."""
        rest = self.columns[:, column:]
        return PromptLayout(torch.where(rest < 0, rest, rest - original), self.full - original)

    def rows(self, copies: int) -> PromptLayout:
        """Every row repeated, as beams and several return sequences repeat them."""
        return self if copies == 1 else PromptLayout(self.columns.repeat_interleave(copies, dim=0), self.full)


def shorten(keep: Tensor, mask: Tensor | None, past: PromptLayout) -> PromptLayout:
    """The layout that keeps the true columns of every row, behind what a cache holds already.

    Rows are aligned on the side the batch is padded on: on the right unless the mask pads there. Padding of the
    original is dropped.

    Args:
        keep: (B, L) bool on the CPU.
        mask: (B, L) bool on the CPU, or None: what is not padding.
        past: the layout of what the cache holds; taken over unchanged.
    """
    start = past.full
    if past.identity and bool(keep.all()):
        return PromptLayout.unchanged(*keep.shape)
    new = keep[:, start:] if mask is None else keep[:, start:] & _inside(mask[:, start:], drop=start == 0)
    pads_right = mask is not None and bool((~mask[:, -1]).any())
    count = new.sum(1)
    width = int(count.max())
    # The sort is stable: kept columns keep their order and come first.
    order = (~new).long().argsort(dim=1, stable=True)[:, :width] + start
    columns = torch.where(torch.arange(width, device=count.device) < count[:, None], order, -1)
    if not pads_right:
        shift = (torch.arange(width, device=count.device) - (width - count)[:, None]) % max(width, 1)
        columns = columns.gather(1, shift)
    return PromptLayout(torch.cat([past.columns, columns], dim=1), keep.shape[1])


def _inside(mask: Tensor, *, drop: bool) -> Tensor:
    """True between the first and last real token of each row; everywhere if a row has none or nothing is dropped."""
    if not drop:
        return torch.ones_like(mask)
    inside = (mask.cumsum(1) > 0) & (mask.flip(1).cumsum(1).flip(1) > 0)
    return inside | ~mask.any(1, keepdim=True)


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
