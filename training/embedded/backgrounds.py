"""Named backgrounds in integer arithmetic; a split's textures are made once and cropped, which costs next to nothing.

Periods and seeds of the textures are disjoint between the splits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

import numpy as np

from gridprune.tiny.draws import Draws

from .vocabulary import BACKGROUNDS

ROOM = 32  # pixels by which a texture is larger than the image cut from it
VARIANTS = 24  # textures of a kind in a split
#: split -> (seed, periods in pixels)
SPLITS: Mapping[str, tuple[int, tuple[int, ...]]] = {
    "train": (101, (6, 8, 11, 14, 18, 24)),
    "dev": (202, (7, 13, 20)),
    "test": (303, (9, 12, 22)),
}
Texture = np.ndarray  # int32 [S, S, 3]


def _stretch(coarse: np.ndarray, side: int) -> np.ndarray:
    """Bilinear upsampling of int32 [g, h, C] to [side, side, C] by fixed-point weights."""
    for axis in (0, 1):
        g = coarse.shape[axis]
        position = np.arange(side) * ((g - 1) * 256) // side
        low, weight = position >> 8, (position & 255).astype(np.int32)
        weight = weight.reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        coarse = (np.take(coarse, low, axis) * (256 - weight) + np.take(coarse, low + 1, axis) * weight) >> 8
    return coarse


def _noise(draws: Draws, side: int, rows: int, columns: int) -> np.ndarray:
    """Smooth noise around 0, int32 [S, S, 1]."""
    return _stretch(draws.noise(rows, columns, 1).astype(np.int32), side) - 128


def _near(draws: Draws, base: tuple[int, int, int], spread: int) -> np.ndarray:
    return np.array([value + draws.between(-spread, spread) for value in base], np.int32)


def _tones(draws: Draws) -> tuple[np.ndarray, np.ndarray]:
    """Two muted colours that can be told apart."""
    dark = draws.between(50, 120)
    light = dark + draws.between(45, 90)
    pair = tuple(_near(draws, (grey, grey, grey), 40) for grey in (dark, light))
    return pair if draws.chance(50) else pair[::-1]  # type: ignore[return-value]


def _mix(draws: Draws, mask: np.ndarray) -> Texture:
    """Two tones, the second where ``mask`` [S, S] holds."""
    first, second = _tones(draws)
    return np.where(mask[..., None], second, first)


def _axes(side: int) -> tuple[np.ndarray, np.ndarray]:
    line = np.arange(side, dtype=np.int32)
    return line[:, None], line[None, :]


def grass(draws: Draws, side: int, period: int) -> Texture:
    blades = _noise(draws, side, side // 5, side // 2) + _noise(draws, side, 12, 12) // 2
    return _near(draws, (70, 130, 50), 20) + blades // 3


def sand(draws: Draws, side: int, period: int) -> Texture:
    grains = draws.noise(side, side, 1).astype(np.int32) // 8 + _noise(draws, side, 9, 9) // 4
    return _near(draws, (205, 175, 120), 16) + grains - 16


def water(draws: Draws, side: int, period: int) -> Texture:
    y, x = _axes(side)
    waves = (y * 4 + _noise(draws, side, 7, 7)[..., 0] // 3 + x // 4) % (4 * period)
    return _near(draws, (50, 110, 180), 24) + (abs(waves - 2 * period) * 40 // period)[..., None]


def bricks(draws: Draws, side: int, period: int) -> Texture:
    y, x = _axes(side)
    h, w = max(8, period), 2 * max(8, period) + draws.below(6)
    row = y // h
    joint = (y % h < 2) | ((x + (row % 2) * (w // 2)) % w < 2)
    wall = _near(draws, (165, 85, 65), 30) + _noise(draws, side, 24, 24) // 5
    return np.where(joint[..., None], _near(draws, (200, 195, 185), 16), wall)


def wood(draws: Draws, side: int, period: int) -> Texture:
    grain = _noise(draws, side, side // 3, 5) // 3 + _noise(draws, side, 16, 3) // 3
    y, _ = _axes(side)
    gap = (y % (2 * period + 12) < 1)[..., None]
    return np.where(gap, 40, _near(draws, (140, 95, 55), 24) + grain)


def checks(draws: Draws, side: int, period: int) -> Texture:
    y, x = _axes(side)
    return _mix(draws, (x // period + y // period) % 2 == 0)


def stripes(draws: Draws, side: int, period: int) -> Texture:
    y, x = _axes(side)
    a, b = draws.choice(((1, 0), (0, 1), (1, 1), (1, -1)))
    return _mix(draws, (a * x + b * y) % (2 * period) < period)


def dots(draws: Draws, side: int, period: int) -> Texture:
    y, x = _axes(side)
    pitch = period + 6
    dy, dx = y % pitch - pitch // 2, (x + (y // pitch % 2) * (pitch // 2)) % pitch - pitch // 2
    return _mix(draws, 10 * (dy * dy + dx * dx) < pitch * pitch)


def rings(draws: Draws, side: int, period: int) -> Texture:
    y, x = _axes(side)
    square = (y - draws.below(side)) ** 2 + (x - draws.below(side)) ** 2
    return _mix(draws, np.sqrt(square).astype(np.int32) // period % 2 == 0)


def clouds(draws: Draws, side: int, period: int) -> Texture:
    weight = np.clip(_noise(draws, side, 6, 6) * 3 // 2 + _noise(draws, side, 18, 18) // 3 + 128, 0, 255)
    sky, white = _near(draws, (110, 165, 225), 20), _near(draws, (235, 238, 242), 12)
    return sky + ((white - sky) * weight >> 8)


KINDS: tuple[Callable[[Draws, int, int], Texture], ...] = (
    grass, sand, water, bricks, wood, checks, stripes, dots, rings, clouds,
)  # fmt: skip


@cache
def texture(split: str, kind: int, variant: int, side: int) -> np.ndarray:
    """Texture number ``variant`` of a kind, uint8 [side, side, 3]."""
    seed, periods = SPLITS[split]
    draws = Draws(seed, kind, variant)
    canvas = KINDS[kind](draws, side, draws.choice(periods))
    return np.clip(canvas, 0, 255).astype(np.uint8)


def background(split: str, draws: Draws, kind: int, side: int) -> np.ndarray:
    """An image full of one kind of background, uint8 [side, side, 3]."""
    sheet = texture(split, kind, draws.below(VARIANTS), side + ROOM)
    y, x = draws.below(ROOM), draws.below(ROOM)
    cut = sheet[y : y + side, x : x + side]
    return np.ascontiguousarray(cut[:, ::-1] if draws.chance(50) else cut)


assert len(KINDS) == len(BACKGROUNDS)
