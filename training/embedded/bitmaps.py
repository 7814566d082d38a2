"""Bitmaps of objects and words, derived from the shipped masters in integer arithmetic and kept.

A bitmap is premultiplied: pasting one is a multiplication and an addition on bytes, which is what makes scenes cheap.
What a split may show (slants, sizes, fonts) is disjoint between training, development and test.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
from PIL import Image

MASTER = 72  # pixels of the longer side of an emoji's master
LETTER = 24  # pixels of the height of a letter's master
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class Look:
    """What a split shows: slants in sixteenths, sizes of objects in pixels (longer side)."""

    slants: tuple[int, ...]
    sizes: tuple[int, ...]


LOOKS: Mapping[str, Look] = {
    "train": Look((-3, 0, 3), (14, 16, 18, 20, 22, 24, 28, 32, 36, 40, 48, 56, 64)),
    "dev": Look((-1,), (15, 17, 21, 26, 34, 44, 60)),
    "test": Look((1,), (15, 17, 21, 26, 34, 44, 60)),
}


@dataclass(frozen=True, eq=False)
class Bitmap:
    """``ink`` uint16 [h, w, 3] (colour times alpha of 0..256), ``rest`` uint16 [h, w, 1] (256 - alpha)."""

    ink: np.ndarray
    rest: np.ndarray

    @property
    def w(self) -> int:
        return self.ink.shape[1]

    @property
    def h(self) -> int:
        return self.ink.shape[0]

    def paste(self, canvas: np.ndarray, x: int, y: int) -> None:
        """Draw on uint8 [H, W, 3] with the upper left corner at (x, y)."""
        part = canvas[y : y + self.h, x : x + self.w]
        mixed = part * self.rest
        mixed += self.ink
        mixed >>= 8
        part[...] = mixed


def shrink(values: np.ndarray, h: int, w: int) -> np.ndarray:
    """Mean over the source pixels of every target pixel, int64 [H, W, C] -> [h, w, C]."""
    for axis, size in ((0, h), (1, w)):
        length = values.shape[axis]
        start = np.arange(size) * length // size
        end = -(-np.arange(1, size + 1) * length // size)
        sums = np.concatenate([np.zeros_like(values.take([0], axis)), values.cumsum(axis)], axis)
        shape = [1] * values.ndim
        shape[axis] = size
        values = (sums.take(end, axis) - sums.take(start, axis)) // (end - start).reshape(shape)
    return values


def slanted(values: np.ndarray, slant: int) -> np.ndarray:
    """Rows shifted by ``slant`` sixteenths of their distance to the middle, int64 [H, W, C] -> [H, W + pad, C]."""
    h, w = values.shape[:2]
    pad = (h // 2 * abs(slant) + 15) // 16
    out = np.zeros((h, w + 2 * pad, values.shape[2]), values.dtype)
    for y in range(h):
        x = pad + (y - h // 2) * slant // 16
        out[y, x : x + w] = values[y]
    return out


@cache
def _index() -> dict[str, list]:
    index: dict[str, list] = json.loads(_asset("masters.json").read_text())
    return index


def _asset(name: str):  # type: ignore[no-untyped-def]
    return files(__package__).joinpath("assets", name)


@cache
def _sheet(name: str, mode: str) -> np.ndarray:
    with _asset(name).open("rb") as handle:
        return np.asarray(Image.open(handle).convert(mode)).astype(np.int64)


@cache
def drawings(label: int) -> tuple[int, ...]:
    """Numbers of the masters of a class."""
    return tuple(number for number, row in enumerate(_index()["emoji"]) if row[0] == label)


@cache
def fonts(split: str) -> tuple[int, ...]:
    """Numbers of the fonts of a split."""
    return tuple(number for number, font in enumerate(_index()["fonts"]) if font["split"] == split)


@cache
def drawing(number: int, size: int, slant: int, flip: bool) -> Bitmap:
    """An object's bitmap; ``size`` is its longer side in pixels."""
    _, x, y, w, h = _index()["emoji"][number]
    rgba = _sheet("emoji.png", "RGBA")[y : y + h, x : x + w]
    alpha = rgba[..., 3:]
    values = slanted(np.concatenate([rgba[..., :3] * alpha, alpha], 2), slant)
    inked = np.flatnonzero(values[..., 3].any(0))
    values = values[:, inked[0] : inked[-1] + 1]
    h, w = values.shape[:2]
    longest = max(h, w)
    values = shrink(values, max(4, h * size // longest), max(4, w * size // longest))
    return _bitmap(values[..., :3] // 255, values[..., 3:], flip)


@cache
def word(text: str, font: int, height: int, ink: tuple[int, int, int]) -> Bitmap:
    """A word in capitals of ``height`` pixels in the colour ``ink``."""
    letters = _sheet("letters.png", "L")
    boxes = [_index()["fonts"][font]["letters"][ALPHABET.index(letter)] for letter in text.upper()]
    mask = np.concatenate([letters[y : y + h, x : x + w] for x, y, w, h in boxes], 1)[..., None]
    mask = shrink(mask, height, mask.shape[1] * height * 9 // (10 * LETTER))  # a little narrow
    return _bitmap(mask * np.array(ink) // 255, mask, False)


def _bitmap(colored: np.ndarray, alpha: np.ndarray, flip: bool) -> Bitmap:
    """From colour times alpha (of 0..1) and alpha, both in bytes; no sum of a paste exceeds 16 bits."""
    if flip:
        colored, alpha = colored[:, ::-1], alpha[:, ::-1]
    ink = np.minimum(colored, alpha) << 8
    return Bitmap(ink.astype(np.uint16), (256 - alpha - (alpha >> 7)).astype(np.uint16))
