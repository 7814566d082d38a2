"""`--model_args` as lmms-eval hands them over: strings, numbers and booleans that must become a method and a range."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..core.budget import Budget
from ..errors import SettingError
from ..eval.downsample import Downsample
from ..eval.entries import parse as parse_entry
from ..methods.base import Method
from ..methods.registry import normal
from ..methods.spec import parse

ALL = "all"


def build_method(method: str, keep: str | int | float, settings: Mapping[str, Any]) -> Method | None:
    """The method, or None for `keep=all`.

    Args:
        method: in the notation of :mod:`gridprune.methods.spec`; lmms-eval cuts its arguments at commas, so that one
            setting at most can stand in the parentheses.
        settings: further ones.

    Raises:
        UnknownNameError: no such method, or one that exists in runs of `gridprune eval` only.
        SettingError: a setting that the method does not have.
        BudgetError: not a budget.
    """
    spec = parse_entry(str(method)) if normal(str(method)) == Downsample.name else parse(str(method))
    if str(keep).strip().lower() == ALL:
        if settings:
            raise SettingError(f"keep=all prunes nothing, so {', '.join(settings)} would have no effect; leave it out.")
        return None
    return spec.with_settings(settings).method(keep)


def whole_number(name: str, value: int | str) -> int:
    """A positive integer.

    Raises:
        SettingError: it is none, such as lmms-eval's "auto".
    """
    if not str(value).isdigit() or int(value) < 1:
        raise SettingError(f"{name} must be a positive whole number, got {value!r}.")
    return int(value)


def set_pixel_range(processor: Any, fewest: int | None, most: int | None) -> None:
    """Let the image processor scale images to between `fewest` and `most` pixels; None leaves its own.

    Raises:
        SettingError: it does not choose sizes from such a range.
    """
    if fewest is None and most is None:
        return
    size = processor.image_processor.size
    if not _is_range(size):
        raise SettingError(
            "min_pixels and max_pixels need a processor that scales images into a range of pixels, such as that of "
            "Qwen-VL. For other checkpoints give resize=WIDTHxHEIGHT."
        )
    new = {"shortest_edge": fewest or size["shortest_edge"], "longest_edge": most or size["longest_edge"]}
    processor.image_processor.size = type(size)(**new)


def pixels_of_a_token(processor: Any) -> int | None:
    """How many pixels become one visual token, for processors that scale images into a range of pixels; else None."""
    found = processor.image_processor
    side = getattr(found, "patch_size", None)
    return (side * getattr(found, "merge_size", 1)) ** 2 if isinstance(side, int) and _is_range(found.size) else None


def shrunk(image: Any, *, budget: Budget, per_token: int) -> Any:
    """The image in its own shape with as many pixels as the budget's tokens have; never enlarged.

    Args:
        image: a PIL image.
        budget: a count of tokens, or a share of the image's own.
        per_token: pixels of a token.
    """
    width, height = image.size
    share = budget.share if budget.count is None else budget.count * per_token / (width * height)
    scale = math.sqrt(min(1, share or 1))
    return image.resize((max(1, round(width * scale)), max(1, round(height * scale))))


def _is_range(size: Any) -> bool:
    return all(size.get(edge) is not None for edge in ("shortest_edge", "longest_edge"))
