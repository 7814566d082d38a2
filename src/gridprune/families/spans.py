"""Where images stand in a prompt: the columns of their placeholders."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..errors import UnsupportedCallError


def placeholder_runs(ids: Tensor, placeholder: int, lengths: Sequence[int]) -> list[tuple[int, Tensor]] | None:
    """For each image, in prompt order, its row and the columns (n,) of its placeholders.

    None if `ids` (B, L) do not hold exactly the placeholders the images need.

    Raises:
        UnsupportedCallError: an image's placeholders run over two rows.
    """
    rows, columns = np.nonzero(ids.numpy() == placeholder)
    if len(rows) != sum(lengths):
        return None
    found, start = [], 0
    for length in lengths:
        if rows[start] != rows[start + length - 1]:
            raise UnsupportedCallError("The placeholders of one image run over two rows of the batch.")
        found.append((int(rows[start]), torch.from_numpy(columns[start : start + length])))
        start += length
    return found


def runs(ids: Tensor, placeholder: int) -> list[tuple[int, Tensor]]:
    """Row and columns of every unbroken run of placeholders in `ids` (B, L) on the CPU."""
    found = []
    for row, here in enumerate(ids.numpy() == placeholder):
        columns = np.flatnonzero(here)
        parts = np.split(columns, np.flatnonzero(np.diff(columns) > 1) + 1)
        found += [(row, torch.from_numpy(part)) for part in parts if len(part)]
    return found
