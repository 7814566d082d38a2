"""Procedural backgrounds in integer arithmetic: clouds, landscapes, patterns, clutter."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from .draws import Draws

Canvas = np.ndarray  # int32 [S, S, 3]


def _stretch(coarse: np.ndarray, side: int) -> np.ndarray:
    """Bilinear upsampling of int32 [g, h, C] to [side, side, C] by fixed-point weights."""
    for axis in (0, 1):
        g, h = coarse.shape[axis], side
        pos = np.arange(h) * ((g - 1) * 256) // h
        low, weight = pos >> 8, (pos & 255).astype(np.int32)
        weight = weight.reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        coarse = (np.take(coarse, low, axis) * (256 - weight) + np.take(coarse, low + 1, axis) * weight) >> 8
    return coarse


def _tone(draws: Draws) -> np.ndarray:
    """A muted colour, int32 [3]."""
    grey = draws.between(50, 200)
    return np.array([min(235, max(20, grey + draws.between(-45, 45))) for _ in range(3)], np.int32)


def _mix(a: np.ndarray, b: np.ndarray, weight: np.ndarray) -> Canvas:
    """``a`` where weight is 0, ``b`` where it is 256; weight int32 [S, S]."""
    return a + (((b - a) * weight[..., None]) >> 8)


def _axes(side: int) -> tuple[np.ndarray, np.ndarray]:
    line = np.arange(side, dtype=np.int32)
    return line[:, None], line[None, :]


def clouds(draws: Draws, side: int) -> Canvas:
    cells = draws.choice((4, 6, 9, 14))
    coarse = draws.noise(cells, cells, 1).astype(np.int32)
    weight = _stretch(coarse, side)[..., 0]
    return _mix(_tone(draws), _tone(draws), weight)


def patches(draws: Draws, side: int) -> Canvas:
    cells = draws.choice((4, 6, 8))
    coarse = _tone(draws) + (draws.noise(cells, cells, 3).astype(np.int32) - 128) // 2
    return _stretch(coarse, side)


def gradient(draws: Draws, side: int) -> Canvas:
    y, x = _axes(side)
    a, b = draws.between(-4, 4), draws.between(1, 4)
    ramp = a * x + b * y
    ramp = (ramp - ramp.min()) * 256 // max(1, int(ramp.max() - ramp.min()))
    return _mix(_tone(draws), _tone(draws), ramp)


def stripes(draws: Draws, side: int) -> Canvas:
    y, x = _axes(side)
    period = draws.between(6, 30)
    phase = (draws.between(-2, 2) * x + draws.between(1, 2) * y) % (2 * period)
    return _mix(_tone(draws), _tone(draws), (phase < period).astype(np.int32) * draws.between(60, 200))


def landscape(draws: Draws, side: int) -> Canvas:
    y, _ = _axes(side)
    profile = _stretch(draws.noise(2, 7, 1).astype(np.int32), side)[0, :, 0]
    horizon = side * draws.between(25, 60) // 100 + (profile - 128) * side // 1500
    ground = (y > horizon[None]).astype(np.int32) * 256
    sky = _mix(np.array([150, 190, 230], np.int32), _tone(draws), np.broadcast_to(y * 256 // side, (side, side)))
    earth = np.array([90, 130, 70], np.int32) if draws.chance(50) else _tone(draws)
    rough = (_stretch(draws.noise(24, 24, 1).astype(np.int32), side) - 128) // 4
    return _mix(sky, np.clip(earth + rough, 0, 255), ground)


def tiles(draws: Draws, side: int) -> Canvas:
    y, x = _axes(side)
    size = draws.between(10, 28)
    check = ((x // size + y // size) % 2).astype(np.int32)
    return _mix(_tone(draws), _tone(draws), check * draws.between(60, 180))


def bricks(draws: Draws, side: int) -> Canvas:
    y, x = _axes(side)
    h, w = draws.between(8, 16), draws.between(16, 34)
    row = y // h
    joint = ((y % h < 2) | ((x + (row % 2) * (w // 2)) % w < 2)).astype(np.int32)
    return _mix(_tone(draws), _tone(draws), joint * draws.between(90, 220))


def rings(draws: Draws, side: int) -> Canvas:
    y, x = _axes(side)
    cy, cx, period = draws.below(side), draws.below(side), draws.between(300, 1500)
    square = (y - cy) ** 2 + (x - cx) ** 2
    return _mix(_tone(draws), _tone(draws), (square // period % 2).astype(np.int32) * draws.between(60, 180))


#: Half of the held-out images use a style that training never shows.
STYLES: Mapping[str, tuple[Callable[[Draws, int], Canvas], ...]] = {
    "train": (clouds, patches, gradient, stripes, landscape, tiles),
    "dev": (clouds, patches, landscape, bricks, bricks, bricks),
    "test": (clouds, patches, landscape, rings, rings, rings),
}


def _clutter(canvas: Canvas, draws: Draws, number: tuple[int, int]) -> None:
    """Discs, rings and wedges of muted or vivid colours, in place."""
    side = len(canvas)
    for _ in range(draws.between(*number)):
        r, y, x = draws.between(3, 14), draws.below(side), draws.below(side)
        y0, x0 = max(0, y - r), max(0, x - r)
        box = canvas[y0 : y + r + 1, x0 : x + r + 1]
        yy = np.arange(y0, y0 + box.shape[0])[:, None] - y
        xx = np.arange(x0, x0 + box.shape[1])[None] - x
        square, kind = yy * yy + xx * xx, draws.below(4)
        if kind == 0:
            mask = square <= r * r
        elif kind == 1:
            mask = (square <= r * r) & (square >= (r - 3) * (r - 3))
        elif kind == 2:
            mask = (abs(yy) + xx) * 2 <= r + 0 * yy
        else:
            mask = abs(yy * draws.between(-3, 3) + xx * draws.between(1, 3)) <= 3
        color = draws.noise(3).astype(np.int32) if draws.chance(50) else _tone(draws)
        box[mask] = (box[mask] * 102 + color * 154) >> 8


def background(split: str, draws: Draws, side: int, clutter: tuple[int, int]) -> Canvas:
    """A background cluttered with fewest to most shapes, int32 [side, side, 3]."""
    canvas = draws.choice(STYLES[split])(draws, side)
    _clutter(canvas, draws, clutter)
    grain = draws.choice((4, 8, 16, 24))
    canvas += (draws.noise(side, side, 1).astype(np.int32) - 128) * grain >> 8
    return canvas
