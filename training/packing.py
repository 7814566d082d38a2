"""Several questions behind one image: block-diagonal text, restarted positions, loss on answers only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from training.embedded.questions import Question
from training.embedded.vocabulary import ANSWER, EOS, PAD, encode

IGNORE = -100


@dataclass
class Packed:
    """Text of a batch: all [B, T]; ``segment`` is -1 on padding, ``offset`` counts from each question's start."""

    ids: Tensor
    segment: Tensor
    offset: Tensor
    target: Tensor

    def to(self, device: str) -> Packed:
        return Packed(*(getattr(self, name).to(device, non_blocking=True) for name in vars(self)))

    def mask(self, prefix: Tensor) -> Tensor:
        """Bool [B, 1, T, P + T]; ``prefix`` bool [B, T, P] says which prefix positions each text token sees."""
        same = self.segment[:, :, None] == self.segment[:, None, :]  # [B, T, T]
        length = self.ids.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=self.ids.device).tril()
        return torch.cat([prefix, same & causal], -1)[:, None]


def pack(batch: Sequence[Sequence[Question]], length: int) -> Packed:
    """Pack the questions of each scene into ``length`` tokens; those that do not fit are left out."""
    shape = (len(batch), length)
    ids, segment = torch.full(shape, PAD), torch.full(shape, -1)
    offset, target = torch.zeros(shape, dtype=torch.long), torch.full(shape, IGNORE)
    for b, questions in enumerate(batch):
        used = 0
        for number, question in enumerate(questions):
            prompt = [*encode(question.text), ANSWER]
            answer = [*encode(question.answer), EOS]
            tokens = prompt + answer[:-1]
            end = used + len(tokens)
            if end > length:
                continue
            ids[b, used:end] = torch.tensor(tokens)
            segment[b, used:end] = number
            offset[b, used:end] = torch.arange(len(tokens))
            target[b, end - len(answer) : end] = torch.tensor(answer)
            used = end
    return Packed(ids, segment, offset, target)
