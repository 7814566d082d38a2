"""The shortened prompt: which columns of the original stay, and how everything of the same length follows.

Pure index arithmetic on the CPU. A :class:`Layout` says for every column of the shortened batch which original column it
is; -1 is padding that was needed because rows were shortened by different amounts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .errors import UnsupportedCallError

# Arguments of a call that run along the prompt, and what padding looks like in each.
_ALONG_PROMPT = {
    "attention_mask": 0,
    "token_type_ids": 0,
    "mm_token_type_ids": 0,
    "labels": -100,
}


@dataclass(frozen=True, eq=False)
class Layout:
    """Attributes:
    columns: (B, W) int64, the original column of each column, or -1 for padding.
    full: length L of the original prompt.
    """

    columns: Tensor
    full: int

    @property
    def width(self) -> int:
        return self.columns.shape[1]

    @property
    def padded(self) -> bool:
        """Whether padding had to be added."""
        return bool((self.columns < 0).any())

    @property
    def identity(self) -> bool:
        """Whether nothing changed."""
        return self.width == self.full and not self.padded

    def gather(self, values: Tensor, fill: int) -> Tensor:
        """(..., B, W) from values (..., B, L) along the prompt."""
        columns = self.columns.to(values.device)
        picked = values.gather(-1, columns.clamp(min=0).expand(*values.shape[:-1], -1))
        return picked.masked_fill(columns < 0, fill)


def spans(input_ids: Tensor, image_token_id: int, lengths: Sequence[int]) -> list[tuple[int, Tensor]]:
    """For each image, in prompt order, its row and the columns (n_i,) of its placeholders.

    Raises:
        UnsupportedCallError: the prompt does not hold exactly the placeholders the images need.
    """
    where = (input_ids.cpu() == image_token_id).nonzero()  # [total, 2]
    if len(where) != sum(lengths):
        raise UnsupportedCallError(
            f"The prompt holds {len(where)} image placeholder tokens, the images need {sum(lengths)} ({list(lengths)}). "
            "Build the prompt with the model's processor, and give it every image that the prompt names."
        )
    found = []
    for part in where.split(list(lengths)):
        if len(part) and int(part[0, 0]) != int(part[-1, 0]):
            raise UnsupportedCallError("The placeholders of one image run over two rows of the batch.")
        found.append((int(part[0, 0]), part[:, 1]))
    return found


def shorten(keep: Tensor, attention_mask: Tensor | None, fixed: Layout | None = None, generated: int = 0) -> Layout:
    """The layout that keeps the true columns of every row.

    Rows are aligned on the side the batch is padded on: right-aligned unless the given mask pads on the right.

    Args:
        keep: (B, L) bool on the CPU.
        attention_mask: (B, L) or None; only tells where padding is.
        fixed: the layout of a prefix that is already in a cache; it is taken over unchanged.
        generated: columns behind that prefix that the cache holds as they are.
    """
    batch, length = keep.shape
    start = 0 if fixed is None else fixed.full + generated
    mask = torch.ones_like(keep) if attention_mask is None else attention_mask.cpu().bool()
    pads_right = bool((~mask[:, -1]).any())
    rows = []
    for row in range(batch):
        columns = torch.arange(length)[start:][keep[row, start:]]
        if start == 0:
            inside = mask[row].nonzero()[:, 0]
            low, high = (int(inside[0]), int(inside[-1])) if len(inside) else (0, length - 1)
            columns = columns[(columns >= low) & (columns <= high)]
        rows.append(columns)
    width = max(len(columns) for columns in rows)
    out = torch.full((batch, width), -1, dtype=torch.int64)
    for row, columns in enumerate(rows):
        if pads_right:
            out[row, : len(columns)] = columns
        else:
            out[row, width - len(columns) :] = columns
    if fixed is not None:
        between = torch.arange(fixed.full, start).expand(batch, -1)
        out = torch.cat([fixed.columns, between, out], dim=1)
    return Layout(out, length)


def apply(
    call: dict[str, Any],
    layout: Layout,
    *,
    offset: int = 0,
    cached: int = 0,
    positions: str = "contiguous",
    pad_token_id: int = 0,
    full_positions: Tensor | None = None,
) -> None:
    """Shorten every argument of `call` that runs along the prompt, in place.

    Args:
        offset: columns of the full prompt that the call's `input_ids` leave out because a cache holds them.
        cached: columns of the shortened prompt that stand for those.
        positions: "contiguous" renumbers what is kept 0, 1, 2, ...; "original" keeps each token's place.
        pad_token_id: id for added padding.
        full_positions: positions of the unshortened prompt, (B, L) or (3|4, B, L), if the family counts them itself.
    """
    if layout.identity:
        return
    mask = call.get("attention_mask")
    if mask is not None and mask.dim() != 2:
        raise UnsupportedCallError(
            f"attention_mask has shape {tuple(mask.shape)}; pruning needs the 2-D mask (batch, length) of the prompt."
        )
    ids = call["input_ids"]
    tail = layout if not offset else _tail(layout, offset, cached)
    if mask is None and (layout.padded or positions == "original"):
        mask = call["attention_mask"] = ids.new_ones(len(ids), layout.full)
    given = call.pop("position_ids", None)
    if full_positions is None and positions == "original":
        full_positions = given if given is not None else contiguous_positions(mask)  # type: ignore[arg-type]
    if full_positions is not None:
        along = layout if full_positions.shape[-1] == layout.full else tail
        call["position_ids"] = along.gather(full_positions, 1)[..., -tail.width :]
    call["input_ids"] = tail.gather(ids, pad_token_id)
    for name, fill in _ALONG_PROMPT.items():
        value = call.get(name)
        if value is not None and value.shape[-1] in (layout.full, tail.full):
            call[name] = (layout if value.shape[-1] == layout.full else tail).gather(value, fill)


def _tail(layout: Layout, offset: int, cached: int) -> Layout:
    """The part of a layout behind the first `cached` columns, counted from the original column `offset`."""
    columns = layout.columns[:, cached:]
    return Layout(torch.where(columns < 0, columns, columns - offset), layout.full - offset)


def contiguous_positions(attention_mask: Tensor) -> Tensor:
    """(B, W) positions that count real tokens only; 1 on padding, as transformers does it."""
    positions = attention_mask.long().cumsum(-1) - 1
    return positions.masked_fill(attention_mask == 0, 1)
