"""Image downsampling: give the model a smaller picture instead of fewer tokens of a large one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..token_map import TokenMap
from .base import Cues, Method, Selection, Stage
from .uniform import cell_centres


@dataclass(frozen=True, kw_only=True)
class Downsample(Method):
    """The picture is resized before the vision tower so that it yields exactly k tokens natively.

    The control that many published pruners fail to beat on dynamic-resolution models (VTC-Bench,
    https://arxiv.org/abs/2510.07143). The tower's position embeddings are interpolated, as transformers does it.
    Families that cannot encode a smaller picture refuse this method.
    """

    name: ClassVar[str] = "downsample"
    paper: ClassVar[str] = "https://arxiv.org/abs/2510.07143"
    stage: ClassVar[Stage] = "pixels"
    cost: ClassVar[str] = "less than none: the tower sees fewer patches"

    @staticmethod
    def target_grid(rows: int, columns: int, k: int) -> tuple[int, int]:
        """The grid r x c with r * c = k whose aspect ratio is nearest to rows / columns and that fits inside it."""
        pairs = [(r, k // r) for r in range(1, k + 1) if k % r == 0 and r <= rows and k // r <= columns]
        return min(pairs, key=lambda rc: (abs(_log_ratio(rc, (rows, columns))), rc)) if pairs else (0, 0)

    def select(self, cues: Cues, token_map: TokenMap, k: int) -> Selection:
        """Where the k tokens of the small picture stand for those of the full map: the centres of k equal cells."""
        zones = token_map.cells(k)
        indices = cell_centres(token_map, zones.index, zones.size).to(cues.device)
        return Selection(indices.expand(cues.batch, k))


def _log_ratio(a: tuple[int, int], b: tuple[int, int]) -> float:
    return (a[0] * b[1]) / (a[1] * b[0]) - 1.0 if a[0] * b[1] >= a[1] * b[0] else (a[1] * b[0]) / (a[0] * b[1]) - 1.0
