"""The whole explanation in one figure: kept patches, zone budgets, relevance and saliency."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..core.reading import read
from ..files import written
from . import frames as sheet
from .overlay import enlarge, overlay

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .report import Report


def save_figure(report: Report, path: Path, image: Image.Image) -> Path:
    """Write :func:`draw`'s figure to `path` (PNG, SVG, PDF by its ending)."""
    with written(path) as partial:
        draw(report, image).savefig(partial)
    return path


def draw(report: Report, image: Image.Image) -> Figure:
    """The panels that the method's cues allow, in one figure."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels: list[tuple[str, np.ndarray | Image.Image, bool]] = [
        (f"{report.kept} of {report.total} visual tokens kept", overlay(report, image), False)
    ]
    if report.zones is not None and report.zone_budgets is not None:
        per_token = report.zone_budgets.float()[report.zones.index]
        panels.append(("tokens per zone", as_map(report, per_token), True))
    if report.relevance is not None:
        how = {"plus": "", "minus": ", sign reversed", "both": ", both tails", "agree": ", as saliency"}[report.reading]
        read_so = read(report.relevance, report.reading, report.saliency)
        panels.append((f"relevance{how}", as_map(report, read_so), True))
    if report.saliency is not None:
        panels.append(("saliency", as_map(report, report.saliency), True))
    figure = Figure(figsize=(4.2 * len(panels), 4.8), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    title = f"{report.method}: “{report.question}”" if report.question else report.method
    figure.suptitle(title, parse_math=False, wrap=True)  # dollars in a question are dollars
    for axis, (title, content, is_map) in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels):
        _draw(axis, figure, title, content, is_map, image)
    return figure


def as_map(report: Report, values: Tensor) -> np.ndarray:
    """(rows, columns) of the finest plane from one value per candidate; NaN where no token lies.

    A video's frames lie as on its sheet.
    """
    candidates = report.token_map.candidates
    member = candidates.plane == int(candidates.plane.max())
    frame, row, column = candidates.frame[member], candidates.row[member], candidates.column[member]
    down, across = sheet.shape(sheet.frame_count(report.token_map))
    rows, columns = int(row.max()) + 1, int(column.max()) + 1
    out = torch.full((down * rows, across * columns), float("nan"), dtype=torch.float32, device="cpu")
    out[frame // across * rows + row, frame % across * columns + column] = values.float()[member]
    return out.numpy()


def _draw(axis: Any, figure: Any, title: str, content: Any, is_map: bool, image: Image.Image) -> None:
    axis.set_title(title)
    axis.set_axis_off()
    if not is_map:
        axis.imshow(content)
        return
    large = enlarge(image)
    extent = (0, large.width, large.height, 0)
    axis.imshow(large.convert("L"), cmap="gray", extent=extent)
    drawn = axis.imshow(content, cmap="viridis", alpha=0.72, extent=extent, interpolation="nearest")
    figure.colorbar(drawn, ax=axis, fraction=0.046, pad=0.02)
