"""The map of one answer as data for an inline SVG: kept patches, zones, heat maps, and what each patch says.

Coordinates are whole numbers on an image that is 1000 wide. Of images in several planes (anyres tiles over an
overview) the finest one is drawn and pointed at; kept patches of all planes are clear.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from ..report.report import Report
from .engine import Seen

WIDTH = 1000
_LEVELS = 16
_RAMP = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))  # viridis, dark to light


@dataclass(frozen=True)
class Heat:
    """Patches of one colour, as an SVG path."""

    color: str
    path: str


@dataclass(frozen=True)
class Zone:
    """A zone's box and budget; `color` grows with the share of its patches that is kept."""

    x: int
    y: int
    width: int
    height: int
    budget: int
    color: str
    dark: bool


@dataclass(frozen=True)
class Map:
    """Everything the template draws for one answer."""

    height: int
    kept: str
    zones: Sequence[Zone]
    relevance: Sequence[Heat]
    saliency: Sequence[Heat]
    score: Sequence[Heat]
    patches: str
    count: str
    label: str


def build(report: Report, seen: Seen) -> Map:
    """The map of what one method kept; `report` is that of the image, or of the whole video of a frame."""
    token_map = seen.token_map
    height = height_of(seen.image)
    boxes = (token_map.boxes.double() * torch.tensor([WIDTH, height, WIDTH, height], device="cpu")).round().long()
    shown = token_map.frame == seen.frame
    finest = token_map.plane == int(token_map.plane.max())
    drawn = (finest & shown).nonzero()[:, 0]
    kept = torch.zeros_like(token_map.separator).index_fill_(0, report.kept_indices, True) & shown
    count, of = int(kept.sum()), int(shown.sum())
    zones = _zones(report, boxes, drawn)
    return Map(
        height=height,
        kept=_path(boxes[kept]),
        zones=zones,
        relevance=_heat(seen.relevance, boxes, drawn, finest),
        saliency=_heat(seen.saliency, boxes, drawn, finest),
        score=_heat(report.scores, boxes, drawn, finest),
        patches=json.dumps(_patches(report, seen, boxes, drawn, kept), separators=(",", ":")),
        count=f"{count:,} of {of:,} kept",
        label=f"{count} of {of} patches kept by {report.method}. Arrow keys read patch by patch.",
    )


def as_data_uri(image: Image) -> str:
    """The image as a PNG inside a URI."""
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def height_of(image: Image) -> int:
    """Of the image, drawn 1000 wide."""
    return round(WIDTH * image.height / image.width)


def color(share: float) -> str:
    """A colour of the ramp; `share` in [0, 1]."""
    place = min(max(share, 0.0), 1.0) * (len(_RAMP) - 1)
    low = min(int(place), len(_RAMP) - 2)
    mixed = (round(a + (b - a) * (place - low)) for a, b in zip(_RAMP[low], _RAMP[low + 1]))
    return "#" + "".join(f"{channel:02x}" for channel in mixed)


def ramp() -> str:
    """The ramp as CSS, for the legend."""
    return ", ".join(color(step / 4) for step in range(5))


def _path(boxes: Tensor) -> str:
    return "".join(f"M{x} {y}H{X}V{Y}H{x}z" for x, y, X, Y in boxes.tolist())


def _heat(values: Tensor | None, boxes: Tensor, drawn: Tensor, finest: Tensor) -> list[Heat]:
    """One path per colour, from the lowest to the highest value on the image, or on all frames of the video."""
    if values is None:
        return []
    shown = values[drawn].float()
    low, high = values[finest].float().aminmax()
    level = ((shown - low) / (high - low).clamp(min=1e-12) * (_LEVELS - 1)).round().long()
    own = boxes[drawn]
    used = [number for number in range(_LEVELS) if bool((level == number).any())]
    return [Heat(color(number / (_LEVELS - 1)), _path(own[level == number])) for number in used]


def _zones(report: Report, boxes: Tensor, drawn: Tensor) -> list[Zone]:
    if report.zones is None or report.zone_budgets is None:
        return []
    index, own = report.zones.index[drawn], boxes[drawn]
    shape = (report.zones.count, 2)
    spread = index[:, None].expand(-1, 2)
    low = torch.full(shape, WIDTH * 100, device="cpu").scatter_reduce(0, spread, own[:, :2], "amin")
    high = torch.zeros(shape, dtype=torch.int64, device="cpu").scatter_reduce(0, spread, own[:, 2:], "amax")
    found = []
    for number in torch.unique(index).tolist():  # type: ignore[no-untyped-call]
        (x, y), (right, bottom) = low[number].tolist(), high[number].tolist()
        budget, size = int(report.zone_budgets[number]), report.zones.sizes[number]
        share = budget / size
        found.append(Zone(x, y, right - x, bottom - y, budget, color(share), share < 0.6))
    return found


def _patches(report: Report, seen: Seen, boxes: Tensor, drawn: Tensor, kept: Tensor) -> dict[str, Any]:
    """What the page says of a patch, as columns over the patches that are drawn."""
    token_map = seen.token_map
    columns: dict[str, Any] = {
        "box": boxes[drawn].tolist(),
        "row": token_map.row[drawn].tolist(),
        "column": token_map.column[drawn].tolist(),
        "kept": kept[drawn].int().tolist(),
    }
    for name, values in (("relevance", seen.relevance), ("saliency", seen.saliency), ("score", report.scores)):
        if values is not None:
            columns[name] = [float(f"{value:.3g}") for value in values[drawn].tolist()]
    if report.zones is not None and report.zone_budgets is not None:
        columns["zone"] = report.zones.index[drawn].tolist()
        columns["budget"] = report.zone_budgets.tolist()
        columns["size"] = list(report.zones.sizes)
    return columns
