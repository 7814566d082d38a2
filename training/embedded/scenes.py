"""Scenes: a seeded layout (geometry only) of objects and signs, or of a page of text, and its rendering.

Every fifth scene is a page. Layouts are drawn so that the questions of :mod:`training.embedded.questions` can be
answered with exactly balanced answers: what they are about is dealt from permutations, never drawn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from PIL import Image

from gridprune.tiny.draws import Draws, rotated

from .backgrounds import background
from .bitmaps import Bitmap
from .vocabulary import BACKGROUNDS, COLOR_RGB, COLORS, COUNTS, LETTERS, N_CLASSES, REGIONS, WORDS

__all__ = ["FORMS", "GRID", "LLAVA", "NEXT", "PATCH", "VIEW", "Box", "Form", "Item", "Scene", "Targets", "make_scene"]

VIEW, PATCH = 192, 8  # pixels of a side: what the tower takes, and one of its patches
GRID = VIEW // PATCH
SPLIT_SEED: Mapping[str, int] = {"train": 41, "dev": 52, "test": 63}
PAGE_EVERY = 5
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Form:
    """Size of the images: one view for LLaVA, overview and tiles for LLaVA-NeXT."""

    name: str
    side: int
    salt: int

    @property
    def scale(self) -> int:
        return self.side // VIEW

    @property
    def third(self) -> int:
        return self.side // 3

    @property
    def margin(self) -> int:
        """Pixels between an object's centre and the borders of the region that a question names."""
        return 8 * self.scale

    def region_of(self, x: int, y: int) -> int | None:
        """Region id of a point, or None near a dividing line."""
        for value in (x, y):
            if min(abs(value - self.third), abs(value - 2 * self.third)) < self.margin:
                return None
        return 3 * (y // self.third) + x // self.third

    def region_box(self, region: int, grown: int = 0) -> Box:
        """Box of a region, grown by some pixels."""
        row, col = divmod(region, 3)
        x, y = col * self.third, row * self.third
        return x - grown, y - grown, x + self.third + grown, y + self.third + grown


LLAVA, NEXT = Form("llava", VIEW, 0), Form("next", 2 * VIEW, 500)
FORMS: Mapping[str, Form] = {form.name: form for form in (LLAVA, NEXT)}


@dataclass(frozen=True)
class Item:
    """An object, a sign, or a word of a page.

    ``box`` is the ink; ``card`` the coloured card or board around it (or ``box``); ``dot`` a small coloured spot on
    it, a colour id and its box; ``line`` and ``slot`` number a word's place on a page (line 0 is the title).
    """

    label: int
    bitmap: Bitmap = field(repr=False)
    box: Box
    card: Box
    color: int = 0
    dot: tuple[int, Box] | None = None
    line: int = -1
    slot: int = -1

    @property
    def is_text(self) -> bool:
        return self.label > N_CLASSES

    @property
    def center(self) -> tuple[int, int]:
        """(x, y) of the middle of the ink."""
        return (self.box[0] + self.box[2]) // 2, (self.box[1] + self.box[3]) // 2

    @property
    def longest(self) -> int:
        return max(self.box[2] - self.box[0], self.box[3] - self.box[1])


@dataclass(frozen=True)
class Targets:
    """What the balanced questions of a scene are about; every field runs through permutations of its values.

    Classes and words are dealt from one permutation each, so that the roles of a scene never collide.
    """

    anchor: int  # class in the asked region
    colored: int  # class on the asked card
    counted: int
    rival: int  # class that is compared in number with the counted one
    host: int  # large object that bears a spot
    mate: int  # object on a card that is compared with the host
    region: int
    color: int
    count: int
    dot: int
    background: int
    same: bool  # whether host and mate have cards of one colour
    first: bool  # whether the right one of two is named first
    letter: int
    lines: int
    words: tuple[int, ...]  # word ids by role: asked by place, asked by neighbour, there, not there, title

    @classmethod
    def of(cls, seed: int, number: int) -> Targets:
        """Targets of the ``number``-th scene of its kind."""

        def dealt(salt: int, n: int, shift: int = 0) -> int:
            return rotated(seed, salt, n, number // n * n + (number + shift) % n)

        anchor, colored, counted, rival, host, mate = (1 + dealt(1, N_CLASSES, 5 * role) for role in range(6))
        return cls(
            anchor=anchor,
            colored=colored,
            counted=counted,
            rival=rival,
            host=host,
            mate=mate,
            region=dealt(2, len(REGIONS)),
            color=1 + dealt(3, len(COLORS)),
            count=1 + dealt(4, len(COUNTS)),
            dot=1 + dealt(5, len(COLORS)),
            background=dealt(6, len(BACKGROUNDS)),
            same=dealt(7, 2) == 0,
            first=dealt(8, 2) == 0,
            letter=dealt(9, len(LETTERS)),
            lines=3 + dealt(10, 6),
            words=tuple(dealt(11, len(WORDS), 7 * role) for role in range(5)),
        )


@dataclass(frozen=True)
class Scene:
    """A layout; ``pixels`` renders it. ``background`` is a background id, or -1 on a page; ``paper`` its colours."""

    split: str
    seed: int
    index: int
    items: tuple[Item, ...]
    targets: Targets
    background: int
    form: Form = LLAVA
    paper: tuple[int, int, int] = (0, 0, 0)
    cut: bool = False  # whether ``items`` are those of a part of the image only

    @property
    def root(self) -> int:
        """Seed of everything drawn for this scene's set."""
        return root_seed(self.split, self.seed, self.form)

    @property
    def is_page(self) -> bool:
        return self.background < 0

    @cached_property
    def objects(self) -> tuple[Item, ...]:
        return tuple(item for item in self.items if not item.is_text)

    @cached_property
    def texts(self) -> tuple[Item, ...]:
        """Signs, or the words of a page in reading order."""
        return tuple(item for item in self.items if item.is_text)

    @cached_property
    def counts(self) -> dict[int, int]:
        """Number of objects by class id."""
        out: dict[int, int] = {}
        for item in self.objects:
            out[item.label] = out.get(item.label, 0) + 1
        return out

    @cached_property
    def pixels(self) -> np.ndarray:
        """uint8 [S, S, 3], S the form's side."""
        return render(self)

    @property
    def image(self) -> Image.Image:
        return Image.fromarray(self.pixels)


def root_seed(split: str, seed: int, form: Form) -> int:
    """Seed of a set of scenes."""
    return SPLIT_SEED[split] + 1000 * seed + form.salt


def make_scene(split: str, index: int, *, seed: int = 0, form: Form = LLAVA) -> Scene:
    """Scene ``index`` of a split; identical for the same arguments on every machine."""
    from .layouts import page, photo  # they draw items and need the classes above

    root = root_seed(split, seed, form)
    block, place = divmod(index, PAGE_EVERY)
    draws = Draws(root, index, 1)
    if place == PAGE_EVERY - 1:
        targets = Targets.of(root + 7, block)
        items, paper = page(split, form, draws, targets)
        return Scene(split, seed, index, items, targets, -1, form, paper)
    targets = Targets.of(root, block * (PAGE_EVERY - 1) + place)
    return Scene(split, seed, index, photo(split, form, draws, targets), targets, targets.background, form)


def shade(draws: Draws, color: int) -> np.ndarray:
    """A colour's shade, uint8 [3]."""
    jitter = (draws.below(33) - 16, draws.below(33) - 16, draws.below(33) - 16)
    return np.clip(np.array(COLOR_RGB[color - 1]) + jitter, 0, 255).astype(np.uint8)


def render(scene: Scene) -> np.ndarray:
    """Pixels of a scene, uint8 [S, S, 3]."""
    draws, side = Draws(scene.root, scene.index, 2), scene.form.side
    if scene.is_page:
        canvas = np.empty((side, side, 3), np.uint8)
        canvas[:] = scene.paper
    else:
        canvas = background(scene.split, draws, scene.background, side)
    for item in scene.items:
        if item.color:
            tint = shade(draws, item.color)
            x0, y0, x1, y1 = item.card
            canvas[y0:y1, x0:x1] = tint
            if item.is_text or draws.chance(50):
                edge = tint // 2
                canvas[y0, x0:x1] = canvas[y1 - 1, x0:x1] = canvas[y0:y1, x0] = canvas[y0:y1, x1 - 1] = edge
        item.bitmap.paste(canvas, item.box[0], item.box[1])
        if item.dot is not None:
            color, (x0, y0, x1, y1) = item.dot
            canvas[y0:y1, x0:x1] = 250 if COLORS[color - 1] == "black" else 15
            canvas[y0 + 1 : y1 - 1, x0 + 1 : x1 - 1] = shade(draws, color)
    return canvas
