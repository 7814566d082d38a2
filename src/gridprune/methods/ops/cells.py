"""The tokens in the middle of equal cells."""

from __future__ import annotations

import torch

from ...core.scores import ascending_indices
from ...core.token_map import TokenMap


def cell_centres(token_map: TokenMap, cell: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
    """(k,) ascending indices: in each cell the token nearest to the cell's mean position, ties to the earlier one."""
    position = torch.stack([token_map.row, token_map.column], dim=-1).double()
    centre = position.new_zeros(len(size), 2).index_add_(0, cell, position) / size[:, None]
    distance = (position - centre[cell]).pow(2).sum(-1)
    # Sort by cell, then by distance: the first of each cell is its centre.
    by_distance = distance.argsort(stable=True)
    order = by_distance[cell[by_distance].argsort(stable=True)]
    first = order[size.cumsum(0) - size]
    mask = torch.zeros_like(cell, dtype=torch.bool)
    mask[first] = True
    return ascending_indices(mask, len(size))
