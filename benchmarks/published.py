"""DivPrune's and CDPruner's procedures as published: the full matrix, and all chosen rows read at every pick.

Written from their descriptions, with the kernels the released code runs (a partial sort for the nearest neighbours,
values with their places for the nearest chosen token, no wait for the host), as what our versions are compared with;
equal choices are asserted by the bench.
"""

from __future__ import annotations

import torch
from torch import Tensor


def divprune(features: Tensor, k: int) -> Tensor:
    """(k,) ascending: greedy max-min distance on the N x N matrix of (N, D) features; O(N^2 D + k^2 N)."""
    unit = torch.nn.functional.normalize(features.float(), dim=-1)
    distance = 1 - unit @ unit.T
    chosen = torch.empty(k, dtype=torch.int64)
    closest = distance.topk(2, dim=0, largest=False).values[1]  # the smallest is a token's distance to itself
    for step in range(k):
        if step:
            rows = distance.index_select(0, chosen[:step])  # of all chosen tokens, again at every pick
            closest = rows.min(0).values
        chosen[step] = closest.argmax()
    return chosen.sort().values


def cdpruner(features: Tensor, relevance: Tensor, k: int) -> Tensor:
    """(k,) ascending: greedy MAP of the DPP with the N x N kernel diag(r) S diag(r); O(N^2 D + k^2 N)."""
    unit = torch.nn.functional.normalize(features.float(), dim=-1)
    scaled = (relevance - relevance.min() + 1e-6) / (relevance.max() - relevance.min())
    kernel = scaled[:, None] * (unit @ unit.T) * scaled
    residual = kernel.diagonal().clone()
    rows = torch.zeros(k, len(unit))
    chosen = torch.empty(k, dtype=torch.int64)
    for step in range(k):
        token = residual.argmax()
        chosen[step] = token
        seen = rows[:step]
        row = (kernel[token] - seen[:, token] @ seen) / residual[token].sqrt()
        rows[step] = row
        residual -= row.square()
        residual[token] = float("-inf")
    return chosen.sort().values
