"""Positions along a shortened prompt: counted afresh, kept as they were, or M-RoPE's, which are always kept."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import UnsupportedCallError
from ..families.base import Family
from .cache_record import CacheState
from .layout import PromptLayout, contiguous_positions

_PACKED = ("cu_seq_lens_q", "cu_seq_lens_k", "seq_idx")


@dataclass(frozen=True, eq=False)
class FedPrompt:
    """A prompt that is shortened.

    Attributes:
        call: all arguments.
        ids: (B, n) as they were given, from the original column `offset` on.
        mask: (B, L) of the whole prompt, or None.
        told, real: `ids` and `mask` on the host, the latter as bool.
        layout: of the whole prompt.
        past: what a cache holds of it.
    """

    call: dict[str, Any]
    ids: Tensor
    mask: Tensor | None
    told: Tensor
    real: np.ndarray | None
    layout: PromptLayout
    past: CacheState
    offset: int

    @cached_property
    def kept_mask(self) -> Tensor:
        """(B, W) the mask of the shortened prompt."""
        if self.mask is None:
            return self.ids.new_ones(len(self.ids), self.layout.width)
        return self.layout.gather(self.mask, 0)

    @cached_property
    def padding(self) -> np.ndarray:
        """(B, W) bool, the padding of the shortened prompt."""
        columns = self.layout.columns
        if self.real is None:
            return columns < 0
        return (columns < 0) | ~np.take_along_axis(self.real, columns.clip(min=0), axis=1)

    @property
    def cut(self) -> Tensor:
        """(B, 1) tokens of each row that are gone."""
        full = self.layout.full if self.mask is None else self.mask.sum(1, keepdim=True)
        return full - self.kept_mask.sum(1, keepdim=True)

    def counted(self, first: int) -> Tensor | None:
        """(B, W) positions that count kept tokens from `first`, if the model would count otherwise by itself."""
        needed = self.mask is not None and self.padding.any()
        return contiguous_positions(self.kept_mask, first) if needed else None

    def original(self, first: int) -> Tensor:
        """(B, W) every kept token's own position."""
        given = self.call.get("position_ids")
        assert self.mask is not None  # made by the caller
        full = contiguous_positions(self.mask, first)
        if given is not None and given.shape[-1] == self.layout.full:
            full = given.expand(len(self.ids), -1)
        return self.layout.gather(full, 0)

    def check_packed(self) -> None:
        """Refuse prompts packed into one row: what tells them apart counts their tokens.

        Raises:
            UnsupportedCallError: positions start again inside a row, or borders are given.
        """
        given = self.call.get("position_ids")
        packed = any(self.call.get(name) is not None for name in _PACKED)
        if not packed and isinstance(given, Tensor) and given.dim() == 2 and given.shape[-1] == self.ids.shape[1]:
            again = given.diff(dim=-1) < 0
            if self.mask is not None:
                real = self.mask[:, -self.ids.shape[1] :].bool().to(given.device)
                again = again & real[:, 1:] & real[:, :-1]
            packed = bool(again.any())
        if packed:
            raise UnsupportedCallError(
                "Several prompts packed into one row cannot be pruned; give each a row of its own, padded."
            )

    def rope(self, family: Family) -> tuple[Tensor, Tensor] | None:
        """M-RoPE positions (3, B, W), 0 where a cache holds the token, and the delta (B, 1) of the short prompt; None
        for models that count 0, 1, 2.

        Raises:
            UnsupportedCallError: it is not known where a cache that was filled elsewhere ends.
        """
        if type(family).rope is Family.rope:
            return None
        start = self.past.full if self.past.known else 0  # an unknown past is counted as well
        if not self.past.known and (self.offset or not _all_given(family, self.call, self.told)):
            raise UnsupportedCallError(_ELSEWHERE)
        types = self.call.get("mm_token_type_ids")
        if types is None:
            types = family.token_types(self.told)
        part = slice(start - self.offset, None)
        mask = None if self.real is None else torch.from_numpy(self.real[:, start:]).long()
        # Counted on the host, where it is: the model's own way reads one number after the other.
        rope = family.rope(self.call, self.told[:, part], mask, types.cpu()[:, -self.told.shape[1] :][:, part])
        if rope is None:
            return None
        positions, following = (each.to(self.ids.device) for each in rope)
        kept = self.kept_mask
        if start == self.past.full:
            reached = kept[:, : self.past.cached].sum(1, keepdim=True)
            reached = reached if self.past.delta is None else reached + self.past.delta
            positions, following = positions + reached, following + reached
        tail = self.layout.behind(self.past.cached, self.past.full)
        placed = tail.gather(positions[..., self.past.full - start :], 0)
        padded = torch.nn.functional.pad(placed, (self.past.cached, 0))
        return padded, following - kept.sum(1, keepdim=True)


_ELSEWHERE = (
    "The cache was not filled inside this `prune` block, so where its positions (M-RoPE) end is not known. Fill it "
    "inside the block, or give `generate` the whole prompt with all its images."
)


def _all_given(family: Family, call: dict[str, Any], ids: Tensor) -> bool:
    """Whether the call brings the images of all placeholders in `ids`."""
    for stream in family.streams:
        vision = stream.vision(call)
        expected = sum(map(len, stream.token_maps(vision))) if vision is not None else 0
        if int((ids == stream.placeholder).sum()) != expected:
            return False
    return True
