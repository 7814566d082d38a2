"""Where the answer stands on a token map, how much of it was kept, and how near every token is to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..core.token_map import TokenMap
from .data import Box

_SLACK = 1e-6  # borders of tokens are fp32 fractions


def evidence(token_map: TokenMap, boxes: Sequence[Box]) -> Tensor:
    """(N,) bool: tokens of which a box covers at least a quarter, or that hold the centre of a box."""
    mask = torch.zeros_like(token_map.separator)
    for box in boxes:
        mask |= _inside(token_map, box)
    return mask


def recall(kept: Tensor, wanted: Tensor) -> float | None:
    """Evidence recall of one selection: the share of the evidence tokens that are kept, capped by what k allows,

        |kept and evidence| / min(|evidence|, k),

    so that 1 can be reached at every budget. Only the places of kept tokens count, not what was merged into them. None
    if there is no evidence to keep.

    Args:
        kept: (k,) int64 indices of candidates.
        wanted: (N,) bool, see :func:`evidence`.
    """
    total = int(wanted.sum())
    return None if total == 0 else int(wanted[kept].sum()) / min(total, len(kept))


def closeness(token_map: TokenMap, boxes: Sequence[Box]) -> Tensor:
    """(N,) fp32, larger is nearer: evidence tokens above all others, each by its distance to its box's centre, so that
    the middles of all boxes come first; then the others by their distance to the nearest evidence. Zeros without boxes.
    """
    if not boxes:
        return torch.zeros_like(token_map.row, dtype=torch.float32)
    tokens = token_map.boxes.double()
    middle = (tokens[:, :2] + tokens[:, 2:]) / 2
    scores = torch.full_like(token_map.row, -torch.inf, dtype=torch.float64)
    for box in boxes:
        centre = tokens.new_tensor([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2])
        near = 4.0 - (middle - centre).norm(dim=-1)  # above 2: no two points of the image are further apart than 2
        scores = torch.where(_inside(token_map, box), torch.maximum(scores, near), scores)
    outside = torch.isinf(scores)
    distance = torch.cdist(middle[outside], middle[~outside]).amin(-1) if bool(outside.any()) else None
    if distance is not None:
        scores[outside] = -distance
    scores[(tokens[:, 2:] <= tokens[:, :2]).any(-1)] = -2.0  # tiles that nobody knows the place of: behind all others
    return scores.float()


def seen_part(size: tuple[int, int], processor: Any) -> Box:
    """The part of an image that the tower sees, as fractions: a middle square where the processor resizes the short
    side and crops the middle, everything elsewhere.

    Args:
        size: width and height of the image.
    """
    image_processor = getattr(processor, "image_processor", None)
    crops = bool(getattr(image_processor, "do_center_crop", False))
    if not crops or getattr(image_processor, "image_grid_pinpoints", None):
        return 0.0, 0.0, 1.0, 1.0
    width, height = size
    dx, dy = (width - min(size)) / 2 / width, (height - min(size)) / 2 / height
    return dx, dy, 1 - dx, 1 - dy


def seen_boxes(boxes: Sequence[Box], size: tuple[int, int], processor: Any) -> tuple[Box, ...]:
    """Boxes as fractions of what the tower sees (:func:`seen_part`).

    Args:
        size: width and height of the image.
    """
    return boxes_within(boxes, seen_part(size, processor))


def boxes_within(boxes: Sequence[Box], part: Box) -> tuple[Box, ...]:
    """Boxes as fractions of a part of the image, cut at its border; those outside it are gone."""
    left, top, right, bottom = part
    if part == (0.0, 0.0, 1.0, 1.0):
        return tuple(boxes)
    wide, high = right - left, bottom - top
    moved = (((x0 - left) / wide, (y0 - top) / high, (x1 - left) / wide, (y1 - top) / high) for x0, y0, x1, y1 in boxes)
    return tuple(
        (max(a, 0.0), max(b, 0.0), min(c, 1.0), min(d, 1.0))
        for a, b, c, d in moved
        if a < 1 and b < 1 and c > 0 and d > 0
    )


def _inside(token_map: TokenMap, box: Box) -> Tensor:
    tokens = token_map.boxes.double()  # [N, 4]
    x0, y0, x1, y1 = box
    wide = (tokens[:, 2].clamp(max=x1) - tokens[:, 0].clamp(min=x0)).clamp(min=0)
    high = (tokens[:, 3].clamp(max=y1) - tokens[:, 1].clamp(min=y0)).clamp(min=0)
    area = (tokens[:, 2] - tokens[:, 0]) * (tokens[:, 3] - tokens[:, 1])
    x, y = min((x0 + x1) / 2, 1 - 2 * _SLACK) + _SLACK, min((y0 + y1) / 2, 1 - 2 * _SLACK) + _SLACK
    holds = (tokens[:, 0] <= x) & (x < tokens[:, 2]) & (tokens[:, 1] <= y) & (y < tokens[:, 3])
    return ((wide * high >= area * (0.25 - _SLACK)) & (area > 0)) | holds
