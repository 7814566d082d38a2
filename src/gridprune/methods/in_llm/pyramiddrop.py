"""PyramidDrop: fewer visual tokens with every quarter of the layers (https://arxiv.org/abs/2410.17247)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ...core.scores import topk
from ...errors import BudgetError
from .base import DropPoint, InsideMethod, LayerView, at_depth


@dataclass(frozen=True, kw_only=True)
class PyramidDrop(InsideMethod):
    """Behind each of three quarters of the layers a share lambda of the visual tokens stays, ranked by the attention of
    the last prompt token in the layer before; O(N) per stop.

    Published and this class: the paper fixes lambda = 0.5 (layers 8, 16, 24 of 32), which averages 47 % of the tokens.
    Here lambda follows from `keep`, the average over layers: (1 + l + l^2 + l^3) / 4 for depths that four divides.
    """

    name: ClassVar[str] = "pyramiddrop"
    paper: ClassVar[str] = "https://arxiv.org/abs/2410.17247"
    cost: ClassVar[str] = "O(N) in three layers; all tokens in the first quarter"

    def stop_layers(self, depth: int) -> tuple[int, ...]:
        return at_depth((8, 16, 24), 32, depth)

    def stops(self, total: int, depth: int) -> tuple[DropPoint, ...]:
        layers, budget = self.stop_layers(depth), self.budget.resolve(total)
        ends = [*layers[1:], depth]
        spans = [end - start for start, end in zip(layers, ends)]

        def average(share: float) -> float:
            counts = (share ** (i + 1) * span for i, span in enumerate(spans))
            return total * (layers[0] + sum(counts)) / depth

        if budget <= average(0.0):
            raise BudgetError(
                f"PyramidDrop reads all {total} visual tokens in its first {layers[0]} of {depth} layers, so it cannot "
                f"average {budget}; keep more than {average(0.0):g} (layer-averaged)."
            )
        low, high = 0.0, 1.0
        for _ in range(60):  # bisection to the last bit of a float
            middle = (low + high) / 2
            low, high = (middle, high) if average(middle) < budget else (low, middle)
        return tuple(DropPoint(layer, max(1, round(total * high ** (i + 1)))) for i, layer in enumerate(layers))

    def choose(self, view: LayerView, k: int) -> Tensor:
        assert view.attention is not None
        return topk(view.attention[:, 0], k)
