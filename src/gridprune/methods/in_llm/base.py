"""The contract of methods that act between layers of the language model.

Such a method sees all visual tokens in the first layers, so a nominal count says nothing about its cost. Here `keep` is
always the *layer-averaged* number of visual tokens, the number that KV memory and most of the FLOPs follow; the method
finds the counts of its stages from it. That makes it comparable with methods that prune before the language model.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ...core.token_map import TokenMap
from ...errors import BudgetError, UnsupportedCallError
from ..base import Cues, Method, Selection, Stage


@dataclass(frozen=True)
class DropPoint:
    """Before layer `layer` (0-based), `kept` visual tokens stay."""

    layer: int
    kept: int


@dataclass(frozen=True, eq=False)
class LayerView:
    """What a method may look at before a layer. N visual tokens are left, M text tokens stand anywhere in the prompt.

    Attributes:
        layer: index of the layer about to run.
        attention: (B, R, N) fp32, what some rows of the prompt paid to the visual tokens in the layer before, mean over
            heads; the rows are those of :attr:`InsideMethod.rows`.
        states: (B, N, D) hidden states of the visual tokens, entering the layer.
        inputs: (B, N, D) their input embeddings.
        keys, text_keys: (B, N, C) and (B, M, C) keys of the layer before, heads concatenated, after RoPE.
        text_states, text_inputs: (B, M, D) the same for text tokens.
        text_mask: (B, M) bool, which text tokens exist.
    """

    layer: int
    attention: Tensor | None
    states: Tensor
    inputs: Tensor
    keys: Tensor
    text_keys: Tensor
    text_states: Tensor
    text_inputs: Tensor
    text_mask: Tensor


@dataclass(frozen=True, kw_only=True)
class InsideMethod(Method):
    """Base of the methods inside the language model. `keep` is the number of visual tokens averaged over its layers."""

    stage: ClassVar[Stage] = "in-llm"
    #: which rows of the attention map `choose` reads: the prompt's last token, every text token, or none
    rows: ClassVar[str] = "last"

    @property
    def uses_text(self) -> bool:
        return True

    @abstractmethod
    def stops(self, total: int, depth: int) -> tuple[DropPoint, ...]:
        """Where tokens are dropped in a model of `depth` layers that reads `total` visual tokens, layers ascending."""

    @abstractmethod
    def choose(self, view: LayerView, k: int) -> Tensor:
        """(B, k) ascending unique int64 indices among the N visual tokens that are left."""

    @abstractmethod
    def stop_layers(self, depth: int) -> tuple[int, ...]:
        """The layers of :meth:`stops`, which do not depend on the number of tokens."""

    def average(self, total: int, depth: int) -> float:
        """Visual tokens averaged over the layers: what the budget asks for, up to rounding."""
        return layer_average(self.stops(total, depth), total, depth)

    def select(self, cues: Cues, token_map: TokenMap, k: int) -> Selection:
        raise UnsupportedCallError(f"{self.name} acts inside the language model and cannot select before it.")


def layer_average(stops: Sequence[DropPoint], total: int, depth: int) -> float:
    """Visual tokens averaged over `depth` layers when they shrink at `stops`."""
    counts = [total] * depth
    for stop in stops:
        counts[stop.layer :] = [stop.kept] * (depth - stop.layer)
    return sum(counts) / depth


def scaled_counts(
    name: str, weights: Sequence[float], layers: Sequence[int], budget: int, total: int, depth: int
) -> tuple[DropPoint, ...]:
    """Counts in proportion to `weights` whose layer average is as near to `budget` as whole numbers allow.

    Raises:
        BudgetError: the layers before the first stop alone cost more than the budget.
    """
    ends = [*layers[1:], depth]
    spans = [end - start for start, end in zip(layers, ends)]
    left = budget * depth - layers[0] * total
    least = -(-(layers[0] * total + sum(spans)) // depth)
    if left < sum(spans):
        raise BudgetError(
            f"{name} reads all {total} visual tokens in its first {layers[0]} of {depth} layers, so it cannot average "
            f"{budget}; keep at least {least} (layer-averaged), or use a method that prunes before the language model."
        )
    scale = left / sum(weight * span for weight, span in zip(weights, spans))
    counts = [min(total, max(1, round(weight * scale))) for weight in weights]
    return tuple(DropPoint(layer, count) for layer, count in zip(layers, counts))


def at_depth(layers: Sequence[int], of: int, depth: int) -> tuple[int, ...]:
    """Layers that a paper names for a model of `of` layers, moved to one of `depth`; equal ones become one."""
    return tuple(sorted({min(max(1, round(layer * depth / of)), depth - 1) for layer in layers}))
