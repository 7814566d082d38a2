"""ApET, stage one: the tokens that a few others cannot express (https://arxiv.org/abs/2602.19870)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..core.scores import ascending_indices
from ..core.token_map import TokenMap
from .base import Cues, Merge, Method, Selection
from .ops.similarity import TIE, Cosine, Picks, group_mean_weight, member_mask, ranked, take_row, take_rows
from .settings import whole

_RIDGE = 1e-5
_LEAST = 1e-12  # of what keeps a matrix of equal rows positive in fp64
_ROUNDING = 1e-4  # an error below this part of a token's length is none


@dataclass(frozen=True, kw_only=True)
class ApET(Method):
    """A few basis tokens, and the tokens that they reconstruct worst; the dropped go into the nearest of the latter.

    1. `basis` tokens by farthest-point sampling (Euclidean) of the projected embeddings.
    2. Every token is written as a combination of these (ridge, G = B B^T + 1e-5 I); its error is what is left over.
    3. The k - `basis` tokens of largest error stay, and the basis. Every dropped token is averaged into the most
       similar of the former (cosine).

    Complexity: O(N D) per basis token, O(k N D) for the merge. No text and no attention.

    Published and this class: the release does the same again at layer 16 of the language model; that stage is left out,
    so published figures are not those of this class. It keeps the k largest errors and overwrites the last `basis` of
    them with the basis tokens' features; here these sit at their own places. Sampling starts with the token farthest
    from the mean (its start is not known to us). For k <= `basis` the basis is cut to its first k - 1 tokens.

    Attributes:
        basis: basis tokens, at least 1.
    """

    basis: int = whole(10)

    name: ClassVar[str] = "apet"
    paper: ClassVar[str] = "https://arxiv.org/abs/2602.19870"
    merges: ClassVar[bool] = True
    cost: ClassVar[str] = "O(k N D)"
    reads: ClassVar[frozenset[str]] = frozenset({"features"})

    @property
    def graph_safe(self) -> bool:
        return False  # a GPU's solver waits for the host

    def select(self, cues: Cues, token_map: TokenMap, k: int) -> Selection:
        features = cues.require("features").float()
        scale = features.abs().amax((1, 2), keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
        features, n = features / scale, features.shape[1]  # so that squares are finite
        basis = farthest(features, min(self.basis, n))  # [B, basis], in the order of sampling
        ridge = (_RIDGE / scale.double().square()).clamp(min=_LEAST)
        errors = unexplained(features, take_rows(features, basis), ridge)
        own = member_mask(basis[:, : min(self.basis, k - 1)], n)
        worst = ranked([(~own).long(), errors])[:, : k - min(basis.shape[1], k - 1)].sort(dim=1).values
        chosen = own | member_mask(worst, n)

        slot = chosen.cumsum(1) - 1
        everyone = torch.arange(n, device=features.device).expand_as(errors)
        nearest = worst.gather(1, Cosine(features).assign(everyone, worst))
        group = torch.where(chosen, slot, slot.gather(1, nearest))
        merge = Merge(group, group_mean_weight(group, k), "features")
        return Selection(ascending_indices(chosen, k), scores=errors, merge=merge)


def farthest(x: Tensor, count: int, first: Tensor | None = None) -> Tensor:
    """(B, count) int64 tokens of `x` (B, N, D), each the farthest from those before it (Euclidean).

    Args:
        first: (B, N), what the first token has most of; None for its distance from the mean.
    """
    scale = x.square().sum(-1).amax(-1, keepdim=True)
    away = (x - x.mean(1, keepdim=True)).square().sum(-1) if first is None else first
    picks = Picks(away)
    tokens: list[Tensor] = []
    while len(tokens) < count:
        tokens.append(picks.best(away, tie=10 * TIE))
        to_it = (x - take_row(x, tokens[-1])[:, None]).square().sum(-1)
        to_it = to_it.masked_fill(to_it <= TIE * scale, 0.0)  # the distance of equal tokens is nothing but rounding
        away = to_it if len(tokens) == 1 else away.minimum(to_it)
    return torch.stack(tokens, 1)


def unexplained(x: Tensor, basis: Tensor, ridge: Tensor) -> Tensor:
    """(B, N) fp32: the length of what a ridge regression on `basis` (B, S, D) leaves of each token of `x` (B, N, D).

    Args:
        ridge: (B, 1, 1) fp64.
    """
    eye = torch.eye(basis.shape[1], dtype=torch.float64, device=x.device)
    square = basis.double() @ basis.double().mT + ridge * eye
    factor = torch.linalg.cholesky_ex(square).L  # positive definite by the ridge: no error to wait for
    weight = torch.cholesky_solve((basis @ x.mT).double(), factor)  # [B, S, N]
    left = torch.linalg.vector_norm(x - weight.mT.float() @ basis, dim=-1)
    return left.masked_fill(left <= _ROUNDING * torch.linalg.vector_norm(x, dim=-1), 0.0)
