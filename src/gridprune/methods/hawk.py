"""HAWK: relevance by the heads of the language model's first layer (https://arxiv.org/abs/2604.07812)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..core.scores import topk
from ..core.token_map import TokenMap
from ..errors import SettingError
from .base import Cues, Method, Selection
from .gridprune import GridPrune
from .wrappers.wrapper import Wrapper

HeadNorm = Literal["l2", "softmax", "minmax"]
EQUAL = "equal"
Weights = Sequence[float] | Literal["equal"] | None


def _minmax(values: Tensor) -> Tensor:
    low, high = torch.aminmax(values, dim=-1, keepdim=True)
    return (values - low) / (high - low).clamp(min=1e-30)


_NORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "l2": lambda values: values / torch.linalg.vector_norm(values, dim=-1, keepdim=True).clamp(min=1e-30),
    "softmax": lambda values: values.softmax(-1),
    "minmax": _minmax,
}


@dataclass(frozen=True, kw_only=True)
class Hawk(Method):
    """The k tokens whose keys in the language model's first attention layer match the question's queries best.

    c[h, j] = mean over the question's tokens of q.k / sqrt(d), without rotary positions, for head h and token j
    (`Cues.head_relevance`); each head's row is scaled to length 1 over the tokens; score_j = sum_h w_h c[h, j].

    Complexity: O((M + N) D H d) for the projections, O(H N) for the score; no layer is run and no text tower needed.

    Published and this class: the release has weights for Qwen2.5-VL-7B, found by switching its 28 heads off one by one
    on six benchmarks; one of them holds a quarter of the weight. Here all heads count alike unless `weights` or
    `gridprune calibrate` say otherwise: the paper's ablation, so published figures are not those of this default.
    Where the first layer does not attend (Qwen3.5, LFM2), the first one that does is read, on the same embeddings.

    Attributes:
        weights: one number per query head, of which only the proportions count, or "equal"; None for those that
            `gridprune calibrate --write` stored beside the checkpoint for rows scaled by "l2", else equal ones.
        norm: how a head's row is scaled: "l2", "softmax" or "minmax".
    """

    weights: Weights = None
    norm: HeadNorm = "l2"

    name: ClassVar[str] = "hawk"
    paper: ClassVar[str] = "https://arxiv.org/abs/2604.07812"
    cost: ClassVar[str] = "O(H N)"
    capabilities: ClassVar[frozenset[str]] = frozenset({"scores"})
    reads: ClassVar[frozenset[str]] = frozenset({"head_relevance"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_heads(self)

    def select(self, cues: Cues, token_map: TokenMap, k: int) -> Selection:
        scores = by_heads(cues, self.weights, self.norm)
        return Selection(topk(scores, k), scores=scores)


@dataclass(frozen=True, kw_only=True)
class FirstLayer(Wrapper):
    """The base with relevance from the language model's first attention layer, as HAWK reads it, instead of its own.

    Complexity: the base's, and that of the cue (see :class:`Hawk`). No text tower is needed.

    Attributes:
        base: a method that reads the cue "relevance".
        weights, norm: as in :class:`Hawk`.
    """

    base: Method = field(default_factory=GridPrune)
    weights: Weights = None
    norm: HeadNorm = "l2"

    name: ClassVar[str] = "first-layer"
    cost: ClassVar[str] = "base + O(H N)"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_heads(self)

    @classmethod
    def fits(cls, method: Method) -> bool:
        return super().fits(method) and "relevance" in method.needs and "word_relevance" not in method.needs

    @property
    def needs(self) -> frozenset[str]:
        return self.base.needs - {"relevance"} | {"head_relevance"}

    def select(self, cues: Cues, token_map: TokenMap, k: int) -> Selection:
        relevance = by_heads(cues, self.weights, self.norm)
        return self.base.select(replace(cues, relevance=relevance, reading="plus"), token_map, k)


def check_heads(method: Hawk | FirstLayer) -> None:
    """Raise a :class:`SettingError` unless the settings can be read; weights become a tuple."""
    method._check("norm", lambda v: v in _NORMS, f"one of {', '.join(_NORMS)}")
    if method.weights is None or (isinstance(method.weights, str) and method.weights == EQUAL):
        return
    method._check(
        "weights",
        lambda v: not isinstance(v, str) and len(v) > 0 and all(math.isfinite(w) for w in v) and any(v),
        "None, 'equal' or a number for each query head, not all of them 0",
    )
    object.__setattr__(method, "weights", tuple(float(weight) for weight in method.weights))


def head_rows(cues: Cues, norm: HeadNorm = "l2") -> Tensor:
    """(B, H, N) fp32: `Cues.head_relevance`, each head's row scaled."""
    return _NORMS[norm](cues.require("head_relevance").float())


def by_heads(cues: Cues, weights: Weights, norm: HeadNorm) -> Tensor:
    """(B, N) fp32: :func:`head_rows`, summed by weight; equal weights sum to 1."""
    heads = head_rows(cues, norm)
    if weights is None and norm == "l2":  # other rows would want other weights
        weights = cues.head_weights
    if weights is None or isinstance(weights, str):
        return heads.mean(1)
    if len(weights) != heads.shape[1]:
        raise SettingError(f"{len(weights)} weights were given for {heads.shape[1]} query heads; give one for each.")
    return (heads * _column(tuple(weights), heads.device)).sum(1)


@cache  # graphs read it where it is
def _column(weights: tuple[float, ...], device: torch.device) -> Tensor:
    return torch.tensor(weights, dtype=torch.float32, device=device)[:, None]
