"""Several turns on one cache: what was cut from the prompt that a cache holds, remembered on the cache itself.

The record travels with copies of the cache, and goes when the cache goes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .errors import UnsupportedCallError
from .prompt import Layout

_ATTRIBUTE = "_gridprune_record"


@dataclass(frozen=True, eq=False)
class Record:
    """Attributes:
    layout: the shortened prompt that was fed into the cache.
    delta: (B, 1) what to add to a count of cached tokens to get the next M-RoPE position, or None.
    """

    layout: Layout
    delta: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Past:
    """What a cache stands for when a call comes in.

    Attributes:
        layout: every cached column and the original column it came from, generated tokens included.
        delta: see :class:`Record`.
    """

    layout: Layout
    delta: Tensor | None = None

    @property
    def cached(self) -> int:
        """Columns in the cache."""
        return self.layout.width

    @property
    def full(self) -> int:
        """Columns of the unshortened prompt that they stand for."""
        return self.layout.full

    @property
    def plain(self) -> bool:
        """Whether nothing was ever cut: the stock model may go on by itself."""
        return self.layout.identity


def remember(cache: Any, record: Record) -> None:
    """Note on `cache` what is being fed into it."""
    if cache is not None:
        setattr(cache, _ATTRIBUTE, record)


def recall(cache: Any, batch: int) -> Past:
    """What `cache` stands for; an empty past for None or an empty cache.

    Raises:
        UnsupportedCallError: the cache was cropped, or holds other rows than the call.
    """
    cached = int(cache.get_seq_length()) if cache is not None else 0
    record: Record | None = getattr(cache, _ATTRIBUTE, None) if cached else None
    if record is None:
        return Past(Layout.unchanged(batch, cached))
    layout, rows = record.layout, record.layout.columns.shape[0]
    if cached < layout.width:
        raise UnsupportedCallError(
            f"The cache holds {cached} tokens, but {layout.width} of a pruned prompt were fed into it: it was "
            f"cropped, or a call failed half way. Start the conversation again with a new cache."
        )
    if batch % rows:
        raise UnsupportedCallError(f"The cache holds a pruned prompt of {rows} rows, but the call has {batch}.")
    copies = batch // rows
    layout = layout.rows(copies)
    generated = torch.arange(layout.full, layout.full + cached - layout.width, device="cpu").expand(batch, -1)
    delta = None if record.delta is None else record.delta.repeat_interleave(copies, dim=0)
    return Past(Layout(torch.cat([layout.columns, generated], dim=1), layout.full + generated.shape[1]), delta)
