"""The two forms of the embedded model's images: one view for LLaVA, overview and 2x2 tiles for LLaVA-NeXT."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

VIEW, PATCH = 192, 8  # pixels of a side: what the tower takes, and one of its patches
GRID = VIEW // PATCH


@dataclass(frozen=True)
class Form:
    """How large scenes are and how they are filled.

    Attributes:
        side: pixels of a side of the image.
        objects: fewest and most objects aimed at.
        clutter: fewest and most shapes in the background.
        margin: pixels between an object's centre and the borders of the region a question names.
        relation_margin: pixels between two centres along the axis that a relation names.
        salt: added to the seeds, so that forms share no scenes.
        asks_places: whether there are questions about where things are in the image.
        largest: pixels of the longer side of an object in held-out scenes; None: all that the sheet holds.
        unasked: regions that balanced questions of held-out scenes leave out; training asks about all.
    """

    name: str
    side: int
    objects: tuple[int, int]
    clutter: tuple[int, int]
    margin: int
    relation_margin: int
    salt: int
    asks_places: bool = True
    largest: int | None = None
    unasked: frozenset[str] = frozenset()

    @property
    def tiles(self) -> int:
        """Tiles along a side of the mosaic; 0: the image is a single view."""
        return 0 if self.side == VIEW else self.side // VIEW

    @property
    def third(self) -> int:
        return self.side // 3

    def region_of(self, x: int, y: int, margin: int = 0) -> int | None:
        """Region id of a point, or None within ``margin`` pixels of a dividing line."""
        for value in (x, y):
            if min(abs(value - self.third), abs(value - 2 * self.third)) < margin:
                return None
        return 3 * (y // self.third) + x // self.third

    def near_region(self, x: int, y: int, region: int, margin: int) -> bool:
        """Whether a point lies in the region grown by ``margin`` pixels."""
        third, (row, col) = self.third, divmod(region, 3)
        return (
            col * third - margin <= x < (col + 1) * third + margin
            and row * third - margin <= y < (row + 1) * third + margin
        )


#: The packaged model mistakes "left" and "right" for the corners of that side half of the time (see LAB.md).
LLAVA = Form(
    "llava", VIEW, (6, 12), (2, 9), margin=8, relation_margin=24, salt=0, largest=15,
    unasked=frozenset({"left", "right"}),
)  # fmt: skip
#: Objects as large as in the other form, so half as large in the overview: detail is in the tiles.
NEXT = Form("next", 2 * VIEW, (8, 14), (8, 28), margin=16, relation_margin=48, salt=500, asks_places=False)
FORMS: Mapping[str, Form] = {form.name: form for form in (LLAVA, NEXT)}
