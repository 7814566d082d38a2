"""Where images stand in a prompt: the columns of their placeholders."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import UnsupportedCallError


def placeholder_runs(ids: Tensor, placeholder: int, lengths: Sequence[int]) -> list[tuple[int, Tensor]] | None:
    """For each picture, in prompt order, its row and the columns (n,) of its placeholders.

    None if `ids` (B, L) do not hold exactly the placeholders the pictures need.

    Raises:
        UnsupportedCallError: a picture's placeholders run over two rows.
    """
    where = (ids == placeholder).nonzero()  # [total, 2]
    if len(where) != sum(lengths):
        return None
    found = []
    for part in torch.split(where, list(lengths)):
        if len(part) and int(part[0, 0]) != int(part[-1, 0]):
            raise UnsupportedCallError("The placeholders of one picture run over two rows of the batch.")
        found.append((int(part[0, 0]), part[:, 1]))
    return found


def runs(ids: Tensor, placeholder: int) -> list[tuple[int, Tensor]]:
    """Row and columns of every unbroken run of placeholders in `ids` (B, L) on the CPU."""
    found = []
    for row in range(len(ids)):
        columns = (ids[row] == placeholder).nonzero()[:, 0]
        breaks = ((columns[1:] - columns[:-1]) > 1).nonzero()[:, 0] + 1
        found += [(row, part) for part in columns.tensor_split(breaks) if len(part)]
    return found
