"""DART inside the language model: drop what duplicates the pivots (https://arxiv.org/abs/2502.11494)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..settings import whole
from .base import DropPoint, InsideMethod, LayerView, scaled_counts


@dataclass(frozen=True, kw_only=True)
class DartInside(InsideMethod):
    """Pivots are the visual and the text tokens with the largest L1 norm of their keys in layer K - 1. Each pivot in
    turn takes its part of the tokens not taken yet that are *least* similar to it (cosine of hidden states); kept are
    the visual pivots and all that was taken. O(pivots * N * D), no attention map.

    Published and this class: the paper acts after layer 2, with 4 visual and 4 text pivots; a released configuration
    uses layer 5. The parts are k minus the visual pivots, split as evenly as whole numbers allow. With k below the
    number of visual pivots only the first pivots stay. `keep` is the average over layers.

    Attributes:
        layer: K >= 1.
        visual_pivots, text_pivots: how many of each.
    """

    layer: int = whole(2)
    visual_pivots: int = whole(4)
    text_pivots: int = whole(4, least=0)

    name: ClassVar[str] = "dart-inside"
    paper: ClassVar[str] = "https://arxiv.org/abs/2502.11494"
    cost: ClassVar[str] = "O(P N D) in one layer; all tokens in the first K layers"
    rows: ClassVar[str] = "none"

    def stop_layers(self, depth: int) -> tuple[int, ...]:
        return (min(self.layer, depth - 1),)

    def stops(self, total: int, depth: int) -> tuple[DropPoint, ...]:
        return scaled_counts("DART", [1.0], self.stop_layers(depth), self.budget.resolve(total), total, depth)

    def choose(self, view: LayerView, k: int) -> Tensor:
        n, low = view.states.shape[1], torch.finfo(torch.float32).min
        states = nn.functional.normalize(view.states.float(), dim=-1)  # [B, N, D]
        text = nn.functional.normalize(view.text_states.float(), dim=-1)  # [B, M, D]
        own = _largest(view.keys.float().abs().sum(-1), min(self.visual_pivots, k))  # [B, P]
        text_norm = view.text_keys.float().abs().sum(-1).masked_fill(~view.text_mask, low)
        theirs = _largest(text_norm, min(self.text_pivots, int(view.text_mask.shape[1])))
        pivots = torch.cat([_pick(states, own), _pick(text, theirs)], dim=1)
        distance = -(pivots @ states.transpose(1, 2))  # [B, P, N]
        taken = torch.zeros(len(states), n, dtype=torch.bool, device=states.device).scatter_(1, own, True)
        left, parts = k - own.shape[1], pivots.shape[1]
        for i in range(parts):  # a handful of pivots, each takes from what is left
            share = left * (i + 1) // parts - left * i // parts
            order = distance[:, i].masked_fill(taken, low).argsort(dim=-1, descending=True, stable=True)
            taken = taken.scatter(1, order[:, :share], True)
        return (~taken).to(torch.uint8).argsort(dim=-1, stable=True)[:, :k]


def _largest(values: Tensor, count: int) -> Tensor:
    return values.argsort(dim=-1, descending=True, stable=True)[:, :count]


def _pick(values: Tensor, index: Tensor) -> Tensor:
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[-1]))
