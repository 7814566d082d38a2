"""DivPrune's and CDPruner's procedures as published: the full matrix, and the whole chosen set gathered at every pick.

Written from their descriptions, as what our versions are compared with; equal choices are asserted by the bench.
"""

from __future__ import annotations

import torch
from torch import Tensor


def divprune(features: Tensor, k: int) -> Tensor:
    """(k,) ascending: greedy max-min distance on the N x N matrix of (N, D) features; O(N^2 D + k^2 N)."""
    unit = torch.nn.functional.normalize(features.float(), dim=-1)
    distance = 1 - unit @ unit.T
    nearest = distance.clone().fill_diagonal_(float("inf")).amin(1)
    chosen = [int(nearest.argmax())]
    while len(chosen) < k:
        closest = distance[chosen].amin(0)  # the rows of all chosen tokens, again at every pick
        closest[chosen] = float("-inf")
        chosen.append(int(closest.argmax()))
    return torch.tensor(sorted(chosen))


def cdpruner(features: Tensor, relevance: Tensor, k: int) -> Tensor:
    """(k,) ascending: greedy MAP of the DPP with the N x N kernel diag(r) S diag(r); O(N^2 D + k^2 N)."""
    unit = torch.nn.functional.normalize(features.float(), dim=-1)
    scaled = (relevance - relevance.min() + 1e-6) / (relevance.max() - relevance.min())
    kernel = scaled[:, None] * (unit @ unit.T) * scaled
    residual = kernel.diagonal().clone()
    rows = torch.zeros(k, len(unit))
    chosen: list[int] = []
    while len(chosen) < k:
        token = int(residual.argmax())
        seen = rows[: len(chosen)]
        row = (kernel[token] - (seen[:, token : token + 1] * seen).sum(0)) / residual[token].sqrt()
        rows[len(chosen)] = row
        residual = (residual - row.square()).clamp(min=0)
        chosen.append(token)
        residual[chosen] = float("-inf")
    return torch.tensor(sorted(chosen))
