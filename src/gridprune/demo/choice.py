"""What a visitor chose: how many tokens, by which method, with which settings, and what to compare with."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from ..methods import get
from ..methods.base import Method
from ..methods.spec import parse

GRIDPRUNE, LITERAL = "gridprune", "gridprune-literal"
KNOBS = ("zone", "temperature", "alpha")  # of GridPrune; the rest of its fields follow from the preset


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Attributes:
    keep: k, visual tokens to keep.
    method: name of the method.
    knobs: settings of the method that differ from its defaults, as pairs of name and value.
    compare: name of a second method, or "".
    """

    keep: int
    method: str = GRIDPRUNE
    knobs: tuple[tuple[str, Any], ...] = ()
    compare: str = ""

    @property
    def spec(self) -> str:
        """The method with its settings, as `gridprune ask --method` takes it."""
        return parse(self.method).with_settings(dict(self.knobs)).label

    def methods(self, total: int) -> list[Method]:
        """The methods to run, one or two, on images that have at least `total` visual tokens each."""
        keep = max(1, min(self.keep, total))
        chosen = [parse(self.method).with_settings(dict(self.knobs)).method(keep)]
        return [*chosen, parse(self.compare).method(keep)] if self.compare else chosen


def preset(literal: bool) -> dict[str, Any]:
    """The knobs of GridPrune as recommended, or as printed in the paper."""
    return {name: value for name, value in _defaults(LITERAL if literal else GRIDPRUNE).items() if name in KNOBS}


def chosen(keep: int, method: str, compare: str, literal: bool, **knobs: Any) -> Choice:
    """A choice from the page's controls; knobs count for GridPrune only, and only those that were turned."""
    if method != GRIDPRUNE:
        return Choice(keep=keep, method=method, compare=compare)
    usual = preset(literal)
    turned = tuple((name, knobs[name]) for name in KNOBS if knobs[name] != usual[name])
    return Choice(keep=keep, method=LITERAL if literal else GRIDPRUNE, knobs=turned, compare=compare)


def _defaults(name: str) -> dict[str, Any]:
    return {field.name: field.default for field in fields(get(name))}
