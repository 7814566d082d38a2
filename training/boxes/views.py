"""LLaVA-NeXT's cut of an image, and its order of visual tokens: overview, then the mosaic of tiles row by row.

The order, the newline behind every row of the mosaic, and the rule that a newline stays with its row are those of the
stock model and of its pruned prompts (`gridprune.families.llava_next`); a test holds them together.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gridprune.tiny.forms import GRID, PATCH, VIEW, Form
from gridprune.tiny.scenes import Box, Scene

from .cells import Cells, cells, evidence_mask
from .clip import TinyCLIP, patchify


def cut(scene: Scene) -> np.ndarray:
    """Overview and tiles, uint8 [V, 192, 192, 3], as the processor makes them."""
    overview = scene.image.resize((VIEW, VIEW), Image.Resampling.BICUBIC)
    tiles = scene.form.tiles
    if not tiles:
        return scene.pixels[None]
    mosaic = scene.pixels.reshape(tiles, VIEW, tiles, VIEW, 3).swapaxes(1, 2).reshape(-1, VIEW, VIEW, 3)
    return np.concatenate([np.asarray(overview)[None], mosaic])


@torch.no_grad()
def view_features(clip: TinyCLIP, scene: Scene) -> Tensor:
    """Penultimate patch states in the order of the visual tokens, [N, D]."""
    pixels = torch.from_numpy(cut(scene))
    index = torch.arange(GRID * GRID).expand(len(pixels), -1)
    return in_order(clip.vision(patchify(pixels), index)[:, 1:], scene.form)


def in_order(states: Tensor, form: Form) -> Tensor:
    """Patches of all views [V, 576, D] in the order of the visual tokens, [N, D]."""
    tiles, rest = form.tiles, states.shape[2:]
    mosaic = states[1:].reshape(tiles, tiles, GRID, GRID, *rest).transpose(1, 2).reshape(-1, *rest)
    return torch.cat([states[0], mosaic])


def count(form: Form) -> int:
    """Visual tokens of an image, newlines left out."""
    return GRID * GRID * (1 + form.tiles**2)


def mosaic_row(form: Form) -> np.ndarray:
    """Row of the mosaic of every visual token, -1 in the overview; [N]."""
    side = GRID * form.tiles
    return np.concatenate([np.full(GRID * GRID, -1), np.repeat(np.arange(side), side)])


def patch_sides(form: Form) -> tuple[int, ...]:
    """Pixels of the image along a side of a patch: in the overview, and in the mosaic if there is one."""
    return (PATCH * form.tiles, PATCH) if form.tiles else (PATCH,)


def truth(scene: Scene) -> tuple[Cells, ...]:
    """Ground truth of the overview's patches, and of the mosaic's."""
    return tuple(cells(scene, patch) for patch in patch_sides(scene.form))


def occupied(scene: Scene) -> np.ndarray:
    """Visual tokens on an object or a sign, bool [N]."""
    return np.concatenate([part.label.ravel() > 0 for part in truth(scene)])


def evidence(boxes: Sequence[Box], form: Form) -> np.ndarray:
    """Visual tokens of a question's evidence in every view, bool [N]."""
    return np.concatenate([evidence_mask(boxes, form.side, patch).ravel() for patch in patch_sides(form)])


def with_newlines(index: np.ndarray, form: Form) -> np.ndarray:
    """Kept visual tokens (ascending) with -1 where a newline stands: behind every row of which a token is kept."""
    row = mosaic_row(form)[index]
    ends = np.flatnonzero((row >= 0) & (np.diff(row, append=-2) != 0)) + 1
    return np.insert(index, ends, -1)
