"""CDPruner: diversity conditioned on the question, by a determinantal process (https://arxiv.org/abs/2506.10967)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..token_map import TokenMap
from .base import Cues, Method, Selection
from .relevance import check_sign, signed_relevance
from .similarity import TIE, Cosine, Picks, take_row


@dataclass(frozen=True, kw_only=True)
class CDPruner(Method):
    """Greedy MAP of the DPP with kernel L = diag(r) S diag(r): S the cosines of the projected embeddings, r relevance.

    r is the cosine with the question, scaled over all crops of the picture to (r - min + 1e-6) / (max - min). The
    greedy is the fast one of Chen et al. (2018): d_i^2 starts as L_ii; pick j = argmax d^2; e = (L_j - sum_t c_tj c_t)
    / d_j is the new Cholesky row c, and d^2 falls by e^2. In fp32, d^2 clamped at 0: in fp16 it turns negative early.

    Complexity: O(N^2 D) for S where it is kept (else O(k N D) for the rows needed), O(k^2 N) for the greedy.

    Paper and release: the paper prints r with a plus, the released code negates the cosine. Both are covered by
    `relevance_sign`: "tower" is the sign measured for the tower in use, which is -1 for OpenAI's CLIP, so the default
    is the released behaviour there. Where the kernel has no rank left (d^2 at rounding level) the released code goes by
    noise; here the earlier tokens fill up.

    Attributes:
        theta: None, or the balance in [0, 1): r becomes exp(a r) with a = theta / (2 (1 - theta)). 0 is pure diversity.
        relevance_sign: +1, -1 or "tower".
    """

    theta: float | None = None
    relevance_sign: int | Literal["tower"] = "tower"

    name: ClassVar[str] = "cdpruner"
    paper: ClassVar[str] = "https://arxiv.org/abs/2506.10967"
    cost: ClassVar[str] = "O(N^2 D + k^2 N)"
    capabilities: ClassVar[frozenset[str]] = frozenset({"quality", "geometry"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sign(self.relevance_sign)
        self._check("theta", lambda v: v is None or (math.isfinite(v) and 0 <= v < 1), "None or a number in [0, 1)")

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"features", "relevance"})

    def select(self, cues: Cues, token_map: TokenMap, k: int) -> Selection:
        relevance = _scaled(signed_relevance(cues, self.relevance_sign))
        if self.theta is not None:
            relevance = (relevance * (self.theta / (2 * (1 - self.theta)))).exp()
        if cues.quality is not None:
            relevance = relevance * cues.quality
        return Selection(dpp_map(Cosine(cues.require("features")), relevance, k))


def _scaled(relevance: Tensor) -> Tensor:
    """(r - min + 1e-6) / (max - min) over each row; 1 where the row is constant."""
    relevance = relevance.float()
    low, high = relevance.amin(-1, keepdim=True), relevance.amax(-1, keepdim=True)
    return torch.where(high > low, (relevance - low + 1e-6) / (high - low).clamp(min=1e-30), 1.0)


def dpp_map(cosine: Cosine, quality: Tensor, k: int) -> Tensor:
    """(B, k) ascending: greedy MAP of the DPP with kernel diag(q) S diag(q), q = `quality` (B, N) fp32."""
    residual = quality.square() * take_diagonal(cosine)  # d^2, [B, N]
    scale = residual.amax(-1, keepdim=True)
    rows = residual.new_zeros(cosine.batch, k, cosine.n)
    picks = Picks(residual)
    while len(picks) < k:
        step = len(picks)
        token = picks.best(residual, scale)
        gain = take_row(residual[..., None], token)  # [B, 1], d_j^2
        kernel = take_row(quality[..., None], token) * quality * cosine.row(token)  # L_j, [B, N]
        seen = rows[:, :step]
        kernel = kernel - (seen.gather(2, token[:, None, None].expand(-1, step, 1)) * seen).sum(1)
        row = torch.where(gain > TIE * scale, kernel * gain.clamp(min=1e-30).rsqrt(), 0.0)
        rows[:, step] = row
        residual = (residual - row.square()).clamp(min=0)
    return picks.indices()


def take_diagonal(cosine: Cosine) -> Tensor:
    """S_ii, (B, N): 1, or 0 for a token whose features are all zero."""
    return cosine.unit.square().sum(-1)
