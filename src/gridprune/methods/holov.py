"""HoloV: budgets for runs of tokens, then attention inside each (https://arxiv.org/abs/2510.02912)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..core.allocate import topk_per_zone
from ..core.scores import zone_mean
from ..core.token_map import TokenMap, Zones
from .base import Cues, Method, Selection
from .ops.similarity import unit
from .settings import number, whole


@dataclass(frozen=True, kw_only=True)
class HoloV(Method):
    """The tokens of each view are cut into `runs` contiguous runs (bands of rows); a run's budget follows its
    attention.

    Budget of run p: floor(k m_p / sum m), m_p the mean score of its tokens; the tokens still missing go one each to the
    runs with the largest means. Inside a run the tokens with the most [CLS] attention stay.

    Published and this class: the score is attention plus alpha times the variance of each token's similarities within
    its run. The released code scales that variance run by run so that its mean equals the run's mean attention. Every
    run's mean is then (1 + alpha) times its mean attention, the factor cancels in the budgets, and alpha cannot change
    anything. This class is the released behaviour, so it has no alpha and needs no features; :class:`HoloVPrinted`
    scales once over the image. The release fills the places that a run cannot use with zero vectors; here they go to
    the runs with the next largest means. It cuts one view of 576 tokens into 16 runs; here every view of an anyres
    image is cut so, and all runs share one budget.

    Attributes:
        runs: number of runs per view (fewer if a view has fewer tokens).
    """

    runs: int = whole(16)

    name: ClassVar[str] = "holov"
    paper: ClassVar[str] = "https://arxiv.org/abs/2510.02912"
    reads: ClassVar[frozenset[str]] = frozenset({"saliency"})

    def select(self, cues: Cues, token_map: TokenMap, k: int) -> Selection:
        saliency = cues.require("saliency").float()
        zones = token_map.once("runs", lambda: runs_of(token_map, self.runs), self.runs)
        here = zones.on(saliency.device)
        mean = zone_mean(self._scores(cues, saliency, here), here)
        budgets = _budgets(mean, here.size, k)
        return Selection(topk_per_zone(saliency, here, budgets, k), zones=zones, scores=saliency)

    def _scores(self, cues: Cues, saliency: Tensor, zones: Zones) -> Tensor:
        return saliency


@dataclass(frozen=True, kw_only=True)
class HoloVPrinted(HoloV):
    """HoloV with its variance term at work: score_i = a_i + `alpha` v_i (mean a / mean v), means over the whole image.

    v_i is the variance of token i's cosines (projected embeddings) to the other tokens of its run. Everything else is
    :class:`HoloV`; runs then differ by how varied they are, which is what the paper describes.

    Attributes:
        alpha: weight of the variance, at least 0; 0.09 as in the released settings.
    """

    alpha: float = number(0.09)

    name: ClassVar[str] = "holov-printed"
    cost: ClassVar[str] = "O(N^2 D / runs)"
    reads: ClassVar[frozenset[str]] = frozenset({"saliency", "features"})

    def _scores(self, cues: Cues, saliency: Tensor, zones: Zones) -> Tensor:
        features = unit(cues.require("features"))
        batch, _, width = features.shape
        rows = features.index_select(1, zones.members).view(batch, zones.count, zones.most, width)
        present = torch.ones(zones.count, zones.most, dtype=torch.float32, device=features.device)
        if zones.absent is not None:
            present = (~zones.absent).float()
        others = present[:, None] * (
            1 - torch.eye(zones.most, dtype=torch.float32, device=features.device)
        )  # [Z, 1, M] x [M, M]
        similarity = (rows @ rows.mT).double()  # [B, Z, M, M]
        count = others.sum(-1).clamp(min=1)
        mean = (similarity * others).sum(-1) / count
        variance = ((similarity - mean[..., None]).square() * others).sum(-1) / count  # [B, Z, M]
        spread = zones.by_token(variance)
        scale = saliency.double().mean(-1, keepdim=True) / spread.mean(-1, keepdim=True).clamp(min=1e-12)
        return (saliency + self.alpha * scale * spread).float()


def runs_of(token_map: TokenMap, runs: int) -> Zones:
    """Each view cut into at most `runs` runs of consecutive tokens, whose sizes differ by at most one."""
    views = token_map.groups("view")
    order = views.index.argsort(stable=True)
    place = torch.empty_like(order).index_copy_(0, order, torch.arange(len(order), device="cpu"))
    start = views.size.cumsum(0) - views.size
    parts = views.size.clamp(max=runs)
    first = parts.cumsum(0) - parts
    index = (place - start[views.index]) * parts[views.index] // views.size[views.index] + first[views.index]
    return Zones(index, torch.bincount(index))


def _budgets(mean: Tensor, size: Tensor, k: int) -> Tensor:
    """(B, Z) int64, rows sum to k: floored shares, leftovers to the largest, overflow to the next largest with room."""
    shares = mean.double().clamp(min=0)
    total = shares.sum(-1, keepdim=True)
    shares = torch.where(total > 0, shares / total.clamp(min=1e-300), 1 / shares.shape[-1])
    budget = (shares * k + 1e-9).floor().long()
    order = shares.argsort(dim=-1, descending=True, stable=True)
    place = order.argsort(dim=-1)
    budget = budget + (place < k - budget.sum(-1, keepdim=True)).long()

    room = (size - budget).clamp(min=0).gather(1, order)  # best run first
    budget = torch.minimum(budget, size)
    missing = k - budget.sum(-1, keepdim=True)
    extra = (missing - room.cumsum(-1) + room).clamp(min=0).minimum(room)
    return budget + torch.zeros_like(budget).scatter(1, order, extra)
