"""Which family a model belongs to. Resolved lazily, by the names of the model's classes."""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from ..errors import UnsupportedModelError
from .base import Family

ENTRY_POINT_GROUP = "gridprune.families"

BUILT_IN: tuple[str, ...] = (
    ".llava:Llava",
    ".llava_next:LlavaNext",
)


@lru_cache(maxsize=1)
def available() -> tuple[type[Family], ...]:
    """All family classes, built in and registered by other packages."""
    targets = [*BUILT_IN, *(entry.value for entry in entry_points(group=ENTRY_POINT_GROUP))]
    families = []
    for target in targets:
        module, _, attribute = target.partition(":")
        families.append(getattr(import_module(module, __package__), attribute))
    return tuple(families)


def find(model: Any) -> Family:
    """The family of a loaded model, bound to it.

    Raises:
        UnsupportedModelError: no family knows the class; the message lists those that are known.
    """
    names = {cls.__name__ for cls in type(model).__mro__}
    for family in available():
        if names & set(family.classes):
            return family(model)
    known = ", ".join(sorted(name for family in available() for name in family.classes))
    raise UnsupportedModelError(
        f"gridprune does not know the model class {type(model).__name__}. Supported classes: {known}. "
        "A new family is one file: a subclass of gridprune.families.Family that finds the pictures in a call, runs the "
        "model's encoder, gives a TokenMap and hands shortened features back (entry-point group 'gridprune.families')."
    )
