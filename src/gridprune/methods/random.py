"""Random tokens: the baseline that a method must beat first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..core.scores import topk
from ..core.token_map import TokenMap
from .base import Cues, Method, Selection
from .settings import is_whole, setting


@dataclass(frozen=True, kw_only=True)
class Random(Method):
    """k of N tokens drawn without replacement.

    The draw depends on `seed`, N and k only: the same for every image of a size, on every machine and in every batch.

    Attributes:
        seed: any integer.
    """

    seed: int = setting(0, is_whole, "a whole number")

    name: ClassVar[str] = "random"
    cost: ClassVar[str] = "O(N)"
    capabilities: ClassVar[frozenset[str]] = frozenset({"scores"})

    def select(self, cues: Cues, token_map: TokenMap, k: int) -> Selection:
        batch, n = cues.batch, len(token_map)
        scores = token_map.once_on(cues.device, "drawn", lambda: self._drawn(n), self.seed)
        return Selection(topk(scores[None], k).expand(batch, k), scores=scores.expand(batch, n))

    def _drawn(self, n: int) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed % 2**64)
        return torch.rand(n, generator=generator, dtype=torch.float32, device="cpu")
