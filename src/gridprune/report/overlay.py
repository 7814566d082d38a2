"""One image: kept patches clear, the rest dimmed. A video is drawn as a sheet of its frames."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from . import frames as sheet

if TYPE_CHECKING:
    from .report import Report

_SMALLEST_SIDE = 480  # small images are enlarged, so that patches can be told apart
_DIM = 0.28


def to_image(pixels: Tensor, processor: Any = None) -> Image.Image:
    """A PIL image from normalised pixels (3, H, W), or the sheet of a video's frames (T, 3, H, W).

    Without a processor values are stretched to the full range.
    """
    pixels = pixels.detach().float().cpu()
    image_processor = getattr(processor, "image_processor", None)
    if pixels.dim() == 4:
        image_processor = getattr(processor, "video_processor", image_processor)
        pixels = sheet.join(pixels)
    mean, std = getattr(image_processor, "image_mean", None), getattr(image_processor, "image_std", None)
    if mean is not None and std is not None:
        pixels = pixels * pixels.new_tensor(std)[:, None, None] + pixels.new_tensor(mean)[:, None, None]
    else:
        low, high = pixels.min(), pixels.max()
        pixels = (pixels - low) / (high - low).clamp(min=1e-6)
    array = (pixels.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    return Image.fromarray(array)


def enlarge(image: Image.Image) -> Image.Image:
    """The image with its smaller side at least 480 pixels, by a whole factor."""
    factor = max(1, math.ceil(_SMALLEST_SIDE / min(image.size)))
    return image.convert("RGB").resize((image.width * factor, image.height * factor), Image.Resampling.LANCZOS)


def token_pixels(report: Report, size: tuple[int, int]) -> Tensor:
    """(H, W) int64: for each pixel how many kept tokens cover it, over all planes."""
    width, height = size
    cover = torch.zeros(height + 1, width + 1, dtype=torch.int64, device="cpu")
    boxes = sheet.boxes(report.token_map.candidates)[report.kept_indices]
    corners = (boxes * boxes.new_tensor([width, height, width, height])).round().long()
    x0, y0, x1, y1 = corners.unbind(-1)
    one = torch.ones_like(x0)
    for x, y, sign in ((x0, y0, 1), (x1, y1, 1), (x0, y1, -1), (x1, y0, -1)):  # a 2-D difference array
        cover.index_put_((y, x), sign * one, accumulate=True)
    return cover.cumsum(0).cumsum(1)[:height, :width]


def overlay(report: Report, image: Image.Image) -> Image.Image:
    """Kept patches clear with a thin edge, everything else dimmed and greyed; frames of a video are set apart.

    Args:
        image: the image, or the sheet of a video's frames.
    """
    large = enlarge(image)
    kept = (token_pixels(report, large.size) > 0).numpy()
    pixels = np.asarray(large, dtype=np.float32)
    grey = pixels.mean(-1, keepdims=True) * 0.6 + pixels * 0.4
    out = np.where(kept[..., None], pixels, grey * _DIM)
    edge = np.zeros_like(kept)
    edge[1:] |= kept[1:] != kept[:-1]
    edge[:, 1:] |= kept[:, 1:] != kept[:, :-1]
    out[edge] = 0.4 * out[edge] + 0.6 * 255
    for axis, parts in enumerate(sheet.shape(sheet.frame_count(report.token_map))):
        borders = [round(out.shape[axis] * part / parts) for part in range(1, parts)]
        np.moveaxis(out, axis, 0)[[border + side for border in borders for side in (-2, -1, 0, 1)]] = 0
    return Image.fromarray(out.round().astype(np.uint8))
