"""Methods of runs only: a control, the oracle, and what is left of a method when one of its parts is taken away.

They follow the ordinary contract, so that they run through the same path as every method (the control goes one of its
own); none of them is a method that a user could deploy, hence they are not registered.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from ..core.allocate import apportion, topk_per_zone
from ..core.scores import topk
from ..core.token_map import TokenMap
from ..errors import SettingError
from ..methods.base import Cues, Method, Selection
from ..methods.ops.cells import cell_centres
from ..methods.wrappers.wrapper import Wrapper
from .downsample import Downsample, shrinks_image


@dataclass(frozen=True, kw_only=True)
class Oracle(Method):
    """The evidence first, then the nearest tokens: an upper bound that knows where the answer stands.

    The runner puts :func:`gridprune.eval.evidence.closeness` in the place of the relevance cue. Questions without
    evidence (something is *not* there) get the tokens of uniform stride.
    """

    name: ClassVar[str] = "oracle"
    reads_evidence: ClassVar[bool] = True

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"relevance"})

    def select(self, cues: Cues, token_map: TokenMap, k: int) -> Selection:
        scores = cues.require("relevance")
        kept = topk(scores, k)
        cells = token_map.cells(k)
        spread = cell_centres(token_map, cells.index, cells.size).to(kept.device)
        blind = scores.amax(-1, keepdim=True) == scores.amin(-1, keepdim=True)
        return Selection(torch.where(blind, spread, kept), scores=scores)


@dataclass(frozen=True, kw_only=True)
class Given(Method):
    """Keeps the tokens it is given: ties decisions made elsewhere to `prune`, for tests and for the oracle."""

    indices: tuple[int, ...] = ()

    name: ClassVar[str] = "given"

    def count(self, cues: Cues, token_map: TokenMap) -> int:
        return len(self.indices)

    def select(self, cues: Cues, token_map: TokenMap, k: int) -> Selection:
        return Selection(torch.tensor(self.indices, device=cues.device).expand(cues.batch, -1))


def given(indices: Tensor) -> Given:
    """:class:`Given` for (k,) ascending indices."""
    kept = tuple(indices.tolist())
    return Given(keep=len(kept), indices=kept)


@dataclass(frozen=True, kw_only=True)
class _Apart(Wrapper):
    """A method with one of its parts taken away."""

    @classmethod
    def fits(cls, method: Method) -> bool:
        return method.stage == "pre-llm" and not shrinks_image(method)

    def count(self, cues: Cues, token_map: TokenMap) -> int:
        return self.base.count(cues, token_map)


@dataclass(frozen=True, kw_only=True)
class UniformBudgets(_Apart):
    """The held method's zones and scores, every zone with the same share of k: no global guide."""

    name: ClassVar[str] = "uniform-budgets"

    def select(self, cues: Cues, token_map: TokenMap, k: int) -> Selection:
        selection = self.base.select(cues, token_map, k)
        if selection.zones is None or selection.scores is None:
            raise SettingError(f"{self.name} needs a method with zones and scores; {self.base.label} has none.")
        zones = selection.zones.on(selection.scores.device)
        size = zones.size.expand(cues.batch, -1)
        spread = torch.arange(zones.count, device=size.device) * 0.6180339887 % 1  # who gets the remainder: evenly
        budgets = apportion(size.double(), k, zones.size, spread.expand_as(size))
        scores = selection.scores.expand(cues.batch, -1)
        return Selection(topk_per_zone(scores, zones, budgets, k), zones=selection.zones, scores=scores)


@dataclass(frozen=True, kw_only=True)
class GlobalTopK(_Apart):
    """The k best of the held method's scores, anywhere in the image: no zones."""

    name: ClassVar[str] = "global-topk"

    def select(self, cues: Cues, token_map: TokenMap, k: int) -> Selection:
        scores = self.base.select(cues, token_map, k).scores
        if scores is None:
            raise SettingError(f"{self.name} needs a method with scores; {self.base.label} has none.")
        return Selection(topk(scores, k), scores=scores)


@dataclass(frozen=True, kw_only=True)
class FlippedSign(_Apart):
    """The held method with the relevance turned round."""

    name: ClassVar[str] = "flipped-sign"

    def select(self, cues: Cues, token_map: TokenMap, k: int) -> Selection:
        flipped = {name: -value for name, value in cues.tensors().items() if name in ("relevance", "word_relevance")}
        return self.base.select(replace(cues, **flipped), token_map, k)  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class ShuffledQuestion(_Apart):
    """The held method, guided by the question of the scene before: is it the question that helps?"""

    name: ClassVar[str] = "shuffled-question"
    borrows_question: ClassVar[bool] = True

    def select(self, cues: Cues, token_map: TokenMap, k: int) -> Selection:
        return self.base.select(cues, token_map, k)


BENCH_ONLY: Mapping[str, type[Method]] = {
    kind.name: kind for kind in (Downsample, Oracle, UniformBudgets, GlobalTopK, FlippedSign, ShuffledQuestion)
}


def reads_evidence(method: Method) -> bool:
    """Whether the runner must show the method where the answer stands."""
    return bool(getattr(method, "reads_evidence", False))


def borrows_question(method: Method) -> bool:
    """Whether the method is guided by another scene's question."""
    return bool(getattr(method, "borrows_question", False))
