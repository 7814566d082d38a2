"""OTPrune: a log-determinant over the covariance of all tokens (https://arxiv.org/abs/2602.20205)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from ..core.token_map import TokenMap
from .base import Cues, Method, Selection
from .cdpruner import determinant
from .settings import positive


@dataclass(frozen=True, kw_only=True)
class OTPrune(Method):
    """Tokens that together lie as all tokens do.

    Greedy on log det of K = I + `weight` S S^T, with S = X X^T.

    X: the projected embeddings, each *channel* divided by its norm over the tokens of the image. No text and no
    attention. The determinant stands for the distance (2-Wasserstein, of Gaussians) from what is kept to what there
    was.

    Complexity: O(N^2 D) for S, O(k N^2) for the rows of K that are needed, O(k^2 N) for the greedy.

    Published and this class: the same kernel and the same fast greedy (that of CDPruner). Released indices come out of
    a set, in no promised order; here they ascend.

    Attributes:
        weight: 0.01 as released, above 0.
    """

    weight: float = positive(0.01)

    name: ClassVar[str] = "otprune"
    paper: ClassVar[str] = "https://arxiv.org/abs/2602.20205"
    cost: ClassVar[str] = "O(N^2 D + k N^2)"
    reads: ClassVar[frozenset[str]] = frozenset({"features"})

    def select(self, cues: Cues, token_map: TokenMap, k: int) -> Selection:
        features = cues.require("features").float()
        features = features / torch.linalg.vector_norm(features, dim=1, keepdim=True).clamp(min=1e-30)
        similarity = features @ features.mT  # [B, N, N], symmetric: S S^T are the inner products of its rows
        return Selection(determinant(similarity * math.sqrt(self.weight), k, ridge=1.0))
