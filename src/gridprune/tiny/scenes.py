"""Scenes: a seeded layout of objects, cards and signs (geometry only), and its rendering.

The layout is drawn so that the balanced targets of :class:`Targets` are answerable; it costs well
under a millisecond, so that the language model can be trained without rendering.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image

from .backgrounds import background
from .draws import Draws, rotated
from .forms import GRID, LLAVA, PATCH, VIEW, Form
from .sprites import Sprite, pixels, sprites
from .vocabulary import CLASSES, COLOR_RGB, COLORS, COUNTS, GROUPS, LETTERS, N_CLASSES, REGIONS, WORDS

__all__ = ["GRID", "PATCH", "SIDE", "SPLIT_SEED", "Box", "Item", "Scene", "Targets", "make_scene", "render"]

SIDE = VIEW
SPLIT_SEED: Mapping[str, int] = {"train": 11, "dev": 22, "test": 33}
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Item:
    """An object or a sign. ``box`` is the ink; ``card`` the coloured card or board (or ``box``)."""

    label: int
    sprite: Sprite
    flip: bool
    color: int
    box: Box
    card: Box

    @property
    def is_sign(self) -> bool:
        return self.label > N_CLASSES

    @property
    def center(self) -> tuple[int, int]:
        """(x, y) of the middle of the ink."""
        return (self.box[0] + self.box[2]) // 2, (self.box[1] + self.box[3]) // 2


@dataclass(frozen=True)
class Targets:
    """Balanced answers this scene must be able to give, one per kind."""

    region: int
    region_class: int
    color: int
    color_class: int
    unique_color: bool
    counted: int
    count: int
    word: int
    letter: int

    @classmethod
    def of(cls, seed: int, index: int, regions: Sequence[int]) -> Targets:
        """Targets of scene ``index``; its anchor stands in one of ``regions``."""
        return cls(
            region=regions[rotated(seed, 1, len(regions), index)],
            region_class=1 + rotated(seed, 2, N_CLASSES, index),
            color=1 + rotated(seed, 3, len(COLORS), index),
            color_class=1 + rotated(seed, 4, N_CLASSES, index),
            unique_color=rotated(seed, 5, 2, index) == 0,
            counted=1 + rotated(seed, 6, N_CLASSES, index),
            count=1 + rotated(seed, 7, len(COUNTS), index),
            word=rotated(seed, 8, len(WORDS), index),
            letter=rotated(seed, 9, len(LETTERS), index),
        )


@dataclass(frozen=True)
class Scene:
    """A layout; ``image`` renders it."""

    split: str
    seed: int
    index: int
    items: tuple[Item, ...]
    targets: Targets
    form: Form = LLAVA

    @property
    def root(self) -> int:
        """Seed of everything drawn for this scene's set."""
        return root_seed(self.split, self.seed, self.form)

    @property
    def objects(self) -> tuple[Item, ...]:
        return tuple(item for item in self.items if not item.is_sign)

    @property
    def signs(self) -> tuple[Item, ...]:
        return tuple(item for item in self.items if item.is_sign)

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


class _Layout:
    """Rejection sampling of non-overlapping boxes."""

    def __init__(self, split: str, form: Form, draws: Draws, region: int) -> None:
        self.table = sprites(split, None if split == "train" else form.largest)
        self.form, self.draws, self.region = form, draws, region
        self.items: list[Item] = []

    def place(self, label: int, color: int, *, inside: bool = False, tries: int = 40) -> bool:
        """Add an item of ``label`` on a card of ``color`` (0: no card); False when no room is found."""
        draws, side, third, margin = self.draws, self.form.side, self.form.third, self.form.margin
        sprite, flip, sign = draws.choice(self.table[label]), False, label > N_CLASSES
        if sign:
            pad_x, pad_y = max(2, (38 - sprite.w) // 2), max(2, (16 - sprite.h) // 2)
        else:
            pad_x = pad_y = draws.between(3, 4) if color else 0
            flip = draws.chance(50)
        w, h = sprite.w + 2 * pad_x, sprite.h + 2 * pad_y
        for _ in range(tries):
            if inside:
                row, col = divmod(self.region, 3)
                cx = col * third + draws.between(margin, third - margin - 1)
                cy = row * third + draws.between(margin, third - margin - 1)
                x, y = cx - w // 2, cy - h // 2
            else:
                x, y = draws.between(1, side - w - 1), draws.between(1, side - h - 1)
            card = (x, y, x + w, y + h)
            box = (x + pad_x, y + pad_y, x + pad_x + sprite.w, y + pad_y + sprite.h)
            item = Item(label, sprite, flip, color, box, card)
            if self._fits(item, inside):
                self.items.append(item)
                return True
        return False

    def _fits(self, item: Item, inside: bool) -> bool:
        x0, y0, x1, y1 = item.card
        if x0 < 0 or y0 < 0 or max(x1, y1) > self.form.side:
            return False
        cx, cy = item.center
        if not inside and self.form.near_region(cx, cy, self.region, self.form.margin):
            return False
        for other in self.items:
            a0, b0, a1, b1 = other.card
            if x0 < a1 + 3 and a0 < x1 + 3 and y0 < b1 + 3 and b0 < y1 + 3:
                return False
            if other.label == item.label:
                ox, oy = other.center
                if max(abs(ox - cx), abs(oy - cy)) < 32:
                    return False
        return True


def _attempt(split: str, form: Form, draws: Draws, targets: Targets) -> tuple[Item, ...] | None:
    layout = _Layout(split, form, draws, targets.region)
    used = {targets.region_class, targets.color_class, targets.counted}
    card = lambda: draws.between(1, len(COLORS)) if draws.chance(60) else 0  # noqa: E731
    others = [c for c in range(1, len(COLORS) + 1) if c != targets.color]
    spare = lambda: draws.choice(others) if draws.chance(60) else 0  # noqa: E731
    pick = spare if targets.unique_color else card
    ok = layout.place(targets.region_class, pick(), inside=True)
    board = draws.shuffled(range(1, len(COLORS) + 1))
    ok = ok and layout.place(1 + N_CLASSES + targets.word, board[0])
    if draws.chance(50):
        second = (targets.word + draws.between(1, len(WORDS) - 1)) % len(WORDS)
        layout.place(1 + N_CLASSES + second, board[1])
    ok = ok and layout.place(targets.color_class, targets.color)
    ok = ok and all(layout.place(targets.counted, pick()) for _ in range(targets.count))
    if not ok:
        return None
    free = [label for label in range(1, N_CLASSES + 1) if label not in used]
    total = draws.between(*form.objects)
    if draws.chance(50):
        again = free.pop(draws.below(len(free)))
        for _ in range(draws.between(1, len(COUNTS))):
            layout.place(again, pick())
    while free and sum(not item.is_sign for item in layout.items) < total:
        label = free.pop(draws.below(len(free)))
        group = next(g for g in GROUPS if CLASSES[label - 1] in g)
        for name in group:  # look-alikes tend to come together
            if CLASSES.index(name) + 1 in free and draws.chance(25):
                layout.place(CLASSES.index(name) + 1, pick())
                free.remove(CLASSES.index(name) + 1)
        layout.place(label, pick())
    return tuple(layout.items)


def root_seed(split: str, seed: int, form: Form) -> int:
    """Seed of a set of scenes."""
    return SPLIT_SEED[split] + 1000 * seed + form.salt


def asked_regions(split: str, form: Form) -> tuple[int, ...]:
    """Region ids that the balanced questions of a split are about."""
    unasked = frozenset[str]() if split == "train" else form.unasked
    return tuple(number for number, name in enumerate(REGIONS) if name not in unasked)


def make_scene(split: str, index: int, *, seed: int = 0, form: Form = LLAVA) -> Scene:
    """Scene ``index`` of a split; identical for the same arguments on every machine."""
    root = root_seed(split, seed, form)
    targets = Targets.of(root, index, asked_regions(split, form))
    shift = 1
    while targets.color_class == targets.region_class or targets.counted in (targets.color_class, targets.region_class):
        # the three anchors must differ: move two of them along, which keeps their balance on average
        draws = Draws(root, index, 3, shift)
        fields = dict(vars(targets))
        fields["color_class"] = draws.between(1, N_CLASSES)
        fields["counted"] = draws.between(1, N_CLASSES)
        targets, shift = Targets(**fields), shift + 1
    draws = Draws(root, index, 1)
    items = None
    while items is None:
        items = _attempt(split, form, draws, targets)
    return Scene(split, seed, index, items, targets, form)


def render(scene: Scene) -> np.ndarray:
    """Pixels of a scene, uint8 [S, S, 3]."""
    draws = Draws(scene.root, scene.index, 2)
    canvas = background(scene.split, draws, scene.form.side, scene.form.clutter)
    for item in scene.items:
        shade = None
        if item.color:
            jitter = draws.noise(3).astype(np.int32) // 8 - 16
            shade = np.array(COLOR_RGB[item.color - 1], np.int32) + jitter
            x0, y0, x1, y1 = item.card
            canvas[y0:y1, x0:x1] = shade
            if item.is_sign or draws.chance(50):
                edge = shade // 2
                canvas[y0, x0:x1] = canvas[y1 - 1, x0:x1] = canvas[y0:y1, x0] = canvas[y0:y1, x1 - 1] = edge
        rgba = pixels(item.sprite, item.flip)
        if item.is_sign:
            luma = int(shade @ np.array([3, 6, 1]))
            ink = np.full(3, 20 if luma > 1250 else 250, np.int32)
        else:
            gain = draws.noise(3).astype(np.int32) // 4 + 224
            ink = rgba[..., :3] * gain >> 8
        x0, y0, x1, y1 = item.box
        alpha = rgba[..., 3:]
        canvas[y0:y1, x0:x1] = (canvas[y0:y1, x0:x1] * (255 - alpha) + ink * alpha + 127) // 255
    return np.clip(canvas, 0, 255).astype(np.uint8)
