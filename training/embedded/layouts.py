"""Where things lie: photos of objects and signs, and pages of text. Every patch belongs to at most one item."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from gridprune.tiny.draws import Draws

from .bitmaps import LOOKS, drawing, drawings, fonts, word
from .scenes import PATCH, Box, Form, Item, Targets
from .vocabulary import COLOR_RGB, COLORS, N_CLASSES, WORDS

DARK, LIGHT = (20, 20, 20), (250, 250, 250)
NOWHERE: Box = (0, 0, 0, 0)
SPOT = 11  # pixels of a side of the small spot on a large object
Ink = tuple[int, int, int]


class _Floor:
    """Which patches are taken, a row of bits per row of patches."""

    def __init__(self, side: int) -> None:
        self.side, self.rows = side, [0] * (side // PATCH)

    def fits(self, box: Box) -> bool:
        x0, y0, x1, y1 = box
        if x0 < 0 or y0 < 0 or x1 > self.side or y1 > self.side:
            return False
        bits = (1 << (x1 - 1) // PATCH + 1) - (1 << x0 // PATCH)
        return not any(row & bits for row in self.rows[y0 // PATCH : (y1 - 1) // PATCH + 1])

    def take(self, box: Box) -> None:
        x0, y0 = max(0, box[0]), max(0, box[1])
        x1, y1 = min(self.side, box[2]), min(self.side, box[3])
        bits = (1 << (x1 - 1) // PATCH + 1) - (1 << x0 // PATCH)
        for row in range(y0 // PATCH, (y1 - 1) // PATCH + 1):
            self.rows[row] |= bits


@dataclass(frozen=True)
class _Where:
    """In a region, or far from another item; after so many tries there is no room."""

    region: int | None = None
    far: Item | None = None
    tries: int = 24

    def too_near(self, x: int, y: int, distance: int) -> bool:
        """Whether a point lies near what the item has to be far from."""
        if self.far is None:
            return False
        return max(abs(x - self.far.center[0]), abs(y - self.far.center[1])) < distance


class _Photo:
    """Rejection sampling of items on free patches."""

    def __init__(self, split: str, form: Form, draws: Draws) -> None:
        self.split, self.form, self.draws, self.look = split, form, draws, LOOKS[split]
        self.floor, self.items = _Floor(form.side), list[Item]()

    def size(self, low: int, high: int) -> int:
        """A size of this split within bounds."""
        return self.draws.choice([size for size in self.look.sizes if low <= size <= high])

    def place(self, label: int, size: int, color: int = 0, where: _Where | None = None, *, dot: int = 0) -> Item | None:
        """Add an object on a card of ``color`` (0: none), with a spot (0: none); None: there is no room."""
        draws = self.draws
        bitmap = drawing(draws.choice(drawings(label)), size, draws.choice(self.look.slants), draws.chance(50))
        pad = draws.between(3, 5) if color else 0
        return self._put(Item(label, bitmap, NOWHERE, NOWHERE, color), (pad, pad), where or _Where(), dot)

    def sign(self, number: int, height: int, color: int) -> Item | None:
        """Add a board of ``color`` with word ``number``."""
        draws = self.draws
        luma = sum(part * weight for part, weight in zip(COLOR_RGB[color - 1], (3, 6, 1)))
        bitmap = word(WORDS[number], draws.choice(fonts(self.split)), height, DARK if luma > 1250 else LIGHT)
        pads = (draws.between(3, 6), draws.between(3, 5))
        return self._put(Item(1 + N_CLASSES + number, bitmap, NOWHERE, NOWHERE, color), pads, _Where(tries=40))

    def _put(self, item: Item, pads: tuple[int, int], where: _Where, dot: int = 0) -> Item | None:
        """The item at a free place, ``pads`` pixels of card around its ink."""
        draws, side, margin, region = self.draws, self.form.side, self.form.margin, where.region
        w, h = item.bitmap.w + 2 * pads[0], item.bitmap.h + 2 * pads[1]
        if w >= side or h >= side:
            return None
        for _ in range(where.tries):
            if region is None:
                x, y = draws.below(side - w), draws.below(side - h)
            else:
                x0, y0, x1, y1 = self.form.region_box(region, -margin)
                x, y = draws.between(x0, x1 - 1) - w // 2, draws.between(y0, y1 - 1) - h // 2
            card = (x, y, x + w, y + h)
            if not self.floor.fits(card) or where.too_near(x + w // 2, y + h // 2, side * 2 // 5):
                continue
            box = (x + pads[0], y + pads[1], x + w - pads[0], y + h - pads[1])
            placed = replace(item, box=box, card=card, dot=(dot, self._spot(box)) if dot else None)
            if region is not None and self.form.region_of(*placed.center) != region:
                continue
            self.floor.take(card)
            self.items.append(placed)
            return placed
        return None

    def _spot(self, box: Box) -> Box:
        """A place near the middle of an object."""
        x = (box[0] + box[2] - SPOT) // 2 + self.draws.between(-6, 6)
        y = (box[1] + box[3] - SPOT) // 2 + self.draws.between(-6, 6)
        return x, y, x + SPOT, y + SPOT


def _attempt(split: str, form: Form, draws: Draws, t: Targets) -> tuple[Item, ...] | None:
    photo, scale = _Photo(split, form, draws), form.scale
    other = draws.shuffled([color for color in range(1, 1 + len(COLORS)) if color != t.color])
    if not photo.place(t.anchor, photo.size(18, 48), other[2] if draws.chance(50) else 0, _Where(t.region)):
        return None
    photo.floor.take(form.region_box(t.region, form.margin))  # nothing else comes near the asked region
    host = photo.place(t.host, photo.size(40, 60), other[0], dot=t.dot)
    if not host:
        return None
    mate = photo.size(14, host.longest * 2 // 3)  # clearly smaller
    if not photo.place(t.mate, mate, other[0 if t.same else 1], _Where(far=host, tries=60)):
        return None
    if not photo.sign(t.words[0], draws.between(10, 18), other[4]):
        return None
    if not photo.place(t.colored, photo.size(18, 48), t.color, _Where(tries=40)):
        return None
    rival = draws.choice([n for n in (1, 1, 2, 2, 3, 4, 5, 6) if n != t.count])
    largest = 22 if t.count + rival > 7 else 36
    for label, number in ((t.counted, t.count), (t.rival, rival)):
        size, color = photo.size(15, largest), other[3] if draws.chance(20) else 0
        for _ in range(number):
            if not photo.place(label, size, color, _Where(tries=60)):
                return None
            if draws.chance(20):
                size = photo.size(15, largest)
    if draws.chance(40):
        photo.sign(t.words[1], draws.between(9, 14), other[5])
    used = {t.anchor, t.host, t.mate, t.colored, t.counted, t.rival}
    free = draws.shuffled([label for label in range(1, 1 + N_CLASSES) if label not in used])
    for label in free[: draws.below(5 * scale)]:
        photo.place(label, photo.size(14, 36), other[6] if draws.chance(30) else 0, _Where(tries=8))
    return tuple(photo.items)


def photo(split: str, form: Form, draws: Draws, targets: Targets) -> tuple[Item, ...]:
    """Objects and signs that make the balanced questions answerable."""
    items = None
    while items is None:
        items = _attempt(split, form, draws, targets)
    return items


def page(split: str, form: Form, draws: Draws, t: Targets) -> tuple[tuple[Item, ...], Ink]:
    """Title and lines of words, no word twice; and the colour of the paper."""
    tint = tuple(draws.between(215, 255) for _ in range(3))
    paper, ink = (tint, DARK) if draws.chance(75) else (tuple(value - 200 for value in tint), LIGHT)
    font, height = draws.choice(fonts(split)), draws.between(8, 10 if t.lines < 7 else 9)
    left, gap, top = draws.between(4, 10), draws.between(6, 9), draws.between(14, 16)
    lines = None
    while lines is None:
        lines = _lines(draws, t, font, height, gap, form.side - left - 3)
    room = (form.side - top - 16) // t.lines
    pitch = draws.between(min(height + 5, room), min(room, 24))
    y = draws.between(4, 7)
    items = [_written(t.words[-1], draws.choice(fonts(split)), top, ink, draws.between(6, 40), y, 0, 0)]
    y += top + 8
    for line, numbers in enumerate(lines, start=1):
        x = left
        for slot, number in enumerate(numbers):
            items.append(_written(number, font, height, ink, x, y, line, slot))
            x = items[-1].box[2] + gap
        y += pitch
    return tuple(items), paper  # type: ignore[return-value]


def _lines(draws: Draws, t: Targets, font: int, height: int, gap: int, room: int) -> list[list[int]] | None:
    """Words of every line, two to five that fit; None where a target fits nowhere.

    The targets stand in random places, the second one with a word on its left.
    """

    def width(numbers: Sequence[int]) -> int:
        return sum(word(WORDS[n], font, height, DARK).w + gap for n in numbers) - gap

    free = draws.shuffled([n for n in range(len(WORDS)) if n not in t.words])
    lines: list[list[int]] = []
    for _ in range(t.lines):
        line = [free.pop(), free.pop()]
        while len(line) < 5 and free and width([*line, free[-1]]) <= room:
            line.append(free.pop())
        lines.append(line)
    places = draws.shuffled([(i, j) for i, line in enumerate(lines) for j in range(len(line))])
    for number, lowest in zip(t.words[:3], (0, 1, 0)):
        for i, j in places:
            changed = [*lines[i][:j], number, *lines[i][j + 1 :]]
            if j >= lowest and width(changed) <= room:
                lines[i] = changed
                places.remove((i, j))
                break
        else:
            return None
    return lines


def _written(number: int, font: int, height: int, ink: Ink, x: int, y: int, line: int, slot: int) -> Item:
    bitmap = word(WORDS[number], font, height, ink)
    box = (x, y, x + bitmap.w, y + bitmap.h)
    return Item(1 + N_CLASSES + number, bitmap, box, box, line=line, slot=slot)
