"""Neighbourhoods on a token map: who lies beside whom, also on maps with holes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...core.token_map import TokenMap


def neighbours(token_map: TokenMap) -> Tensor:
    """(N, 4) int64: the tokens above, below, left and right in the same view and frame; -1 where there is none."""
    row, column = token_map.row + 1, token_map.column + 1  # a border of one on every side
    sheet = token_map.groups("view").index * token_map.groups("frame").count + token_map.groups("frame").index
    rows, columns = int(row.max()) + 2, int(column.max()) + 2
    place = (sheet * rows + row) * columns + column
    table = torch.full(((int(sheet.max()) + 1) * rows * columns,), -1, dtype=torch.int64, device="cpu")
    table[place] = torch.arange(len(token_map), device="cpu")
    steps = torch.tensor([-columns, columns, -1, 1], device="cpu")
    return table[place[:, None] + steps]


def previous_frame(token_map: TokenMap) -> Tensor:
    """(N,) int64: the token at the same place one frame earlier; -1 in the first frame."""
    frame = token_map.groups("frame").index  # 0, 1, 2, ... without gaps
    view = token_map.view - first_of(token_map.view, frame)  # views may be numbered through the video
    rows, columns = int(token_map.row.max()) + 1, int(token_map.column.max()) + 1
    place = ((view * (int(frame.max()) + 2) + frame + 1) * rows + token_map.row) * columns + token_map.column
    table = torch.full((int(place.max()) + 1,), -1, dtype=torch.int64, device="cpu")
    table[place] = torch.arange(len(token_map), device="cpu")
    return table[place - rows * columns]


def first_of(values: Tensor, group: Tensor) -> Tensor:
    """(N,): the smallest of `values` among the tokens of each token's `group`."""
    smallest = torch.zeros(int(group.max()) + 1, dtype=values.dtype, device="cpu")
    return smallest.scatter_reduce_(0, group, values, "amin", include_self=False)[group]


def smooth(values: Tensor, beside: Tensor, sigma: float) -> Tensor:
    """`values` (B, N) under a 3 x 3 Gaussian that is reflected at borders.

    Args:
        beside: (N, 4), see :func:`neighbours`. A missing neighbour is replaced by the opposite one, and by the token
            itself if both are missing: reflection, on rectangles, and its natural continuation elsewhere.
    """
    side = math.exp(-0.5 / sigma**2)
    centre, side = 1 / (1 + 2 * side), side / (1 + 2 * side)
    own = torch.arange(beside.shape[0], device=beside.device)
    for one, other in ((beside[:, 2], beside[:, 3]), (beside[:, 0], beside[:, 1])):
        before = torch.where(one >= 0, one, torch.where(other >= 0, other, own))
        after = torch.where(other >= 0, other, torch.where(one >= 0, one, own))
        values = centre * values + side * (values[:, before] + values[:, after])
    return values
