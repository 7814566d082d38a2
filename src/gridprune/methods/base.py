"""The contract between methods, families and runners.

A *family* turns images into :class:`Cues` and a :class:`~gridprune.core.token_map.TokenMap`; a *method* is a frozen
dataclass whose one pure function `select` turns these into a :class:`Selection`. A method never imports a model, a
family never computes a score. What a runner must know is declared on the class.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ..core.budget import Budget, Keep
from ..core.reading import Reading, read
from ..core.token_map import TokenMap, Zones
from ..errors import BudgetError, MissingCueError, SettingError, UnsupportedCallError

Stage = Literal["pre-llm", "in-llm"]

PER_TOKEN = ("saliency", "relevance", "features", "tower_features", "keys", "laplacian", "quality", "sensitivity")


@dataclass(frozen=True, eq=False)
class Cues:
    """What is known about the N candidate tokens of B images of one geometry. Absent cues are None.

    Attributes:
        relevance: (B, N) fp32, how well each token matches the question; the raw cosine, as the tower gives it.
        reading: which end of it means relevant on this tower (:func:`gridprune.core.reading.read`).
        relevance_source: where `relevance` comes from, in words.
        saliency: (B, N) fp32, attention each token receives ([CLS] row, or column mean) in the tower's saliency layer.
        saliency_at: tower depth in (0, 1] -> (B, N) fp32, the same at other layers, for methods with `saliency_depths`.
        features: (B, N, D) projected visual embeddings, as the language model receives them.
        tower_features: (B, N, C) vision-tower states before the projector (mean over the patches merged into a token).
        keys: (B, N, C) attention keys of the saliency layer, heads concatenated (mean over merged patches).
        queries_cls: (B, C) the [CLS] query of the saliency layer, heads concatenated; None for towers without [CLS].
        heads: attention heads that `keys` and `queries_cls` hold side by side; 1 if unknown.
        word_relevance: (B, T, N) fp32, cosine of each question token (no BOS/EOS/padding) with every visual token.
        word_mask: (B, T) bool, which question tokens exist.
        question_embeds: (B, M, D) the language model's input embeddings of the question.
        question_mask: (B, M) bool, which of these exist.
        head_relevance: (B, H, N) fp32, for each query head of the language model's first attention layer the logit of
            each visual token, mean over the question's tokens, no rotary positions (:mod:`gridprune.cues.first_layer`).
        head_weights: H numbers, how much each of these heads counts once its row is scaled to length 1; None: all alike
            (`gridprune calibrate`).
        laplacian: (B, N, 2) fp32, mean and mean square, over each token's pixels, of the Laplacian of the grey image
            (:func:`gridprune.cues.structure.laplacian_moments`).
        sensitivity: (B, N) fp32, how strongly the projector answers to small changes of each token
            (:mod:`gridprune.cues.sensitivity`).
        quality: (B, N) fp32 >= 0, set by wrappers only: methods with the capability "quality" multiply their score by
            it. Families leave it None.
        images: B, for methods that read no cue at all; otherwise the cues tell.
    """

    relevance: Tensor | None = None
    reading: Reading = "plus"
    relevance_source: str = ""
    saliency: Tensor | None = None
    saliency_at: dict[float, Tensor] = field(default_factory=dict)
    features: Tensor | None = None
    tower_features: Tensor | None = None
    keys: Tensor | None = None
    queries_cls: Tensor | None = None
    heads: int = 1
    word_relevance: Tensor | None = None
    word_mask: Tensor | None = None
    question_embeds: Tensor | None = None
    question_mask: Tensor | None = None
    head_relevance: Tensor | None = None
    head_weights: tuple[float, ...] | None = None
    laplacian: Tensor | None = None
    sensitivity: Tensor | None = None
    quality: Tensor | None = None
    images: int | None = None

    def require(self, name: str) -> Tensor:
        """The cue called `name`, or a :class:`MissingCueError` that says which."""
        value = getattr(self, name, None)
        if value is None:
            raise MissingCueError(f"This method needs the cue {name!r}, which was not computed for these images.")
        return value

    def require_saliency_at(self, depth: float) -> Tensor:
        """Saliency at a depth of the tower, or a :class:`MissingCueError` that says which."""
        if depth not in self.saliency_at:
            raise MissingCueError(f"This method needs saliency at tower depth {depth}, which was not computed.")
        return self.saliency_at[depth]

    def read(self, reading: Reading | Literal["tower"] = "tower", name: str = "relevance") -> Tensor:
        """`relevance`, or `word_relevance`, where larger means more relevant; "tower" is the cues' own reading."""
        how, values = self.reading if reading == "tower" else reading, self.require(name)
        if how != "agree":
            return read(values, how)
        saliency = self.require("saliency")
        return read(values, how, saliency if values.dim() == 2 else saliency[:, None])

    def take(self, indices: Tensor) -> Cues:
        """The same cues for a subset of the tokens, `indices` (B, n) int64, which may differ from image to image."""
        taken: dict[str, Any] = {}
        for name, value in self.tensors().items():
            if name in ("word_relevance", "head_relevance"):
                taken[name] = value.gather(2, indices[:, None, :].expand(-1, value.shape[1], -1))
            elif name in PER_TOKEN:
                index = indices if value.dim() == 2 else indices[..., None].expand(-1, -1, value.shape[2])
                taken[name] = value.gather(1, index)
        saliency_at = {depth: value.gather(1, indices) for depth, value in self.saliency_at.items()}
        return replace(self, saliency_at=saliency_at, **taken)

    def image(self, number: int) -> Cues:
        """The cues of one image of the batch."""
        one: dict[str, Any] = {name: value[number : number + 1] for name, value in self.tensors().items()}
        saliency_at = {depth: value[number : number + 1] for depth, value in self.saliency_at.items()}
        return replace(self, saliency_at=saliency_at, images=self.images and 1, **one)

    def tensors(self) -> dict[str, Tensor]:
        """Every cue that is present, by name."""
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in found.items() if isinstance(value, Tensor)}

    @property
    def batch(self) -> int:
        """B, the number of images."""
        if self.images is not None:
            return self.images
        return next((value.shape[0] for value in self.tensors().values()), 1)

    @property
    def device(self) -> torch.device:
        """Where the cues lie; the CPU if there are none."""
        return next((value.device for value in self.tensors().values()), torch.device("cpu"))


@dataclass(frozen=True, eq=False)
class Merge:
    """How kept slots absorb other tokens: slot s becomes sum_e weight_e * x[token_e] over the entries with group_e = s.

    Attributes:
        group: (B, E) int64, the slot 0..k-1 an entry flows into, or -1 for entries that are dropped.
        weight: (B, E) fp32.
        space: "features" merges the projected embeddings; "tower_features" merges before the projector.
        token: (B, E) int64, the token of each entry, for methods where one token flows into several slots. None: there
            is one entry per token (E = N).
    """

    group: Tensor
    weight: Tensor
    space: Literal["features", "tower_features"] = "features"
    token: Tensor | None = None

    def apply(self, x: Tensor, k: int) -> Tensor:
        """Merged tokens (B, k, D) of `x` (B, N, D), accumulated in fp32, returned in the dtype of `x`."""
        slot = self.group.clamp(min=0)
        if self.token is not None:
            x = x.gather(1, self.token[..., None].expand(-1, -1, x.shape[-1]))
        weight = self.weight.float().masked_fill(self.group < 0, 0.0)
        out = x.new_zeros(x.shape[0], k, x.shape[-1], dtype=torch.float32)
        out.scatter_add_(1, slot[..., None].expand_as(x), x.float() * weight[..., None])
        return out.to(x.dtype)


@dataclass(frozen=True, eq=False, repr=False)
class Selection:
    """What a method decided for B images of one geometry.

    Attributes:
        indices: (B, k) int64, ascending and unique, among the N candidates.
        zones: the partition that budgets were given to, if the method has one.
        scores: (B, N) fp32, what the local selection ranked by, if it ranked.
        merge: how kept slots absorb the rest, if they do; `indices` then says where the merged tokens sit.
    """

    indices: Tensor
    zones: Zones | None = None
    scores: Tensor | None = None
    merge: Merge | None = None

    def __repr__(self) -> str:
        images, k = self.indices.shape
        zones = "" if self.zones is None else f", {self.zones.count} zones"
        return f"Selection({k} tokens in each of {images} image(s){zones}{', merged' if self.merge else ''})"

    @property
    def kept(self) -> Tensor:
        """(B, k) int64: `indices` on the CPU, copied once."""
        return self.on_host[0]

    @cached_property
    def rows(self) -> tuple[Tensor, ...]:
        """`kept` of each image, (k,)."""
        return self.kept.unbind()

    @cached_property
    def on_host(self) -> tuple[Tensor, bool]:
        """`indices`, and whether the weights of a merge are finite, in one copy from the device."""
        return self.unpacked(self.packed().cpu())[0]

    def packed(self, more: Tensor | None = None) -> Tensor:
        """One row of int64 on the device: `indices`, whether the weights of a merge are finite, and `more`."""
        flat = self.indices.flatten()
        finite = None if self.merge is None else self.merge.weight.isfinite().all().to(flat)[None]
        parts = [each for each in (flat, finite, more) if each is not None]
        return flat if len(parts) == 1 else torch.cat([each.to(flat.device) for each in parts])

    def unpacked(self, row: Tensor) -> tuple[tuple[Tensor, bool], list[int]]:
        """:attr:`on_host`, and `more`, of a row that was copied to the host."""
        size, merged = self.indices.numel(), self.merge is not None
        on_host = row[:size].view(self.indices.shape), not merged or bool(row[size])
        self.__dict__["on_host"] = on_host  # it need not be copied again
        return on_host, row[size + merged :].tolist()

    @cached_property
    def budgets(self) -> Tensor | None:
        """(B, Z) int64: how many tokens each zone keeps, rows sum to k; None if there are no zones."""
        if self.zones is None:
            return None
        zone = self.zones.on(self.indices.device).index[self.indices]
        return zone.new_zeros(zone.shape[0], self.zones.count).scatter_add_(1, zone, torch.ones_like(zone))


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """Base of all methods. A subclass is a frozen dataclass: its fields are its settings, nothing else configures it.

    Declared on the class, for runners and wrappers:
        name, paper, stage, cost: what it is called, where it comes from, where it acts, its complexity.
        fixed_count: whether `keep` alone says how many tokens stay. If False the image decides, `keep` is the upper
            limit, and :meth:`count` gives the number; engines that reserve places before they see the image refuse.
        reads: names of the :class:`Cues` that it reads, whatever its settings.
        merges: whether a selection carries a :class:`Merge`; engines that can only drop tokens refuse.
        merge_space: what such a merge mixes, see :class:`Merge`.
        min_frames: frames a video must have at least.
        reads_values: whether `select` looks at values on the host (`.item()`, `nonzero`), and so waits for the device.
        own: whether it is this project's method in some form: no peer that it is compared with.
        capabilities: what wrappers may rely on. "scores": the selection is the top-k of `Selection.scores`. "quality":
            the greedy score is multiplied by `cues.quality`. "geometry": similarities may be taken from other features.

    Attributes:
        keep: the budget per image: a count, a share or a percentage (see :mod:`gridprune.core.budget`).
    """

    keep: Keep = "11.1%"

    name: ClassVar[str]
    paper: ClassVar[str] = ""
    stage: ClassVar[Stage] = "pre-llm"
    fixed_count: ClassVar[bool] = True
    reads: ClassVar[frozenset[str]] = frozenset()
    merges: ClassVar[bool] = False
    merge_space: ClassVar[Literal["features", "tower_features"]] = "features"
    min_frames: ClassVar[int] = 1
    reads_values: ClassVar[bool] = False
    own: ClassVar[bool] = False
    capabilities: ClassVar[frozenset[str]] = frozenset()
    cost: ClassVar[str] = "O(N log N)"

    def __post_init__(self) -> None:
        object.__setattr__(self, "_budget", Budget.parse(self.keep))
        kinds = (getattr(kind, "__dataclass_fields__", {}) for kind in reversed(type(self).__mro__))
        checks = {name: one.metadata for kind in kinds for name, one in kind.items() if "ok" in one.metadata}
        for name, check in checks.items():  # of a field, or of the one that gave way to another default
            self._check(name, check["ok"], check["expected"])

    @property
    def budget(self) -> Budget:
        """The parsed `keep`."""
        return self._budget  # type: ignore[attr-defined, no-any-return]

    @property
    def label(self) -> str:
        """The name, and for wrappers what they hold."""
        return self.name

    @property
    def needs(self) -> frozenset[str]:
        """Names of the :class:`Cues` that `select`, or the merging of its result, reads; settings may decide."""
        return self.reads

    @property
    def saliency_depths(self) -> tuple[float, ...]:
        """Depths of the tower in (0, 1] whose saliency `select` reads from `cues.saliency_at`."""
        return ()

    @property
    def uses_text(self) -> bool:
        """Whether the question changes the selection."""
        text = {"relevance", "word_relevance", "head_relevance", "question_embeds"}
        return bool(self.needs & text)

    @property
    def graph_safe(self) -> bool:
        """Whether the decision is a fixed list of kernels: it may be captured in a CUDA graph, or compiled whole."""
        return self.stage == "pre-llm" and self.fixed_count and not self.reads_values

    def count(self, cues: Cues, token_map: TokenMap) -> int:
        """How many tokens to keep, the `k` for :meth:`select`.

        For methods with `fixed_count` this is the budget rule and reads no cue. The others overrule it, and take the
        cues of one image (B = 1), since every image has its own count.
        """
        return self.budget.resolve(len(token_map))

    def check_count(self, token_map: TokenMap, k: int) -> None:
        """Whether `k` of these candidates can be kept, told before any cue is computed.

        Raises:
            BudgetError: they cannot; the message says why.
        """
        n = len(token_map)
        if not 1 <= k <= n:
            raise BudgetError(f"Cannot keep {k} of {n} visual tokens; k must lie in [1, {n}].")

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

    def _check_single(self, cues: Cues) -> None:
        if cues.batch != 1:
            raise UnsupportedCallError(
                f"{self.name} keeps as many tokens as the image asks for: give one image at a time, got {cues.batch}."
            )

    def _check(self, name: str, ok: Callable[[Any], bool], expected: str) -> None:
        value = getattr(self, name)
        try:
            fine = bool(ok(value))
        except (TypeError, ValueError):  # a text where a number belongs, and the like
            fine = False
        if not fine:
            raise SettingError(f"{type(self).__name__}.{name} must be {expected}, got {value!r}.")


@dataclass(frozen=True)
class Needs:
    """What has to be read of an image and its question, for one method or for several that share one look.

    Attributes:
        cues: names of :class:`Cues`.
        saliency_depths: see :attr:`Method.saliency_depths`.
        uses_text: whether the question is read.
    """

    cues: frozenset[str] = frozenset()
    saliency_depths: tuple[float, ...] = ()
    uses_text: bool = False

    @classmethod
    def of(cls, *methods: Method) -> Needs:
        """What all of these methods need together."""
        return cls(
            cues=frozenset().union(*(method.needs for method in methods)),
            saliency_depths=tuple(sorted({depth for method in methods for depth in method.saliency_depths})),
            uses_text=any(method.uses_text for method in methods),
        )
