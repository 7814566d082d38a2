"""The contract between methods, families and runners.

A *family* turns pictures into :class:`Cues` and a :class:`~gridprune.token_map.TokenMap`; a *method* is a frozen
dataclass whose one pure function `select` turns these into a :class:`Selection`. A method never imports a model, a
family never computes a score. What a runner must know is declared on the class.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ..budget import Budget, Keep
from ..errors import BudgetError, MissingCueError, SettingError
from ..token_map import TokenMap, Zones

Stage = Literal["pixels", "pre-llm", "in-llm"]


@dataclass(frozen=True, eq=False)
class Cues:
    """What is known about the N candidate tokens of B images of one geometry. Absent cues are None.

    Attributes:
        relevance: (B, N) fp32, how well each token matches the question; the raw cosine, sign as the tower gives it.
        relevance_sign: +1 if larger means more relevant on this tower, -1 if the tower is known to point the other way.
        saliency: (B, N) fp32, attention each token receives ([CLS] row, or column mean) in the tower's saliency layer.
        saliency_at: tower depth in (0, 1] -> (B, N) fp32, the same at other layers, for methods with `saliency_depths`.
        features: (B, N, D) projected visual embeddings, as the language model receives them.
        tower_features: (B, N, C) vision-tower states before the projector (mean over the patches merged into a token).
        keys: (B, N, C) attention keys of the saliency layer, heads concatenated (mean over merged patches).
        queries_cls: (B, C) the [CLS] query of the saliency layer, heads concatenated; None for towers without [CLS].
        word_relevance: (B, T, N) fp32, cosine of each question token (no BOS/EOS/padding) with every visual token.
        word_mask: (B, T) bool, which question tokens exist.
        question_embeds: (B, M, D) the language model's input embeddings of the question.
        question_mask: (B, M) bool, which of these exist.
    """

    relevance: Tensor | None = None
    relevance_sign: int = 1
    saliency: Tensor | None = None
    saliency_at: dict[float, Tensor] = field(default_factory=dict)
    features: Tensor | None = None
    tower_features: Tensor | None = None
    keys: Tensor | None = None
    queries_cls: Tensor | None = None
    word_relevance: Tensor | None = None
    word_mask: Tensor | None = None
    question_embeds: Tensor | None = None
    question_mask: Tensor | None = None

    def require(self, name: str) -> Tensor:
        """The cue called `name`, or a :class:`MissingCueError` that says which."""
        value = getattr(self, name, None)
        if value is None:
            raise MissingCueError(f"This method needs the cue {name!r}, which was not computed for these images.")
        return value

    def tensors(self) -> dict[str, Tensor]:
        """Every cue that is present, by name."""
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in found.items() if isinstance(value, Tensor)}

    @property
    def shape(self) -> tuple[int, int]:
        """(B, N), read from the first cue present that has one entry per visual token."""
        for name in ("saliency", "relevance", "features", "tower_features", "keys"):
            value = getattr(self, name)
            if value is not None:
                return value.shape[0], value.shape[1]
        if self.word_relevance is not None:
            return self.word_relevance.shape[0], self.word_relevance.shape[2]
        raise MissingCueError("No cue says how many visual tokens there are; compute at least one.")

    @property
    def device(self) -> torch.device:
        return next(iter(self.tensors().values())).device


@dataclass(frozen=True, eq=False)
class Merge:
    """How kept slots absorb other tokens: slot s becomes sum_i weight_i * x_i over the tokens with group_i = s.

    Attributes:
        group: (B, N) int64, the slot 0..k-1 a token flows into, or -1 for tokens that are dropped.
        weight: (B, N) fp32.
        space: "features" merges the projected embeddings; "tower_features" merges before the projector.
    """

    group: Tensor
    weight: Tensor
    space: Literal["features", "tower_features"] = "features"

    def apply(self, x: Tensor, k: int) -> Tensor:
        """Merged tokens (B, k, D) of `x` (B, N, D), accumulated in fp32, returned in the dtype of `x`."""
        slot = self.group.clamp(min=0)
        weight = self.weight.float().masked_fill(self.group < 0, 0.0)
        out = x.new_zeros(x.shape[0], k, x.shape[-1], dtype=torch.float32)
        out.scatter_add_(1, slot[..., None].expand_as(x), x.float() * weight[..., None])
        return out.to(x.dtype)


@dataclass(frozen=True, eq=False)
class Selection:
    """What a method decided for B images of one geometry.

    Attributes:
        indices: (B, k) int64, ascending and unique, among the N candidates.
        zones: the partition that budgets were given to, if the method has one.
        budgets: (B, Z) int64 tokens per zone, rows sum to k.
        scores: (B, N) fp32, what the local selection ranked by, if it ranked.
        merge: how kept slots absorb the rest, if they do; `indices` then says where the merged tokens sit.
    """

    indices: Tensor
    zones: Zones | None = None
    budgets: Tensor | None = None
    scores: Tensor | None = None
    merge: Merge | None = None


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """Base of all methods. A subclass is a frozen dataclass: its fields are its settings, nothing else configures it.

    Attributes:
        keep: the budget per image: a count, a share or a percentage (see :mod:`gridprune.budget`).
    """

    keep: Keep = "11.1%"

    name: ClassVar[str]
    paper: ClassVar[str] = ""
    stage: ClassVar[Stage] = "pre-llm"
    fixed_count: ClassVar[bool] = True
    cost: ClassVar[str] = "O(N log N)"

    def __post_init__(self) -> None:
        object.__setattr__(self, "_budget", Budget.parse(self.keep))

    @property
    def budget(self) -> Budget:
        """The parsed `keep`."""
        return self._budget  # type: ignore[attr-defined, no-any-return]

    @property
    def needs(self) -> frozenset[str]:
        """Names of the :class:`Cues` that `select` reads. May depend on the settings."""
        return frozenset()

    @property
    def saliency_depths(self) -> tuple[float, ...]:
        """Depths of the tower in (0, 1] whose saliency `select` reads from `cues.saliency_at`."""
        return ()

    @property
    def uses_text(self) -> bool:
        """Whether the question changes the selection."""
        text = {"relevance", "word_relevance", "question_embeds"}
        return bool(self.needs & text)

    @abstractmethod
    def select(self, cues: Cues, token_map: TokenMap, k: int) -> Selection:
        """Choose exactly `k` of the candidate tokens. Pure: same input, same output, nothing remembered.

        Args:
            cues: at least the cues named by `needs`; B images of one geometry.
            token_map: geometry of the N candidates (no separators), on the CPU.
            k: 1 <= k <= N.
        """

    def explain(self) -> dict[str, Any]:
        """Settings as plain values, for reports."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def _check(self, name: str, ok: Callable[[Any], bool], expected: str) -> None:
        value = getattr(self, name)
        if not ok(value):
            raise SettingError(f"{type(self).__name__}.{name} must be {expected}, got {value!r}.")


def checked_select(method: Method, cues: Cues, token_map: TokenMap, k: int) -> Selection:
    """Run `method.select` behind the guards every method shares.

    Raises:
        BudgetError: k is not in [1, N].
        MissingCueError: a cue in `needs` is absent, or has NaN or infinite values.
    """
    n = len(token_map)
    if not 1 <= k <= n:
        raise BudgetError(f"Cannot keep {k} of {n} visual tokens; k must lie in [1, {n}].")
    for name in sorted(method.needs):
        value = cues.require(name)
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):  # the one host sync of the decision
            raise MissingCueError(
                f"The cue {name!r} holds NaN or infinite values: the vision tower overflowed or the picture is broken. "
                "Check the pixel values, or run the tower in float32 or bfloat16."
            )
    missing = [depth for depth in method.saliency_depths if depth not in cues.saliency_at]
    if missing:
        raise MissingCueError(f"{method.name} needs saliency at tower depths {missing}, which were not computed.")
    return method.select(cues, token_map, k)
