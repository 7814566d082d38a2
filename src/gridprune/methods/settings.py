"""Settings that know their range: a dataclass field each, checked when a method is made."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import field
from typing import Any, TypeVar

T = TypeVar("T")


def setting(default: T, ok: Callable[[Any], bool], expected: str) -> T:
    """A field whose value must be `ok`, which `expected` says in words."""
    return field(default=default, metadata={"ok": ok, "expected": expected})  # type: ignore[return-value]


def whole(default: int, least: int = 1) -> int:
    """A count."""
    return setting(default, lambda v: is_whole(v) and v >= least, f"a whole number of at least {least}")


def number(default: float, least: float = 0) -> float:
    """A finite number."""
    return setting(default, lambda v: math.isfinite(v) and v >= least, f"a number of at least {least:g}")


def positive(default: float) -> float:
    """A finite number above 0."""
    return setting(default, lambda v: math.isfinite(v) and v > 0, "a positive number")


def share(default: float) -> float:
    """A number in [0, 1]."""
    return setting(default, lambda v: 0 <= v <= 1, "between 0 and 1")


def part(default: float) -> float:
    """A number in (0, 1]."""
    return setting(default, lambda v: 0 < v <= 1, "above 0 and at most 1")


def one_of(default: T, *others: T) -> T:
    """One of a few words."""
    words = (default, *others)
    return setting(default, lambda v: v in words, " or ".join(map(repr, words)))


def is_whole(value: Any) -> bool:
    """Whether it is an integer, and not True or False."""
    return isinstance(value, int) and not isinstance(value, bool)
