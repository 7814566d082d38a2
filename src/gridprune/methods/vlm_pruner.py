"""VLM-Pruner: from a few pivots outward, near tokens before far ones (https://arxiv.org/abs/2512.02700)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..core.scores import ascending_indices
from ..core.token_map import TokenMap
from .apet import farthest
from .base import Cues, Method, Selection
from .ops.similarity import member_mask, ranked, take_rows, unit
from .settings import number, setting, whole

_CHANNELS = 256
_AT_ONCE = 16


@dataclass(frozen=True, kw_only=True)
class VLMPruner(Method):
    """Pivots that differ, then tokens that add something, where far ones are taken to be more redundant than they are.

    1. `pivots` tokens: the one of largest L1 norm, then always the farthest from all chosen (Euclidean).
    2. redundancy_i = max_{j chosen} cos(x_i, x_j) (1 + `buffer` d_i / diagonal), cosines over the 256 channels of
       largest variance, d_i the distance to the nearest chosen token on the grid. Of the tokens below `threshold` the
       16 of lowest redundancy are added at once, until none is below; then the threshold rises by 0.1.

    An opposite of zonal budgets: what is chosen stays together.

    Published and this class: the release does this inside the language model after layer 2, with keys for the pivots;
    here projected embeddings stand for keys and for states, and the count is exact. It folds dropped tokens into kept
    ones (0.3 of their own, 0.7 of a weighted mean), which is left out. So published figures are not those of this
    class. The number of pivots is not known to us. The diagonal is that of the token's plane (24 sqrt(2) in the
    release); a plane where nothing is chosen yet is as far away as that.

    Attributes:
        pivots: tokens to start from, at least 1.
        buffer: how much more redundant the farthest token looks, at least 0.
        threshold: redundancy below which tokens are added at first.
    """

    pivots: int = whole(4)
    buffer: float = number(0.5)
    threshold: float = setting(0.8, math.isfinite, "a number")

    name: ClassVar[str] = "vlm-pruner"
    paper: ClassVar[str] = "https://arxiv.org/abs/2512.02700"
    reads_values: ClassVar[bool] = True
    cost: ClassVar[str] = "O(k N D)"
    reads: ClassVar[frozenset[str]] = frozenset({"features"})

    def select(self, cues: Cues, token_map: TokenMap, k: int) -> Selection:
        features = cues.require("features").float()
        device, n = features.device, features.shape[1]
        sheet, position, diagonal = (values.to(device) for values in _places(token_map))
        varied = features.var(1, correction=0).argsort(dim=-1, descending=True, stable=True)[:, :_CHANNELS]
        states = unit(features.gather(2, varied[:, None].expand(-1, n, -1)))

        new = farthest(features, min(self.pivots, k), features.abs().sum(-1))
        real = torch.ones_like(new, dtype=torch.bool)
        chosen = torch.zeros(features.shape[:2], dtype=torch.bool, device=device)
        closest = features.new_full(features.shape[:2], -math.inf)
        far = diagonal.expand_as(closest)
        limit = features.new_full((len(features), 1), self.threshold)
        while True:  # each round adds a token to every image that lacks one, or raises its limit
            chosen = chosen | member_mask(torch.where(real, new, n), n + 1)[:, :n]
            similar = (states @ take_rows(states, new).mT).masked_fill(~real[:, None], -math.inf)
            closest = closest.maximum(similar.amax(-1))
            away = torch.linalg.vector_norm(position[:, None] - position[new][:, None], dim=-1)  # [B, N, new]
            apart = (sheet[:, None] != sheet[new][:, None]) | ~real[:, None]
            far = far.minimum(away.masked_fill(apart, math.inf).amin(-1))
            missing = k - chosen.sum(1, keepdim=True)
            if not bool((missing > 0).any()):
                return Selection(ascending_indices(chosen, k))
            redundancy = closest * (1 + self.buffer * far / diagonal)
            below = ~chosen & (redundancy < limit)
            new = ranked([below.long(), -redundancy])[:, :_AT_ONCE]
            real = torch.arange(new.shape[1], device=device) < missing.minimum(below.sum(1, keepdim=True))
            limit = torch.where(below.any(1, keepdim=True), limit, limit + 0.1)


def _places(token_map: TokenMap) -> tuple[Tensor, Tensor, Tensor]:
    """The plane and frame of each token as one number (N,), its row and column (N, 2), its plane's diagonal (N,)."""
    planes, frames = token_map.groups("plane"), token_map.groups("frame")
    position = torch.stack([token_map.row, token_map.column], -1).float()
    of_plane = planes.index[:, None].expand(-1, 2)
    ends = position.new_zeros(planes.count, 2).scatter_reduce_(0, of_plane, position + 1, "amax")
    return planes.index * frames.count + frames.index, position, torch.linalg.vector_norm(ends, dim=-1)[planes.index]
