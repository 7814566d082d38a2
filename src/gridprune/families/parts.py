"""How what a tower leaves behind is cut into images: towers run crops as a batch, or all patches in one sequence."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..cues.attention import cls_attention, received_attention
from ..cues.tower import Captured, Tower, stacked


class TowerLayout(ABC):
    """Cuts captured tensors into one tensor per image, patches in the order that `TokenMap.source` counts them."""

    @abstractmethod
    def states(self, captured: Captured, block: int) -> list[Tensor]:
        """Per image the block's output, (P, C)."""

    @abstractmethod
    def saliency(self, captured: Captured, block: int, tower: Tower) -> list[Tensor]:
        """Per image the attention each patch gets, (P,) fp32."""

    @abstractmethod
    def keys(self, captured: Captured, block: int) -> list[Tensor]:
        """Per image the keys, heads concatenated, (P, C)."""

    @abstractmethod
    def of_crops(self, values: Tensor) -> list[Tensor]:
        """Per image (P, ...) out of values per crop and patch (V, P, ...)."""

    @abstractmethod
    def cls_queries(self, captured: Captured, block: int) -> list[Tensor]:
        """Per image the query of [CLS], heads concatenated, mean over crops, (C,)."""


@dataclass(frozen=True)
class CropBatch(TowerLayout):
    """A batch of crops of equal size.

    Attributes:
        counts: crops of each image, one behind the other.
        prefix: tokens in front of the patches of a crop.
    """

    counts: Sequence[int]
    prefix: int

    def _cut(self, values: Tensor) -> list[Tensor]:
        """(V, S, ...) -> per image (P, ...)."""
        patches = values[:, self.prefix :]
        if all(count == 1 for count in self.counts):
            return list(patches.unbind())
        return [part.flatten(0, 1) for part in torch.split(patches, list(self.counts))]

    def states(self, captured: Captured, block: int) -> list[Tensor]:
        return self._cut(stacked(captured.states[block], 0))

    def saliency(self, captured: Captured, block: int, tower: Tower) -> list[Tensor]:
        query, key, mask = stacked(captured.queries[block], 0), stacked(captured.keys[block], 0), captured.masks[block]
        whole = mask[0] if len(mask) == 1 else None
        if tower.saliency == "cls":
            return self._cut(cls_attention(query, key, whole))
        return self._cut(received_attention(query, key, whole, self.prefix))

    def keys(self, captured: Captured, block: int) -> list[Tensor]:
        return self._cut(stacked(captured.keys[block], 0).transpose(1, 2).flatten(2))

    def of_crops(self, values: Tensor) -> list[Tensor]:
        return [part.flatten(0, 1) for part in torch.split(values, list(self.counts))]

    def cls_queries(self, captured: Captured, block: int) -> list[Tensor]:
        first = stacked(captured.queries[block], 0)[:, :, 0].flatten(1)  # [V, C]
        return [part.mean(0) for part in torch.split(first, list(self.counts))]


@dataclass(frozen=True)
class PaddedCropBatch(CropBatch):
    """A batch of crops of different sizes, padded at the end.

    Attributes:
        lengths: patches of each crop.
    """

    lengths: Sequence[int]

    def _cut(self, values: Tensor) -> list[Tensor]:
        real = [crop[self.prefix : self.prefix + length] for crop, length in zip(values, self.lengths)]
        ends = list(itertools.accumulate(self.counts, initial=0))
        return [torch.cat(real[start:end]) for start, end in itertools.pairwise(ends)]

    def saliency(self, captured: Captured, block: int, tower: Tower) -> list[Tensor]:
        query, key = stacked(captured.queries[block], 0), stacked(captured.keys[block], 0)
        received = query.new_zeros(len(query), query.shape[2], dtype=torch.float32)
        for crop, length in enumerate(self.lengths):
            real = slice(0, self.prefix + length)
            one = slice(crop, crop + 1)
            received[one, real] = received_attention(query[one, :, real], key[one, :, real], None, self.prefix)
        return self._cut(received)

    def of_crops(self, values: Tensor) -> list[Tensor]:
        raise AssertionError("crops differ in size; `Family.crops` refuses before")


@dataclass(frozen=True)
class PackedSequence(TowerLayout):
    """All images' patches in one sequence, attending within segments (an image, or a frame of a video).

    Attributes:
        lengths: patches of each image.
        segments: patches of each run that attends to itself.
        order: (total,) where the tower put each patch, if it shuffled them (window order).
    """

    lengths: Sequence[int]
    segments: Sequence[int]
    order: Tensor | None = field(default=None, repr=False)

    def _cut(self, values: Tensor) -> list[Tensor]:
        """(total, ...) in the tower's order -> per image (P, ...)."""
        if self.order is not None:
            values = values[self.order.to(values.device)]
        return list(torch.split(values, list(self.lengths)))

    def states(self, captured: Captured, block: int) -> list[Tensor]:
        values = torch.cat([call.reshape(-1, call.shape[-1]) for call in captured.states[block]])
        return self._cut(values)

    def saliency(self, captured: Captured, block: int, tower: Tower) -> list[Tensor]:
        query, key = stacked(captured.queries[block], 2), stacked(captured.keys[block], 2)  # [1, H, total, d]
        pairs = zip(torch.split(query, list(self.segments), dim=2), torch.split(key, list(self.segments), dim=2))
        return self._cut(torch.cat([received_attention(q, k)[0] for q, k in pairs]))

    def keys(self, captured: Captured, block: int) -> list[Tensor]:
        return self._cut(stacked(captured.keys[block], 2)[0].transpose(0, 1).flatten(1))

    def of_crops(self, values: Tensor) -> list[Tensor]:
        raise AssertionError("packed towers have no crops; `Family.crops` refuses before")

    def cls_queries(self, captured: Captured, block: int) -> list[Tensor]:
        raise AssertionError("packed towers have no [CLS]; check_available refuses the cue before")
