"""A video as one image: its frames side by side, row by row, and where tokens lie on that sheet."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..core.token_map import TokenMap

_ACROSS = 4  # frames in a row, more for long videos


def shape(frames: int) -> tuple[int, int]:
    """Rows and columns of the sheet."""
    across = min(frames, max(_ACROSS, math.ceil(math.sqrt(frames))))
    return -(-frames // across), across


def frame_count(token_map: TokenMap) -> int:
    """Frames of the video that a map describes; 1 for a still image."""
    return int(token_map.frame.max()) + 1 if len(token_map) else 1


def join(frames: Tensor) -> Tensor:
    """(3, rows * H, columns * W) from frames (T, 3, H, W); places without a frame are as dark as the video gets."""
    down, across = shape(len(frames))
    count, channels, height, width = frames.shape
    blank = frames.amin().expand(down * across - count, channels, height, width)
    placed = torch.cat([frames, blank]).view(down, across, channels, height, width)
    return placed.permute(2, 0, 3, 1, 4).reshape(channels, down * height, across * width)


def boxes(token_map: TokenMap) -> Tensor:
    """(n, 4) fp64 x0 y0 x1 y1 of each token on the sheet, in [0, 1]."""
    down, across = shape(frame_count(token_map))
    cell = torch.stack([token_map.frame % across, token_map.frame // across], dim=-1)
    return (token_map.boxes.double() + cell.repeat(1, 2)) / torch.tensor([across, down, across, down], device="cpu")
