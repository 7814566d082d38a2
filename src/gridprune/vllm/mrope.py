"""M-RoPE positions of shortened images. Pure index arithmetic; imports no vLLM.

A kept token's row and column travel behind its embedding as two digits each, so that they are exact in bfloat16, which
holds whole numbers up to 256, for images of up to 32,768 tokens a side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

CHANNELS = 4
_BASE = 128


def attach(values: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """(k, D + 4): embeddings (k, D) with each token's row and column (k,) behind them."""
    digits = torch.stack([row // _BASE, row % _BASE, column // _BASE, column % _BASE], dim=1)
    return torch.cat([values, digits.to(values.device, values.dtype)], dim=1)


def attach_nothing(values: Tensor) -> Tensor:
    """(n, D + 4): embeddings whose positions are right as they are."""
    return torch.cat([values, values.new_full((len(values), CHANNELS), -1)], dim=1)


def detach(values: Tensor) -> Tensor:
    """The embeddings without what was attached."""
    return values[:, :-CHANNELS]


def place(positions: Tensor, media: Tensor, embeddings: Sequence[Tensor], computed: int) -> Tensor:
    """Positions (3, L) with row and column added where embeddings arrive.

    Args:
        positions: as they were; the first line, frames, is right and stays: a still image has one frame.
        media: (L,) bool, the places of images and videos in the whole prompt.
        embeddings: (n_i, D + 4) for the media places from `computed` on, in their order.
        computed: tokens of the prompt that were computed before.
    """
    if not embeddings:
        return positions
    digits = torch.cat([each[:, -CHANNELS:] for each in embeddings]).long().to(positions.device)  # [n, 4]
    places = media.nonzero()[:, 0]
    places = places[places >= computed][: len(digits)]
    known = digits[:, 0] >= 0
    places, digits = places[known], digits[known]
    first = positions[0, places]
    placed = positions.clone()
    placed[1, places] = first + digits[:, 0] * _BASE + digits[:, 1]
    placed[2, places] = first + digits[:, 2] * _BASE + digits[:, 3]
    return placed


@dataclass(frozen=True)
class Span:
    """An image in the shortened and in the full prompt.

    Attributes:
        offset, length: where it stands in the shortened prompt.
        start, full: where it would stand unpruned, and its length there.
    """

    offset: int
    length: int
    start: int
    full: int

    @property
    def shortened(self) -> bool:
        return self.length != self.full


def spans(images: Sequence[tuple[int, int, int | None]]) -> list[Span]:
    """Spans in the order given, from offset, length and unpruned length (None: never pruned) of each."""
    found: dict[int, Span] = {}
    moved = 0
    for number in sorted(range(len(images)), key=lambda i: images[i][0]):
        offset, length, full = images[number]
        found[number] = Span(offset, length, offset + moved, length if full is None else full)
        moved += found[number].full - length
    return [found[number] for number in range(len(images))]


def lengthened(tokens: Sequence[int], where: Sequence[Span]) -> list[int]:
    """The full prompt: the placeholders of shortened images repeated as often as they would be unpruned."""
    full, end = [], 0
    for span in sorted((s for s in where if s.shortened), key=lambda s: s.offset):
        full += [*tokens[end : span.offset], *[tokens[span.offset]] * span.full]
        end = span.offset + span.length
    return [*full, *tokens[end:]]


def shortened(positions: Tensor, where: Sequence[Span]) -> Tensor:
    """Positions (3, L) of the shortened prompt from the full one's; an image's places get its first position."""
    parts, end = [], 0
    for span in sorted((s for s in where if s.shortened), key=lambda s: s.offset):
        parts += [positions[:, end : span.start], positions[:, span.start : span.start + 1].expand(-1, span.length)]
        end = span.start + span.full
    return torch.cat([*parts, positions[:, end:]], dim=1)
