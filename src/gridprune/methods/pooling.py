"""Average pooling: k cells, each replaced by the mean of its tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ..core.token_map import TokenMap
from .base import Cues, Merge, Method, Selection
from .ops.cells import cell_centres


@dataclass(frozen=True, kw_only=True)
class Pooling(Method):
    """The mean projected embedding of each of k equal cells, placed at the cell's central token.

    With 64 of 24 x 24 tokens the cells are 3 x 3, the ordinary average pooling with stride 3.
    """

    name: ClassVar[str] = "pooling"
    cost: ClassVar[str] = "O(N D)"
    merges: ClassVar[bool] = True
    reads: ClassVar[frozenset[str]] = frozenset({"features"})

    def select(self, cues: Cues, token_map: TokenMap, k: int) -> Selection:
        batch, n = cues.batch, len(token_map)
        zones = token_map.cells(k)
        here = zones.on(cues.device)
        centres = token_map.once_on(cues.device, "centres", lambda: cell_centres(token_map, zones.index, zones.size), k)
        slot = torch.empty_like(here.size)  # cells are numbered by band, slots by token order
        slot = slot.index_copy(0, here.index[centres], torch.arange(k, device=cues.device))
        group = slot[here.index].expand(batch, n)
        weight = (1.0 / here.size.float())[here.index].expand(batch, n)
        return Selection(centres.expand(batch, k), zones=zones, merge=Merge(group, weight))
