"""Relevance-weighted diversity: a method without text, made to favour what the question asks for."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

from ...core.scores import minmax
from ...core.token_map import TokenMap
from ..base import Cues, Method, Selection
from ..divprune import DivPrune
from ..guided import Guided
from ..settings import number, share
from .wrapper import Wrapper


@dataclass(frozen=True, kw_only=True)
class RelevanceWeighted(Guided, Wrapper):
    """A greedy method whose scores are weighted by relevance.

    The base's greedy score is multiplied by (`floor` + (1 - `floor`) r)^`power`, r the relevance scaled to [0, 1].

    Published and this class: around DivPrune this is relevance times max-min distance, the idea of ReDiPrune
    (https://arxiv.org/abs/2603.24680, which does it before the projector); DivPrune's first pick stays its own.

    Attributes:
        base: a method with the capability "quality" that does not use the question itself.
        power: at least 0; 0 is the base.
        floor: weight of the least relevant token, in [0, 1].
    """

    base: Method = field(default_factory=DivPrune)
    power: float = number(1.0)
    floor: float = share(0.0)

    name: ClassVar[str] = "relevance-weighted"
    paper: ClassVar[str] = "https://arxiv.org/abs/2603.24680"
    cost: ClassVar[str] = "base + O(N)"
    requires: ClassVar[frozenset[str]] = frozenset({"quality"})

    @property
    def needs(self) -> frozenset[str]:
        return self.base.needs | self.relevance_cues

    def select(self, cues: Cues, token_map: TokenMap, k: int) -> Selection:
        weight = minmax(cues.read(self.reading))
        weight = (self.floor + (1 - self.floor) * weight) ** self.power
        if cues.quality is not None:
            weight = weight * cues.quality
        return self.base.select(replace(cues, quality=weight), token_map, k)
