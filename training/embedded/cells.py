"""Which patches a question's evidence lies on."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from .scenes import PATCH, VIEW, Box


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
