"""How structured the image is under each token: moments of its Laplacian."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

_GREY = (0.299, 0.587, 0.114)


@cache  # graphs read it where it is
def _weights(device: torch.device) -> Tensor:
    return torch.tensor(_GREY, dtype=torch.float32, device=device)[:, None, None]


def laplacian_moments(pixels: Tensor, rows: int, columns: int) -> Tensor:
    """Mean and mean square of the grey image's Laplacian over the pixels of each token: (V, rows * columns, 2) fp32.

    The Laplacian is up + down + left + right - 4 * centre, with the edge pixels repeated outside. From the two moments
    the variance over any set of tokens follows exactly: mean of squares minus squared mean.

    Args:
        pixels: (V, 3, H, W), rows * columns patches; any affine normalisation per channel only changes the scale.
        rows, columns: the token grid; H and W are multiples of them.
    """
    grey = (pixels.float() * _weights(pixels.device)).sum(1, keepdim=True)  # [V, 1, H, W]
    padded = torch.nn.functional.pad(grey, (1, 1, 1, 1), mode="replicate")
    around = padded[..., :-2, 1:-1] + padded[..., 2:, 1:-1] + padded[..., 1:-1, :-2] + padded[..., 1:-1, 2:]
    laplacian = around - 4 * grey
    size = (pixels.shape[-2] // rows, pixels.shape[-1] // columns)
    moments = torch.cat([laplacian, laplacian.square()], 1)
    return torch.nn.functional.avg_pool2d(moments, size).flatten(2).transpose(1, 2)
