"""What lies on each patch: labels, card colours, centres, and evidence masks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from gridprune.tiny.forms import PATCH, VIEW
from gridprune.tiny.scenes import Box, Scene


@dataclass(frozen=True)
class Cells:
    """Ground truth by patch, all [G, G] where G patches make a side of the image.

    ``label`` and ``color`` are ids (0: background, no card); ``center`` marks the one patch that holds
    an item's centre; ``offset`` [G, G, 2] is (dy, dx) to the item's centre in patches; ``item`` is
    the index of the item on the patch or -1.
    """

    label: np.ndarray
    color: np.ndarray
    center: np.ndarray
    offset: np.ndarray
    item: np.ndarray


def overlap(box: Box, side: int = VIEW, patch: int = PATCH) -> np.ndarray:
    """Pixels of each patch that a box covers, int [G, G]; ``patch`` is a patch's side in pixels of the image."""
    start = np.arange(side // patch) * patch
    wide = np.clip(np.minimum(start + patch, box[2]) - np.maximum(start, box[0]), 0, None)
    high = np.clip(np.minimum(start + patch, box[3]) - np.maximum(start, box[1]), 0, None)
    return high[:, None] * wide[None, :]


def evidence_mask(boxes: Iterable[Box], side: int = VIEW, patch: int = PATCH) -> np.ndarray:
    """Patches of which a box covers at least a quarter, or that hold its centre; bool [G, G]."""
    mask = np.zeros((side // patch, side // patch), bool)
    for box in boxes:
        mask |= overlap(box, side, patch) * 4 >= patch * patch
        mask[(box[1] + box[3]) // 2 // patch, (box[0] + box[2]) // 2 // patch] = True
    return mask


def cells(scene: Scene, patch: int = PATCH) -> Cells:
    """Ground truth of every patch of a scene; patches of an overview cover more pixels of the image."""
    side = scene.form.side
    shape = (side // patch, side // patch)
    label, color, center = (np.zeros(shape, np.int64) for _ in range(3))
    offset = np.zeros((*shape, 2), np.float32)
    owner = np.full(shape, -1, np.int64)
    for number, item in enumerate(scene.items):
        cx, cy = item.center
        row, col = cy // patch, cx // patch
        area = overlap(item.card if item.is_sign else item.box, side, patch)
        area[row, col] = patch * patch
        rows, cols = np.nonzero(area * 8 >= 3 * patch * patch)
        label[rows, cols] = item.label
        owner[rows, cols] = number
        offset[rows, cols, 0] = cy / patch - rows - 0.5
        offset[rows, cols, 1] = cx / patch - cols - 0.5
        center[row, col] = 1
        if item.color:
            color[overlap(item.card, side, patch) * 2 >= patch * patch] = item.color
            color[rows, cols] = item.color
    return Cells(label, color, center, offset, owner)
