"""Several turns on one cache: what was cut from the prompt that a cache holds, remembered on the cache itself.

The record travels with copies of the cache, and goes when the cache goes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from ..errors import UnsupportedCallError
from .layout import PromptLayout

_ATTRIBUTE = "_gridprune_record"
_LAYERS = "_gridprune_layers"


@dataclass(frozen=True, eq=False)
class CacheRecord:
    """Attributes:
    layout: the shortened prompt that was fed into the cache.
    delta: (B, 1) what to add to a count of cached tokens to get the next M-RoPE position, or None for nothing.
    mass: (B, L) fp32, what is added to the attention logits of each original column, or None for nothing.
    """

    layout: PromptLayout
    delta: Tensor | None = None
    mass: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class CacheState:
    """What a cache stands for when a call comes in.

    Attributes:
        layout: every cached column and the original column it came from, generated tokens included.
        delta: see :class:`CacheRecord`.
        known: whether all that the cache holds went through here.
    """

    layout: PromptLayout
    delta: Tensor | None = None
    known: bool = True

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


def remember(cache: Any, record: CacheRecord) -> None:
    """Note on `cache` what is being fed into it."""
    if cache is not None:
        setattr(cache, _ATTRIBUTE, record)


def remember_layers(cache: Any, length: int, spans: dict[int, Tensor]) -> None:
    """Note on `cache` that its layers hold different parts of a prompt of `length`: first layer -> columns."""
    setattr(cache, _LAYERS, (length, spans))


def layers_of(cache: Any) -> tuple[int, dict[int, Tensor]] | None:
    """What :func:`remember_layers` noted."""
    return getattr(cache, _LAYERS, None)


def mass_of(cache: Any, batch: int) -> np.ndarray | None:
    """:attr:`CacheRecord.mass` of what `cache` holds, for so many rows."""
    record: CacheRecord | None = getattr(cache, _ATTRIBUTE, None)
    if record is None or record.mass is None or not cache.get_seq_length():
        return None
    return record.mass.repeat(batch // len(record.mass), axis=0)


def recall(cache: Any, batch: int, *, inside: bool = False) -> CacheState:
    """What `cache` stands for; an empty past for None or an empty cache.

    Args:
        inside: its layers may hold different parts of the prompt.

    Raises:
        UnsupportedCallError: the cache was cropped, or holds other rows than the call.
    """
    cached = int(cache.get_seq_length()) if cache is not None else 0
    if cached and not inside and layers_of(cache) is not None:
        raise UnsupportedCallError(
            "The cache was filled with a method that prunes inside the language model: go on inside its own `prune` "
            "block, or start a new cache."
        )
    record: CacheRecord | None = getattr(cache, _ATTRIBUTE, None) if cached else None
    if record is None:
        return CacheState(PromptLayout.unchanged(batch, cached), known=cached == 0)
    layout, rows = record.layout, record.layout.columns.shape[0]
    if cached < layout.width and layout.identity and record.delta is None:
        return CacheState(PromptLayout.unchanged(batch, cached))
    if cached < layout.width:
        raise UnsupportedCallError(
            f"The cache holds {cached} tokens, but {layout.width} of a pruned prompt were fed into it: it was "
            f"cropped, or a call failed half way. Start the conversation again with a new cache."
        )
    if batch % rows:
        raise UnsupportedCallError(f"The cache holds a pruned prompt of {rows} rows, but the call has {batch}.")
    copies = batch // rows
    layout = layout.rows(copies)
    delta = None if record.delta is None else record.delta.repeat_interleave(copies, dim=0)
    return CacheState(layout.followed(cached - layout.width), delta)
