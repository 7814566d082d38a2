"""HiPrune: object tokens of a middle layer, their neighbours, and global tokens (https://arxiv.org/abs/2508.00553)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ..core.token_map import TokenMap
from .base import Cues, Method, Selection
from .ops.geometry import neighbours
from .ops.similarity import member_mask, ranked
from .settings import part, share


@dataclass(frozen=True, kw_only=True)
class HiPrune(Method):
    """Anchors: round(`share` k / 5) tokens of highest attention in a middle layer. Buffers: their four grid neighbours.
    Registers: the rest of the budget, by attention in the saliency layer.

    Published and this class: neighbours are taken on the grid; index arithmetic (i - 1, i + 1, i - columns, i +
    columns), as the paper prints it, would wrap around at the ends of a row. The object layer is 9 of 24 for CLIP ViT-L
    and 16 of 32 for Qwen2.5-VL, so `depth` is 0.375 or 0.5. Should anchors and buffers exceed k (possible only for
    shares near 1), buffers go by their attention in the middle layer.

    Attributes:
        share: part of the budget for anchors and buffers.
        depth: depth of the object layer in the tower, in (0, 1].
    """

    share: float = share(0.1)
    depth: float = part(0.375)

    name: ClassVar[str] = "hiprune"
    paper: ClassVar[str] = "https://arxiv.org/abs/2508.00553"
    reads: ClassVar[frozenset[str]] = frozenset({"saliency"})

    @property
    def saliency_depths(self) -> tuple[float, ...]:
        return (self.depth,)

    def select(self, cues: Cues, token_map: TokenMap, k: int) -> Selection:
        middle, deep = cues.require_saliency_at(self.depth).float(), cues.require("saliency").float()
        n = deep.shape[1]
        anchors = ranked([middle])[:, : int(self.share * k / 5 + 0.5)]
        beside = token_map.once_on(deep.device, "neighbours", lambda: neighbours(token_map))
        beside = beside[anchors].flatten(1)  # [B, 4 anchors], -1 where none
        padded = torch.where(beside < 0, n, beside)
        part = member_mask(padded, n + 1)[:, :n].long()
        part = part.scatter(1, anchors, 2)  # 2: anchor, 1: buffer, 0: others
        order = ranked([part, torch.where(part > 0, middle, deep)])
        return Selection(order[:, :k].sort(dim=1).values)
