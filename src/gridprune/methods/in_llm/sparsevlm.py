"""SparseVLM: text tokens that speak of the image rate its tokens (https://arxiv.org/abs/2410.04417)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...core.scores import topk
from ..settings import setting
from .base import DropPoint, InsideMethod, LayerView, at_depth, scaled_counts


@dataclass(frozen=True, kw_only=True)
class SparseVLM(InsideMethod):
    """The question's words that look at the image most rate its tokens.

    Raters are the text tokens whose weight, softmax over text of V Q^T averaged over the visual tokens (both as
    input embeddings), is above the mean. In three layers the visual tokens with the largest attention from the raters,
    mean over heads and raters, stay; O(N M) per stop.

    Published and this class: the paper finds the counts by the rank of an attention map, the released code uses
    constants; `weights` holds those for 192 of 576 tokens and they are scaled to `keep`, the average over layers. The
    first version merges dropped tokens into a few cluster centres behind the kept ones; that recycling is left out
    here, as in the second version.

    Attributes:
        weights: relative counts behind layers 2, 6 and 15 of 32 (moved in proportion for other depths).
    """

    weights: tuple[float, float, float] = setting(
        (300.0, 200.0, 110.0),
        lambda v: len(v) == 3 and v[0] >= v[1] >= v[2] > 0,
        "three positive numbers that do not grow",
    )

    name: ClassVar[str] = "sparsevlm"
    paper: ClassVar[str] = "https://arxiv.org/abs/2410.04417"
    cost: ClassVar[str] = "O(N M) in three layers; all tokens in the first ones"
    rows: ClassVar[str] = "text"

    def stop_layers(self, depth: int) -> tuple[int, ...]:
        return at_depth((2, 6, 15), 32, depth)

    def stops(self, total: int, depth: int) -> tuple[DropPoint, ...]:
        layers = self.stop_layers(depth)
        weights = self.weights[-len(layers) :]
        stops = scaled_counts("SparseVLM", weights, layers, self.budget.resolve(total), total, depth)
        return tuple(stops)

    def choose(self, view: LayerView, k: int) -> Tensor:
        assert view.attention is not None
        low = torch.finfo(torch.float32).min
        logits = view.inputs.float() @ view.text_inputs.float().transpose(1, 2)  # [B, N, M]
        weight = logits.masked_fill(~view.text_mask[:, None], low).softmax(-1).mean(1)  # [B, M]
        mean = 1.0 / view.text_mask.sum(1, keepdim=True).float()
        raters = (weight > mean) & view.text_mask
        raters = torch.where(raters.any(1, keepdim=True), raters, view.text_mask)  # all alike: all rate
        share = raters.float() / raters.sum(1, keepdim=True)
        return topk((view.attention * share[..., None]).sum(1), k)
