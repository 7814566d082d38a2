"""VScan, tower stage: global and local attention, the rest merged (https://arxiv.org/abs/2505.22654)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from ..core.allocate import rank_in_zone
from ..core.scores import ascending_indices, topk
from ..core.token_map import TokenMap
from .base import Cues, Method, Selection
from .ops.similarity import member_mask, merge_into_nearest, ranked
from .settings import part, share, whole


@dataclass(frozen=True, kw_only=True)
class VScanTower(Method):
    """Half the budget by [CLS] attention of the saliency layer over the whole image; half by attention of a shallow
    layer, the same number in every window; dropped tokens are merged into the nearest kept one (mean, before the
    projector).

    Local tokens are taken window by window in turns: the best unchosen token of every window, then the second best,
    ...; an incomplete last turn goes by the attention itself.

    Complexity: O(N log N) to select, O(N k C) to merge.

    Published and this class: only the stage in the vision tower; the published method prunes further inside the
    language model. Windows are 6 x 6 on the 24 x 24 grid; on other grids they are as equal as possible and at most that
    large. The shallow layer is 5 of 24.

    Attributes:
        window: side of a window in tokens.
        depth: depth of the shallow layer in the tower, in (0, 1].
        local: share of the budget for the local half (rounded down).
    """

    window: int = whole(6)
    depth: float = part(5 / 24)
    local: float = share(0.5)

    name: ClassVar[str] = "vscan-tower"
    paper: ClassVar[str] = "https://arxiv.org/abs/2505.22654"
    merges: ClassVar[bool] = True
    merge_space: ClassVar[Literal["features", "tower_features"]] = "tower_features"
    cost: ClassVar[str] = "O(N k C)"
    reads: ClassVar[frozenset[str]] = frozenset({"saliency", "tower_features"})

    @property
    def saliency_depths(self) -> tuple[float, ...]:
        return (self.depth,)

    def select(self, cues: Cues, token_map: TokenMap, k: int) -> Selection:
        deep, shallow = cues.require("saliency").float(), cues.require_saliency_at(self.depth).float()
        local = int(self.local * k)
        chosen = torch.zeros_like(deep, dtype=torch.bool)
        if local < k:
            chosen = member_mask(topk(deep, k - local), deep.shape[1])
        zones = token_map.zones(self.window, within="view").on(deep.device)
        left = shallow.masked_fill(chosen, float("-inf"))
        turn = -rank_in_zone(left, zones)
        order = ranked([(~chosen).long(), turn, left])
        chosen = chosen | member_mask(order[:, :local], deep.shape[1])
        indices = ascending_indices(chosen, k)
        return Selection(indices, merge=merge_into_nearest(cues.require("tower_features"), indices, "tower_features"))
