"""FastV: after the first layers, keep the visual tokens the prompt's last word looks at (arXiv 2403.06764)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ...core.scores import topk
from ..settings import whole
from .base import DropPoint, InsideMethod, LayerView, scaled_counts


@dataclass(frozen=True, kw_only=True)
class FastV(InsideMethod):
    """Before layer K the visual tokens that the last prompt token attended to most in layer K - 1 stay.

    Score: mean over heads, O(N). Position ids stay those of the full prompt, the cache of the first K layers stays
    full.

    Published and this class: the text can be read as an average over all tokens' rows; the released code takes the last
    token's, and so does this. The paper keeps a share R of the tokens after layer K; here `keep` is the average over
    layers, and the count after layer K follows from it. Known weakness: causal attention and RoPE favour late (lower)
    patches.

    Attributes:
        layer: K >= 1; 2 in the paper, 3 in the authors' demo.
    """

    layer: int = whole(2)

    name: ClassVar[str] = "fastv"
    paper: ClassVar[str] = "https://arxiv.org/abs/2403.06764"
    cost: ClassVar[str] = "O(N) in one layer; all tokens in the first K layers"

    def stop_layers(self, depth: int) -> tuple[int, ...]:
        return (min(self.layer, depth - 1),)

    def stops(self, total: int, depth: int) -> tuple[DropPoint, ...]:
        return scaled_counts("FastV", [1.0], self.stop_layers(depth), self.budget.resolve(total), total, depth)

    def choose(self, view: LayerView, k: int) -> Tensor:
        assert view.attention is not None
        return topk(view.attention[:, 0], k)
