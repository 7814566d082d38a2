"""What lies on each of the 24x24 patches: labels, card colours, centres, and evidence masks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from .scenes import GRID, PATCH, Box, Scene


@dataclass(frozen=True)
class Cells:
    """Ground truth by patch, all [GRID, GRID].

    ``label`` and ``color`` are ids (0: background, no card); ``center`` marks the one patch that holds
    an item's centre; ``offset`` [GRID, GRID, 2] is (dy, dx) to the item's centre in patches; ``item`` is
    the index of the item on the patch or -1.
    """

    label: np.ndarray
    color: np.ndarray
    center: np.ndarray
    offset: np.ndarray
    item: np.ndarray


def overlap(box: Box) -> np.ndarray:
    """Pixels of each patch that a box covers, int [GRID, GRID]."""
    start = np.arange(GRID) * PATCH
    wide = np.clip(np.minimum(start + PATCH, box[2]) - np.maximum(start, box[0]), 0, None)
    high = np.clip(np.minimum(start + PATCH, box[3]) - np.maximum(start, box[1]), 0, None)
    return high[:, None] * wide[None, :]


def evidence_mask(boxes: Iterable[Box]) -> np.ndarray:
    """Patches of which a box covers at least a quarter, or that hold its centre; bool [GRID, GRID]."""
    mask = np.zeros((GRID, GRID), bool)
    for box in boxes:
        mask |= overlap(box) * 4 >= PATCH * PATCH
        mask[(box[1] + box[3]) // 2 // PATCH, (box[0] + box[2]) // 2 // PATCH] = True
    return mask


def cells(scene: Scene) -> Cells:
    """Ground truth of every patch of a scene."""
    label = np.zeros((GRID, GRID), np.int64)
    color = np.zeros((GRID, GRID), np.int64)
    center = np.zeros((GRID, GRID), np.int64)
    offset = np.zeros((GRID, GRID, 2), np.float32)
    owner = np.full((GRID, GRID), -1, np.int64)
    for number, item in enumerate(scene.items):
        cx, cy = item.center
        row, col = cy // PATCH, cx // PATCH
        area = overlap(item.card if item.is_sign else item.box)
        area[row, col] = PATCH * PATCH
        rows, cols = np.nonzero(area * 8 >= 3 * PATCH * PATCH)
        label[rows, cols] = item.label
        owner[rows, cols] = number
        offset[rows, cols, 0] = cy / PATCH - rows - 0.5
        offset[rows, cols, 1] = cx / PATCH - cols - 0.5
        center[row, col] = 1
        if item.color:
            color[overlap(item.card) * 2 >= PATCH * PATCH] = item.color
            color[rows, cols] = item.color
    return Cells(label, color, center, offset, owner)
