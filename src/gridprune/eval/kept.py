"""Kept tokens as rows hold them: one bit per token in base64, and the few numbers that say where the tokens lie.

Rows hold them for the first :data:`QUESTIONS` questions of a run, in whole scenes: enough to look at, in a file that
stays small whatever the number of questions.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..core.token_map import TokenMap

QUESTIONS = 240
_DIGITS = 4  # of places, which are fractions of the image


def pack(indices: Tensor, n: int) -> str:
    """(k,) kept indices of n tokens as base64 of n bits, the first token in the highest bit of the first byte."""
    mask = np.zeros(n, dtype=np.bool_)
    mask[indices.cpu().numpy()] = True
    return base64.b64encode(np.packbits(mask).tobytes()).decode("ascii")


def unpack(text: str, n: int) -> NDArray[np.bool_]:
    """(n,) bool, the inverse of :func:`pack`."""
    return np.unpackbits(np.frombuffer(base64.b64decode(text), dtype=np.uint8), count=n).astype(np.bool_)


def places_of(token_map: TokenMap) -> dict[str, Any]:
    """Where the n tokens lie: `{"n": n, "grids": [[rows, columns, x0, y0, x1, y1], ...]}`, one grid after the other in
    raster order, or `{"n": n, "boxes": [[x0, y0, x1, y1], ...]}` where tokens do not lie like that.
    """
    n = len(token_map)
    grids = [_grid(token_map.take(_member(token_map, plane))) for plane in _planes(token_map)]
    found: dict[str, Any] = {"n": n, "grids": grids}
    boxes = boxes_of(found)
    if len(boxes) == n and np.allclose(boxes, token_map.boxes.numpy(), atol=2 * 10**-_DIGITS, rtol=0):
        return found
    return {"n": n, "boxes": np.round(token_map.boxes.double().numpy(), _DIGITS).tolist()}


def boxes_of(places: Mapping[str, Any]) -> NDArray[np.float64]:
    """(n, 4) x0 y0 x1 y1 of every token as fractions of what the tower sees, from :func:`places_of`."""
    if "boxes" in places:
        return np.array(places["boxes"], dtype=np.float64).reshape(-1, 4)
    parts = []
    for rows, columns, x0, y0, x1, y1 in places["grids"]:
        x, y = np.linspace(x0, x1, columns + 1), np.linspace(y0, y1, rows + 1)
        left, top = np.meshgrid(x[:-1], y[:-1])
        right, bottom = np.meshgrid(x[1:], y[1:])
        parts.append(np.stack([left, top, right, bottom], -1).reshape(-1, 4))
    return np.concatenate(parts)


def _planes(token_map: TokenMap) -> list[int]:
    """Planes in the order of their first token."""
    return list(dict.fromkeys(token_map.plane.tolist()))


def _member(token_map: TokenMap, plane: int) -> Tensor:
    return (token_map.plane == plane).nonzero()[:, 0]


def _grid(plane: TokenMap) -> list[float]:
    """Rows, columns and the box around a plane."""
    rows, columns = (int(torch.unique(values).numel()) for values in (plane.row, plane.column))
    corners = torch.cat([plane.boxes[:, :2].amin(0), plane.boxes[:, 2:].amax(0)]).double()
    return [rows, columns, *(round(value, _DIGITS) for value in corners.tolist())]
