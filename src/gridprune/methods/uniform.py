"""Uniform stride: tokens on a regular grid, whatever the image shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..core.token_map import TokenMap
from .base import Cues, Method, Selection
from .ops.cells import cell_centres


@dataclass(frozen=True, kw_only=True)
class Uniform(Method):
    """The token nearest to the centre of each of k equal cells (:meth:`~gridprune.core.token_map.TokenMap.cells`)."""

    name: ClassVar[str] = "uniform"
    cost: ClassVar[str] = "O(N)"

    def select(self, cues: Cues, token_map: TokenMap, k: int) -> Selection:
        zones = token_map.cells(k)
        indices = token_map.once_on(cues.device, "centres", lambda: cell_centres(token_map, zones.index, zones.size), k)
        return Selection(indices.expand(cues.batch, k), zones=zones)
