"""FSR: focus, scan, refine (https://arxiv.org/abs/2602.05809)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..core.scores import ascending_indices, minmax
from ..core.token_map import TokenMap
from .base import Cues, Merge, Selection
from .guided import Guided
from .ops.similarity import Cosine, first_max, ranked
from .settings import number, part


@dataclass(frozen=True, kw_only=True)
class FSR(Guided):
    """Focus on relevant and salient tokens, scan for what differs from them, refine the scanned ones by merging.

    1. Priority p_i = r_i^`alpha` a_i^`beta`, both scaled to [0, 1]. The focus set is the smallest number of best tokens
       that holds the share `mass` of all priority (no more than k).
    2. The rest of the budget: always the token whose largest cosine to anything chosen so far is smallest
       (farthest-point sampling that starts from the focus set; projected embeddings).
    3. Of the dropped tokens the `refine` * |scanned| that are most similar to their nearest scanned token are merged
    into
       it, as a mean weighted by priority. Focus tokens stay as they are.

    Published and this class: written from the paper; no code was public. Relevance is the CLIP cosine as it is read on
    the tower; for towers without a text half the paper drops it (`text=False`). Where all priorities in a group are 0
    the scanned token stays as it is.

    Attributes:
        alpha, beta: exponents of relevance and attention, at least 0.
        mass: share of the priority that the focus set must hold, in (0, 1].
        refine: merged tokens per scanned token, at least 0.
        text: whether relevance is used.
    """

    alpha: float = number(3.0)
    beta: float = number(1.0)
    mass: float = part(0.9)
    refine: float = number(1.0)
    text: bool = True

    name: ClassVar[str] = "fsr"
    paper: ClassVar[str] = "https://arxiv.org/abs/2602.05809"
    reads_values: ClassVar[bool] = True
    merges: ClassVar[bool] = True
    cost: ClassVar[str] = "O(k N D)"

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"features", "saliency"}) | (self.relevance_cues if self.text else frozenset())

    def select(self, cues: Cues, token_map: TokenMap, k: int) -> Selection:
        priority = minmax(cues.require("saliency")).double().pow(self.beta)
        if self.text:
            priority = priority * minmax(cues.read(self.reading)).double().pow(self.alpha)
        cosine = Cosine(cues.require("features"))
        focus = self._focus(priority, k)
        chosen = self._scan(cosine, focus, k)
        indices = ascending_indices(chosen, k)
        return Selection(indices, scores=priority.float(), merge=self._refine(cosine, priority, focus, chosen))

    def _focus(self, priority: Tensor, k: int) -> Tensor:
        """(B, N) bool, at least one and at most k tokens per image."""
        order = ranked([priority])
        held = priority.gather(1, order).cumsum(1)
        enough = held >= held[:, -1:] * (self.mass - 1e-12)
        count = (~enough).sum(1, keepdim=True) + 1
        place = torch.arange(order.shape[1], device=order.device)
        return torch.zeros_like(enough).scatter(1, order, (place < count.clamp(max=k)))

    def _scan(self, cosine: Cosine, focus: Tensor, k: int) -> Tensor:
        """(B, N) bool: `focus` and what is farthest from it, k tokens per image."""
        everyone = torch.arange(cosine.n, device=focus.device).expand_as(focus)
        size = focus.sum(1)
        most = int(size.max())
        padded = (~focus).to(torch.uint8).argsort(dim=1, stable=True)[:, :most]  # focus tokens, then some others
        padded = torch.where(torch.arange(most, device=focus.device) < size[:, None], padded, padded[:, :1])
        closest = cosine.closest(everyone, padded)  # [B, N]
        chosen = focus
        for step in range(k - int(size.min())):
            wanted = (size + step < k)[:, None]
            token = first_max((-closest).masked_fill(chosen, float("-inf")))
            chosen = torch.where(wanted, chosen.scatter(1, token[:, None], True), chosen)
            closest = closest.maximum(cosine.row(token))
        return chosen

    def _refine(self, cosine: Cosine, priority: Tensor, focus: Tensor, chosen: Tensor) -> Merge:
        scanned = chosen & ~focus
        count = scanned.sum(1)
        slot = chosen.cumsum(1) - 1
        own = Merge(torch.where(chosen, slot, -1), chosen.float(), "features")
        most = int(count.max())
        if most == 0:
            return own
        everyone = torch.arange(cosine.n, device=focus.device).expand_as(focus)
        anchors = (~scanned).to(torch.uint8).argsort(dim=1, stable=True)[:, :most]
        anchors = torch.where(torch.arange(most, device=focus.device) < count[:, None], anchors, anchors[:, :1])
        place = cosine.assign(everyone, anchors)
        order = ranked([(~chosen).long(), cosine.closest(everyone, anchors)])
        wanted = (self.refine * count.double() + 1e-9).floor()[:, None].minimum((~chosen).sum(1, keepdim=True))
        merged = torch.zeros_like(chosen).scatter(1, order, everyone < wanted)
        merged = merged & (count > 0)[:, None]

        group = torch.where(chosen, slot, torch.where(merged, slot.gather(1, anchors.gather(1, place)), -1))
        weight = torch.where(scanned | merged, priority, 0.0)
        total = torch.zeros_like(priority).scatter_add(1, group.clamp(min=0), weight).gather(1, group.clamp(min=0))
        weight = torch.where(total > 0, weight / total.clamp(min=1e-300), scanned.double())
        return Merge(group, torch.where(focus, 1.0, weight).float(), "features")
