"""GridPrune: guide globally, select locally (https://arxiv.org/abs/2511.10081)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ..allocate import apportion, deviation, equal_parts, minmax, rank01, softmax_shares, topk_per_zone
from ..budget import Keep
from ..errors import BudgetError
from ..seats import Guide, best_seats, zone_logits
from ..token_map import TokenMap, Zones
from .base import Cues, Method, Selection
from .relevance import check_sign, signed_relevance

_NORMALISE: dict[str, Callable[[Tensor, Zones], Tensor]] = {
    "none": lambda values, views: values.float(),
    "minmax": minmax,
    "rank": rank01,
}


@dataclass(frozen=True, kw_only=True)
class GridPrune(Method):
    """Two stages: *where to look*, a text-guided token budget for each zone; *what to select*, a top-k inside it.

    1. The token map is cut into zones of `zone` x `zone` tokens. Zone j gets the share P_j of the k tokens, rounded to
       integers that sum to k (:func:`gridprune.allocate.apportion`; both stages in one selection:
       :mod:`gridprune.seats`). As printed, P_j = softmax_j(mean relevance of the zone / `temperature`). The default
       reads the question's attention instead: p_i = softmax_i(r_i / (`temperature` sd)) over all tokens, with sd the
       standard deviation of the relevance in this picture, and P_j is the sum of p_i in zone j.
    2. Inside each zone the tokens with the largest s_i = (1 - `alpha`) (r_i + 1) / 2 + `alpha` a_i stay, where r_i is
       the cosine between token and question and a_i the normalised [CLS] attention.

    Complexity O(N log N): one sort over the zones, one top-k over the tokens; O(N) memory.

    Paper and this class: the formulas of zone relevance, shares and fused score are the paper's. It prints no code, and
    what follows is our choice where the paper (or what is public of it) is silent: zone size, normalisation of the
    saliency, tie-breaking, spreading what a full zone cannot take, one budget over all views of an anyres image, and
    the sign of r_i (TRIM, CDPruner and EADP negate the same cosine on OpenAI's CLIP; the paper prints a plus).
    `guide` and `calibrate` depart from it: means of cosines hardly differ between zones, so that at the printed
    temperature rounding decides; a sum of softmax weights on a scale of the picture's own can be as sharp as wanted on
    any tower. How sharp (`temperature`) and how coarse (`zone`) was chosen on development scenes of the embedded model:
    sharper budgets find small things, flatter ones keep what counting needs.
    :meth:`literal` is the method as printed.

    Attributes:
        zone: side of a zone in tokens, 1 or more; maps it does not divide get zones that differ by at most one token.
        guide: what stands for a zone: "mass", its part of a softmax over all tokens, or "mean", as printed.
        calibrate: whether the guide reads relevance in standard deviations of the picture instead of cosines, whose
            spread differs from tower to tower.
        temperature: tau >= 1e-12, in standard deviations if `calibrate`, else in units of the cosine.
        alpha: weight of saliency against relevance in the local score, in [0, 1].
        saliency_norm: "minmax" (to [0, 1] per view), "rank" or "none".
        relevance_sign: +1, -1, or "tower": the sign that was measured to localise on the tower in use.
        minimum: tokens every zone gets before the rest is shared out; ``minimum * zones`` must not exceed k.
        scope: "image" shares one exact budget out over all views at once; "view" gives each view its equal part of k
            first, as the paper's LLaVA-NeXT setting reads.
        frames_may_vanish: whether frames of a clip, and pictures under one budget over the prompt, may be left without
            any token. If not, the most relevant zone of each gets one token before the shares are dealt out.
    """

    zone: int = 3
    guide: Guide = "mass"
    calibrate: bool = True
    temperature: float = 3.0
    alpha: float = 0.5
    saliency_norm: Literal["none", "minmax", "rank"] = "minmax"
    relevance_sign: int | Literal["tower"] = "tower"
    minimum: int = 0
    scope: Literal["image", "view"] = "image"
    frames_may_vanish: bool = False

    name: ClassVar[str] = "gridprune"
    paper: ClassVar[str] = "https://arxiv.org/abs/2511.10081"
    own: ClassVar[bool] = True
    capabilities: ClassVar[frozenset[str]] = frozenset({"joint"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sign(self.relevance_sign)
        self._check("zone", lambda v: _whole(v) and v >= 1, "a whole number of at least 1")
        self._check("guide", lambda v: v in ("mass", "mean"), "'mass' or 'mean'")
        self._check("calibrate", lambda v: isinstance(v, bool), "True or False")
        self._check("temperature", lambda v: 1e-12 <= v < math.inf, "a number of at least 1e-12")
        self._check("alpha", lambda v: 0 <= v <= 1, "between 0 and 1")
        self._check("saliency_norm", lambda v: v in _NORMALISE, f"one of {', '.join(_NORMALISE)}")
        self._check("minimum", lambda v: _whole(v) and v >= 0, "a whole number of at least 0")
        self._check("scope", lambda v: v in ("image", "view"), "'image' or 'view'")
        self._check("frames_may_vanish", lambda v: isinstance(v, bool), "True or False")

    @classmethod
    def literal(cls, keep: Keep = "11.1%", **settings: Any) -> GridPrune:
        """The method as printed: zone means, tau = 1, alpha = 0.5, plus sign, an equal part of k for every view."""
        return LiteralGridPrune(keep=keep, **settings)

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"relevance", "saliency"}) if self.alpha > 0 else frozenset({"relevance"})

    def check_count(self, token_map: TokenMap, k: int) -> None:
        super().check_count(token_map, k)
        zones = token_map.zones(self.zone, within="plane" if self.scope == "image" else "view")
        floored, frames = self._floored(token_map), token_map.groups("frame")
        if self.scope == "image":
            self._check_minimum(zones.count, k)
            self._check_frames(frames.count if floored else 0, k)
            return
        assert zones.sheets is not None
        views = token_map.groups("view")
        for view, (count, part) in enumerate(zip(zones.sheets.sizes, equal_parts(k, views.sizes))):
            self._check_minimum(count, part)
            self._check_frames(len(frames.index[views.index == view].unique()) if floored else 0, part)

    def select(self, cues: Cues, token_map: TokenMap, k: int) -> Selection:
        relevance = signed_relevance(cues, self.relevance_sign).float()
        self.check_count(token_map, k)
        zones = token_map.zones(self.zone, within="plane" if self.scope == "image" else "view")
        here = zones.on(relevance.device)
        scores = self._scores(relevance, cues, token_map)
        temperature: float | Tensor = self.temperature
        if self.calibrate:
            temperature = deviation(relevance).mul_(self.temperature)
        one_budget = self.scope == "image" or token_map.groups("view").count == 1
        if one_budget and not self._floored(token_map):
            indices = best_seats(scores, relevance, here, k, temperature, self.minimum, self.guide)
        else:
            logits = zone_logits(relevance, here, temperature, self.guide)
            indices = topk_per_zone(scores, here, self._budgets(logits, here, token_map, k), k)
        return Selection(indices, zones=zones, scores=scores)

    def _scores(self, relevance: Tensor, cues: Cues, token_map: TokenMap) -> Tensor:
        """s_i, (B, N) fp32."""
        half = (1 - self.alpha) / 2
        scores = (relevance * half).add_(half)  # (1 - alpha) (r + 1) / 2
        if self.alpha == 0:
            return scores
        views = token_map.groups("view").on(relevance.device)  # each crop has its own scale of attention
        saliency = _NORMALISE[self.saliency_norm](cues.require("saliency"), views)
        return scores.add_(saliency, alpha=self.alpha)

    def _budgets(self, logits: Tensor, zones: Zones, token_map: TokenMap, k: int) -> Tensor:
        """k_j, (B, Z) int64, rows sum to k."""
        if self._floored(token_map):
            first = one_per_frame(logits, zones, token_map)
            return first + self._shared(logits, zones, token_map, k, first)
        return self._shared(logits, zones, token_map, k)

    def _shared(self, logits: Tensor, zones: Zones, token_map: TokenMap, k: int, first: Tensor | None = None) -> Tensor:
        """What is dealt out by shares, (B, Z) int64: all k tokens, or those that `first` (B, Z) leaves."""
        if self.scope == "image":
            shares, size = softmax_shares(logits, 1.0), zones.size
            if first is not None:
                size, k = size - first, k - token_map.groups("frame").count
            return apportion(shares, k, size, minimum=self.minimum, normalised=True)
        # One row per view: the zones of each, side by side, as many as the view with most zones has.
        views = zones.sheets
        assert views is not None
        parts = equal_parts(k, token_map.groups("view").sizes)
        size = views.by_zone(zones.size[None], fill=0)  # [1, V, zones]
        logits = views.by_zone(logits, fill=math.nan)  # [B, V, zones]
        totals = torch.tensor(parts, device=logits.device)[:, None]
        if first is not None:
            taken = views.by_zone(first, fill=0)
            size, totals = size - taken, totals - taken.sum(-1, keepdim=True)
        shares = softmax_shares(logits, 1.0)
        budgets = apportion(shares, totals, size, minimum=self.minimum, normalised=True)
        return views.by_token(budgets)

    def _check_minimum(self, zones: int, k: int) -> None:
        if self.minimum * zones > k:
            raise BudgetError(
                f"minimum = {self.minimum} token(s) in each of {zones} zones needs {self.minimum * zones} tokens, but "
                f"only {k} may be kept. Lower `minimum`, enlarge `zone` (now {self.zone}) or raise `keep`."
            )

    def _floored(self, token_map: TokenMap) -> bool:
        """Whether each frame gets a token first; zones that all get some leave no frame without."""
        return not self.frames_may_vanish and self.minimum == 0 and token_map.groups("frame").count > 1

    def _check_frames(self, frames: int, k: int) -> None:
        if frames > k:
            raise BudgetError(
                f"{k} visual tokens over {frames} frames or pictures leave some with none. Keep at least {frames}, or "
                "allow it: frames_may_vanish=True."
            )


def one_per_frame(logits: Tensor, zones: Zones, token_map: TokenMap) -> Tensor:
    """(B, Z) int64: 1 for the zone of each frame with the largest logit (B, Z), ties to the earlier; 0 elsewhere."""
    frame = token_map.groups("frame").index
    of_zone = torch.zeros(zones.count, dtype=torch.int64, device="cpu").scatter_(0, zones.index.cpu(), frame)
    frames = Zones(of_zone, torch.bincount(of_zone)).on(logits.device)
    table = frames.by_zone(logits.nan_to_num(nan=-math.inf), fill=-math.inf)  # [B, F, zones of a frame]
    best = table.argsort(dim=-1, descending=True, stable=True)[..., :1]
    return frames.by_token(torch.zeros_like(table, dtype=torch.int64).scatter_(-1, best, 1))


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


@dataclass(frozen=True, kw_only=True)
class LiteralGridPrune(GridPrune):
    """GridPrune as printed: zone means, tau = 1, alpha = 0.5, relevance with a plus sign, k / views for every view."""

    zone: int = 2
    guide: Guide = "mean"
    calibrate: bool = False
    temperature: float = 1.0
    relevance_sign: int | Literal["tower"] = 1
    scope: Literal["image", "view"] = "view"

    name: ClassVar[str] = "gridprune-literal"
