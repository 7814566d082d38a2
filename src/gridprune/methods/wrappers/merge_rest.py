"""Merge the rest: what a method drops flows into the nearest token it keeps."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

from ...core.token_map import TokenMap
from ..base import Cues, Method, Selection
from ..fastervlm import FasterVLM
from ..ops.similarity import merge_into_nearest
from .wrapper import Wrapper


@dataclass(frozen=True, kw_only=True)
class MergeRest(Wrapper):
    """The base selects; every dropped token is assigned to the kept token of largest cosine, and a kept token becomes
    the mean of itself and what came to it (projected embeddings).
    """

    base: Method = field(default_factory=FasterVLM)

    name: ClassVar[str] = "merge-rest"
    merges: ClassVar[bool] = True
    cost: ClassVar[str] = "base + O(k N D)"

    @property
    def needs(self) -> frozenset[str]:
        return self.base.needs | {"features"}

    def select(self, cues: Cues, token_map: TokenMap, k: int) -> Selection:
        selection = self.base.select(cues, token_map, k)
        return replace(selection, merge=merge_into_nearest(cues.require("features"), selection.indices, "features"))
