"""GridPrune: guide globally, select locally (https://arxiv.org/abs/2511.10081)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ..core.allocate import apportion, equal_parts, topk_per_zone
from ..core.budget import Keep
from ..core.reading import Reading
from ..core.scores import deviation, minmax, zone_mean
from ..core.token_map import TokenMap, Zones
from ..errors import BudgetError
from .base import Cues, Selection
from .guided import Guided
from .settings import number, one_of, share, whole

_FAR = -1e20  # stands for NaN and infinite values; unlike -inf, it can be subtracted from itself


@dataclass(frozen=True, kw_only=True)
class GridPrune(Guided):
    """Two stages: *where to look*, a text-guided token budget for each zone; *what to select*, a top-k inside it.

    1. The token map is cut into zones of `zone` x `zone` tokens. Zone j gets the share P_j of the k tokens, rounded to
       integers that sum to k (:func:`gridprune.core.allocate.apportion`). As printed, P_j = softmax_j(mean relevance of
       the zone / `temperature`). The default reads the question's attention instead: over all tokens p_i =
       softmax_i(r_i / (`temperature` sd)), with sd the standard deviation of the relevance in this image, and P_j is
       the sum of p_i in zone j: one token that answers the question counts in full, however little is around it.
    2. Inside each zone the tokens with the largest s_i = (1 - `alpha`) (r_i + 1) / 2 + `alpha` a_i stay, where r_i is
       the cosine between token and question and a_i the [CLS] attention, scaled to [0, 1] in each view.

    Complexity O(N log N): two sorts over the zones and one over the tokens; O(N) memory.

    Published and this class: the formulas of zone relevance, shares and fused score are the paper's. It prints no code,
    and what follows is our choice where the paper (or what is public of it) is silent: zone size, normalisation of the
    saliency, tie-breaking, spreading what a full zone cannot take, one budget over all views of an anyres image, and
    the reading of r_i (TRIM, CDPruner and EADP negate the same cosine on OpenAI's CLIP; the paper prints a plus).
    Shares by mass on the image's own scale depart from it: means of cosines hardly differ between zones, so that at the
    printed temperature rounding decides. How sharp (`temperature`) and how coarse (`zone`) was chosen on development
    scenes of the embedded model: sharper budgets find small things, flatter ones keep what counting needs.
    :meth:`literal` is the method as printed.

    Attributes:
        zone: side of a zone in tokens, 1 or more; maps it does not divide get zones that differ by at most one token.
        temperature: tau >= 1e-12 in standard deviations of the relevance; as printed, in units of the cosine.
        alpha: weight of saliency against relevance in the local score, in [0, 1].
        minimum: tokens every zone gets before the rest is shared out; ``minimum * zones`` must not exceed k.
        scope: "image" shares one exact budget out over all views at once; "view" gives each view its equal part of k
            first, as the paper's LLaVA-NeXT setting reads.
    """

    zone: int = whole(3)
    temperature: float = number(3.0, least=1e-12)
    alpha: float = share(0.5)
    minimum: int = whole(0, least=0)
    scope: Literal["image", "view"] = one_of("image", "view")

    name: ClassVar[str] = "gridprune"
    paper: ClassVar[str] = "https://arxiv.org/abs/2511.10081"
    own: ClassVar[bool] = True

    @classmethod
    def literal(cls, keep: Keep = "11.1%", **settings: Any) -> GridPrune:
        """The method as printed: zone means, tau = 1, alpha = 0.5, plus sign, an equal part of k for every view."""
        return LiteralGridPrune(keep=keep, **settings)

    @property
    def needs(self) -> frozenset[str]:
        return self.relevance_cues | ({"saliency"} if self.alpha > 0 else set())

    def check_count(self, token_map: TokenMap, k: int) -> None:
        super().check_count(token_map, k)
        zones = self._zones(token_map)
        views = token_map.groups("view").sizes
        counts, parts = ([zones.count], [k]) if self.scope == "image" else (_sheets(zones).sizes, equal_parts(k, views))
        for count, part in zip(counts, parts):
            if self.minimum * count > part:
                raise BudgetError(
                    f"minimum = {self.minimum} token(s) in each of {count} zones needs {self.minimum * count} tokens, "
                    f"but only {part} may be kept. Lower `minimum`, enlarge `zone` (now {self.zone}) or raise `keep`."
                )

    def select(self, cues: Cues, token_map: TokenMap, k: int) -> Selection:
        relevance = cues.read(self.reading).float()
        self.check_count(token_map, k)
        zones = self._zones(token_map)
        here = zones.on(relevance.device)
        scores = self._scores(relevance, cues, token_map)
        budgets = self._budgets(self._shares(relevance, here), here, token_map, k)
        return Selection(topk_per_zone(scores, here, budgets, k), zones=zones, scores=scores)

    def _zones(self, token_map: TokenMap) -> Zones:
        return token_map.zones(self.zone, within="plane" if self.scope == "image" else "view")

    def _scores(self, relevance: Tensor, cues: Cues, token_map: TokenMap) -> Tensor:
        """s_i, (B, N) fp32."""
        half = (1 - self.alpha) / 2
        scores = (relevance * half).add_(half)  # (1 - alpha) (r + 1) / 2
        if self.alpha == 0:
            return scores
        views = token_map.groups("view").on(relevance.device)  # each crop has its own scale of attention
        return scores.add_(minmax(cues.require("saliency"), views), alpha=self.alpha)

    def _shares(self, relevance: Tensor, zones: Zones) -> Tensor:
        """P_j, (B, Z) fp64, rows sum to 1."""
        scale = deviation(relevance).mul_(self.temperature)
        values = relevance.nan_to_num(nan=_FAR, posinf=_FAR, neginf=_FAR).div_(scale)
        return zones.by_zone(torch.softmax(values, dim=-1, dtype=torch.float64), fill=0.0).sum(-1)

    def _budgets(self, shares: Tensor, zones: Zones, token_map: TokenMap, k: int) -> Tensor:
        """k_j, (B, Z) int64, rows sum to k."""
        if self.scope == "image":
            return apportion(shares, k, zones.size, minimum=self.minimum)
        # One row per view: the zones of each, side by side, as many as the view with most zones has.
        views = _sheets(zones)
        sizes = token_map.groups("view").sizes
        parts = token_map.once_on(
            shares.device, "parts of views", lambda: torch.tensor(equal_parts(k, sizes), device="cpu")[:, None], k
        )
        size = views.by_zone(zones.size[None], fill=0)  # [1, V, zones]
        return views.by_token(apportion(views.by_zone(shares, fill=0.0), parts, size, minimum=self.minimum))


@dataclass(frozen=True, kw_only=True)
class LiteralGridPrune(GridPrune):
    """GridPrune as printed: zone means, tau = 1, alpha = 0.5, relevance with a plus sign, k / views for every view."""

    zone: int = 2
    temperature: float = 1.0
    reading: Reading | Literal["tower"] = "plus"
    scope: Literal["image", "view"] = "view"

    name: ClassVar[str] = "gridprune-literal"

    def _shares(self, relevance: Tensor, zones: Zones) -> Tensor:
        """softmax_j(mean relevance of zone j / tau), (B, Z) fp64; an empty zone, or one with NaN in it, gets 0."""
        logits = zone_mean(relevance, zones).double().nan_to_num(nan=_FAR, posinf=_FAR, neginf=_FAR)
        return torch.softmax(logits / self.temperature, dim=-1)


def _sheets(zones: Zones) -> Zones:
    """Which view each zone lies in."""
    assert zones.sheets is not None
    return zones.sheets
