"""L2 norm: the largest tokens in front of the projector, a control of two lines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ..core.scores import topk
from ..core.token_map import TokenMap
from .base import Cues, Method, Selection


@dataclass(frozen=True, kw_only=True)
class L2Norm(Method):
    """Keep the k tokens of largest Euclidean norm before the projector or merger. No text, no attention.

    Complexity: O(N C). Where several patches become one token (Qwen, InternVL) it is the norm of their mean.
    """

    name: ClassVar[str] = "l2norm"
    cost: ClassVar[str] = "O(N C)"
    capabilities: ClassVar[frozenset[str]] = frozenset({"scores"})
    reads: ClassVar[frozenset[str]] = frozenset({"tower_features"})

    def select(self, cues: Cues, token_map: TokenMap, k: int) -> Selection:
        scores = torch.linalg.vector_norm(cues.require("tower_features").float(), dim=-1)
        return Selection(topk(scores, k), scores=scores)
