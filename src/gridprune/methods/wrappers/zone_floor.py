"""A floor of one token per zone under a method that ranks tokens."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from ...core.allocate import rank_in_zone
from ...core.token_map import TokenMap
from ..base import Cues, Method, Selection
from ..fastervlm import FasterVLM
from ..ops.similarity import ranked
from ..settings import whole
from .wrapper import Wrapper


@dataclass(frozen=True, kw_only=True)
class ZoneFloor(Wrapper):
    """The best token of every `zone` x `zone` zone stays; the rest of the budget is the base's global top-k.

    If there are more zones than tokens to keep, the best of the zones' best tokens stay.

    Attributes:
        base: a method with the capability "scores".
        zone: side of a zone in tokens.
    """

    base: Method = field(default_factory=FasterVLM)
    zone: int = whole(6)

    name: ClassVar[str] = "zone-floor"
    cost: ClassVar[str] = "base + O(N log N)"
    requires: ClassVar[frozenset[str]] = frozenset({"scores"})

    def select(self, cues: Cues, token_map: TokenMap, k: int) -> Selection:
        scores = self.base.select(cues, token_map, k).scores
        assert scores is not None  # the capability "scores"
        zones = token_map.zones(self.zone)
        first = rank_in_zone(scores, zones.on(scores.device)) == 0
        order = ranked([first.long(), scores.float()])
        return Selection(order[:, :k].sort(dim=1).values, scores=scores)
