"""Keep every visual token: the unpruned model, through the same path."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ..budget import Keep
from ..token_map import TokenMap
from .base import Cues, Method, Selection


@dataclass(frozen=True, kw_only=True)
class KeepAll(Method):
    """Keeps all N tokens whatever `keep` says it would cost to keep fewer; results are bit-identical to no pruning."""

    keep: Keep = "100%"

    name: ClassVar[str] = "keep-all"
    cost: ClassVar[str] = "O(N)"

    def select(self, cues: Cues, token_map: TokenMap, k: int) -> Selection:
        batch, n = cues.batch, len(token_map)
        return Selection(torch.arange(n, device=cues.device).expand(batch, n))
