"""Nuwa, stage one: the best tokens of 2 x 2 zones, and of these the best (https://arxiv.org/abs/2602.02951)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..core.allocate import rank_in_zone
from ..core.token_map import TokenMap, Zones
from .base import Cues, Method, Selection
from .ops.similarity import ranked
from .settings import is_whole, setting, whole


@dataclass(frozen=True, kw_only=True)
class Nuwa(Method):
    """Every zone of 2 x 2 tokens names its tokens of most attention; of all that are named the k best stay.

    So no zone can hold more than `per_zone` of the kept tokens, and attention decides among zones: the closest relative
    of GridPrune without a question.

    Published and this class: the released stage one keeps 112, 224 or 336 tokens of 576 for nominal 64, 128 and 192,
    since a second stage inside the language model drops more, guided by the question; here it keeps k, and nothing
    follows. It then adds to every kept token below the 55th percentile the states of what lies near and is similar
    (mean hidden states of nine tower layers); that aggregation is left out, so published figures are not those of this
    class. How many tokens a zone names is our choice where `per_zone` is None: as few as suffice for k. Should a given
    number not suffice, the best of the tokens that were not named follow.

    Attributes:
        zone: side of a zone in tokens.
        per_zone: tokens a zone names; None for the smallest number with which k can be met.
    """

    zone: int = whole(2)
    per_zone: int | None = setting(
        None, lambda v: v is None or (is_whole(v) and v >= 1), "None or a whole number above 0"
    )

    name: ClassVar[str] = "nuwa"
    paper: ClassVar[str] = "https://arxiv.org/abs/2602.02951"
    reads: ClassVar[frozenset[str]] = frozenset({"saliency"})

    def select(self, cues: Cues, token_map: TokenMap, k: int) -> Selection:
        saliency = cues.require("saliency").float()
        zones = token_map.zones(self.zone)
        named = rank_in_zone(saliency, zones.on(saliency.device)) < (self.per_zone or fewest(zones, k))
        order = ranked([named.long(), saliency])
        return Selection(order[:, :k].sort(dim=1).values, zones=zones, scores=saliency)


def fewest(zones: Zones, k: int) -> int:
    """The smallest number of tokens per zone with which all zones together hold `k`."""
    per_zone = 1
    while int(zones.size.clamp(max=per_zone).sum()) < k:  # on the CPU, at most as often as the largest zone has tokens
        per_zone += 1
    return per_zone
