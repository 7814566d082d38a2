"""Two stages: one method makes a shortlist, another chooses from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch

from ...core.token_map import TokenMap
from ..base import Cues, Method, Selection
from ..divprune import DivPrune
from ..fastervlm import FasterVLM
from ..settings import number
from .wrapper import Wrapper


@dataclass(frozen=True, kw_only=True)
class TwoStage(Wrapper):
    """The base keeps `shortlist` * k tokens (rounded half up, at most N), `second` chooses k of these.

    Complexity: the base's, and the second's on the shortlist. The second stage runs image by image, since every image
    has a shortlist, and so a token map, of its own.

    Attributes:
        base: the first method.
        second: the second method.
        shortlist: size of the shortlist as a multiple of k, at least 1.
    """

    base: Method = field(default_factory=FasterVLM)
    second: Method = field(default_factory=DivPrune)
    shortlist: float = number(2.0, least=1)

    name: ClassVar[str] = "two-stage"
    reads_values: ClassVar[bool] = True
    cost: ClassVar[str] = "base + second"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._hold("second")

    @property
    def label(self) -> str:
        return f"{self.name}({self.base.label}, {self.second.label})"

    @property
    def needs(self) -> frozenset[str]:
        return self.base.needs | self.second.needs

    @property
    def saliency_depths(self) -> tuple[float, ...]:
        return tuple(sorted({*self.base.saliency_depths, *self.second.saliency_depths}))

    def select(self, cues: Cues, token_map: TokenMap, k: int) -> Selection:
        size = min(len(token_map), int(self.shortlist * k + 0.5))
        first = self.base.select(cues, token_map, size).indices  # [B, size]
        shortened = cues.take(first)
        parts = []
        for image, kept in enumerate(first):
            own = shortened.image(image)
            chosen = self.second.select(own, token_map.take(kept.cpu()), k).indices[0]
            parts.append(kept[chosen.to(kept.device)])
        return Selection(torch.stack(parts))
