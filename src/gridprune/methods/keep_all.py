"""Keep every visual token: the unpruned model, through the same path."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ..core.budget import Keep
from ..core.token_map import TokenMap
from ..errors import BudgetError
from .base import Cues, Method, Selection


@dataclass(frozen=True, kw_only=True)
class KeepAll(Method):
    """Keeps all N tokens: results are bit-identical to no pruning.

    Attributes:
        keep: read and checked as everywhere, then set to "100%", so that one `keep` can serve a list of methods.
    """

    keep: Keep = "100%"

    name: ClassVar[str] = "keep-all"
    cost: ClassVar[str] = "O(N)"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "keep", "100%")
        super().__post_init__()

    def check_count(self, token_map: TokenMap, k: int) -> None:
        if k != len(token_map):
            raise BudgetError(
                f"{self.name} keeps all {len(token_map)} visual tokens and cannot keep {k}; choose another method."
            )

    def select(self, cues: Cues, token_map: TokenMap, k: int) -> Selection:
        self.check_count(token_map, k)
        batch, n = cues.batch, len(token_map)
        return Selection(torch.arange(n, device=cues.device).expand(batch, n))
