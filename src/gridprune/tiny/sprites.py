"""The shipped sprite sheet: emoji at every size and tilt, sign words in several fonts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
from PIL import Image

from .vocabulary import N_CLASSES


@dataclass(frozen=True)
class Sprite:
    """One bitmap of the sheet; ``longest`` is its longer side in pixels."""

    label: int
    x: int
    y: int
    w: int
    h: int

    @property
    def longest(self) -> int:
        return max(self.w, self.h)


@cache
def sheet() -> np.ndarray:
    """The sheet as int32 RGBA, [H, W, 4]."""
    with files(__package__).joinpath("assets/sprites.png").open("rb") as handle:
        return np.asarray(Image.open(handle).convert("RGBA")).astype(np.int32)


@cache
def sprites(split: str, largest: int | None = None) -> Mapping[int, tuple[Sprite, ...]]:
    """Bitmaps by label id for one split, objects of up to ``largest`` pixels; words come in that split's fonts only."""
    table: dict[int, list[Sprite]] = {}
    text = files(__package__).joinpath("assets/sprites.json").read_text()
    for _, label, owner, x, y, w, h in json.loads(text):
        sprite = Sprite(label, x, y, w, h)
        if owner == split and (largest is None or label > N_CLASSES or sprite.longest <= largest):
            table.setdefault(label, []).append(sprite)
    return {label: tuple(rows) for label, rows in sorted(table.items())}


def pixels(sprite: Sprite, flip: bool) -> np.ndarray:
    """RGBA of one bitmap, int32 [h, w, 4]."""
    rgba = sheet()[sprite.y : sprite.y + sprite.h, sprite.x : sprite.x + sprite.w]
    return rgba[:, ::-1] if flip else rgba
