"""Image downsampling: give the model a smaller image instead of fewer tokens of a large one."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

from ..core.token_map import TokenMap
from ..errors import BudgetError
from .base import Cues, Method, Selection, Stage
from .ops.cells import cell_centres


@dataclass(frozen=True, kw_only=True)
class Downsample(Method):
    """The image is resized before the vision tower so that it yields exactly k tokens natively.

    The control that many published pruners fail to beat on dynamic-resolution models (VTC-Bench,
    https://arxiv.org/abs/2510.07143). The tower's position embeddings are interpolated, as transformers does it.
    Families that cannot encode a smaller image refuse this method.

    Published and this class: papers resize to a factor and let the processor round; here the grid has k tokens exactly.
    """

    name: ClassVar[str] = "downsample"
    paper: ClassVar[str] = "https://arxiv.org/abs/2510.07143"
    stage: ClassVar[Stage] = "pixels"
    cost: ClassVar[str] = "less than none: the tower sees fewer patches"

    @staticmethod
    def target_grid(rows: int, columns: int, k: int) -> tuple[int, int]:
        """The grid r x c with r * c = k whose aspect ratio is nearest to rows / columns and that fits inside it.

        Raises:
            BudgetError: no such grid; the message names the nearest counts that have one.
        """
        pairs = _grids(rows, columns, k)
        if not pairs:
            fitting = [n for n in range(1, rows * columns + 1) if _grids(rows, columns, n)]
            near = [max((n for n in fitting if n < k), default=None), min((n for n in fitting if n > k), default=None)]
            raise BudgetError(
                f"An image of {rows} x {columns} visual tokens cannot be downsampled to exactly {k}: no smaller grid "
                f"has that many. Nearest counts that work: {' and '.join(str(n) for n in near if n is not None)}."
            )
        wanted = Fraction(rows, columns)
        return min(pairs, key=lambda rc: (max(Fraction(*rc) / wanted, wanted / Fraction(*rc)), rc))

    def select(self, cues: Cues, token_map: TokenMap, k: int) -> Selection:
        """Where the k tokens of the small image stand for those of the full map: the centres of k equal cells."""
        zones = token_map.cells(k)
        indices = cell_centres(token_map, zones.index, zones.size).to(cues.device)
        return Selection(indices.expand(cues.batch, k))


def _grids(rows: int, columns: int, k: int) -> list[tuple[int, int]]:
    """Every r x c = k that fits into rows x columns."""
    return [(r, k // r) for r in range(1, min(rows, k) + 1) if k % r == 0 and k // r <= columns]
