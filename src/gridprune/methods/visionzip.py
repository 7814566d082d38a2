"""VisionZip: dominant tokens plus merged contextual ones (https://arxiv.org/abs/2412.04467)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from ..core.scores import ascending_indices, topk
from ..core.token_map import TokenMap
from .base import Cues, Merge, Method, Selection
from .ops.similarity import Cosine, member_mask
from .settings import setting


@dataclass(frozen=True, kw_only=True)
class VisionZip(Method):
    """Dominant: the tokens with the most [CLS] attention. Contextual: the rest, merged into a few of them.

    Of the rest, in order, every s-th token is a target (s = max(1, rest // contextual)); every other one goes to the
    target whose key, averaged over heads, is most similar. A contextual token is its target plus the mean of what came
    to it, before the projector: x_t + mean(assigned x).

    Complexity: O(N C) per contextual token, O(N k C) in all.

    Published and this class: the released splits 54+10, 108+20, 162+30 (and 27+5 per crop) are one rule, contextual =
    10/64 of the budget; it is rounded half up here. They count [CLS] itself among the dominant tokens; it is no
    candidate here and its place goes to the next patch. The released order is dominant, then contextual; here merged
    tokens sit at their target's place, so that positions mean something. `Cues.heads` tells how to average the keys;
    where it is unknown (1) they are compared with heads side by side.

    Attributes:
        contextual: share of the budget for merged tokens.
    """

    contextual: float = setting(10 / 64, lambda v: 0 <= v < 1, "at least 0 and below 1")

    name: ClassVar[str] = "visionzip"
    paper: ClassVar[str] = "https://arxiv.org/abs/2412.04467"
    merges: ClassVar[bool] = True
    merge_space: ClassVar[Literal["features", "tower_features"]] = "tower_features"
    cost: ClassVar[str] = "O(N k C)"
    reads: ClassVar[frozenset[str]] = frozenset({"saliency", "keys", "tower_features"})

    def select(self, cues: Cues, token_map: TokenMap, k: int) -> Selection:
        saliency, keys = cues.require("saliency"), cues.require("keys")
        batch, n, width = keys.shape
        device = keys.device
        contextual = int(self.contextual * k + 0.5)
        dominant = torch.zeros(batch, n, dtype=torch.bool, device=device)
        if contextual < k:
            dominant = member_mask(topk(saliency, k - contextual), n)
        if contextual == 0:
            indices = ascending_indices(dominant, k)
            group = torch.full((batch, n), -1, device=device)
            group = group.scatter(1, indices, torch.arange(k, device=device).expand(batch, k))
            return Selection(indices, scores=saliency, merge=Merge(group, dominant.float(), "tower_features"))

        rest = ascending_indices(~dominant, n - k + contextual)  # [B, R]
        stride = max(1, rest.shape[1] // contextual)
        targets = rest[:, ::stride][:, :contextual]
        chosen = dominant | member_mask(targets, n)
        indices = ascending_indices(chosen, k)
        slot = chosen.cumsum(1) - 1  # of kept tokens

        cosine = Cosine(keys.float().view(batch, n, cues.heads, width // cues.heads).mean(2))
        nearest = cosine.assign(rest, targets)
        group = slot.scatter(1, rest, slot.gather(1, targets.gather(1, nearest)))
        group = torch.where(chosen, slot, group)
        came = (~chosen).float()
        arrivals = came.new_zeros(batch, k).scatter_add_(1, group, came)
        weight = torch.where(chosen, 1.0, 1 / arrivals.gather(1, group).clamp(min=1))
        return Selection(indices, scores=saliency, merge=Merge(group, weight, "tower_features"))
