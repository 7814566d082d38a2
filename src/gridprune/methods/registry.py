"""Names of methods, resolved lazily. Another package adds its own through the entry-point group `gridprune.methods`:

[project.entry-points."gridprune.methods"]
mymethod = "mypackage.mymethod:MyMethod"
"""

from __future__ import annotations

import difflib
from functools import lru_cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from ..errors import SettingError, UnknownNameError
from .base import Method

ENTRY_POINT_GROUP = "gridprune.methods"

# name -> "module:Class", relative to this package
BUILT_IN: dict[str, str] = {
    "gridprune": ".gridprune:GridPrune",
    "gridprune-literal": ".gridprune:LiteralGridPrune",
    "keep-all": ".keep_all:KeepAll",
    "random": ".random:Random",
    "uniform": ".uniform:Uniform",
    "pooling": ".pooling:Pooling",
    "downsample": ".downsample:Downsample",
    "fastervlm": ".fastervlm:FasterVLM",
    "relevance": ".relevance:Relevance",
}


@lru_cache(maxsize=1)
def _targets() -> dict[str, str]:
    targets = dict(BUILT_IN)
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        if entry.name in targets:
            raise SettingError(
                f"Two methods are called {entry.name!r}: {targets[entry.name]} and {entry.value}. Rename one of them."
            )
        targets[entry.name] = entry.value
    return targets


def available() -> list[str]:
    """Names of all methods, built in and registered by other packages, sorted."""
    return sorted(_targets())


def get(name: str) -> type[Method]:
    """The method class called `name`.

    Raises:
        UnknownNameError: no such method; the message lists close matches and all names.
    """
    targets = _targets()
    key = name.strip().lower().replace("_", "-")
    if key not in targets:
        close = difflib.get_close_matches(key, targets, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise UnknownNameError(
            f"There is no method called {name!r}.{hint} Known methods: {', '.join(sorted(targets))}."
        )
    module, _, attribute = targets[key].partition(":")
    return getattr(import_module(module, __package__), attribute)  # type: ignore[no-any-return]


def create(name: str, **settings: Any) -> Method:
    """Build the method called `name`; wrong settings raise a :class:`SettingError` that lists the right ones."""
    method = get(name)
    try:
        return method(**settings)
    except TypeError as error:
        known = ", ".join(getattr(method, "__dataclass_fields__", {}))
        raise SettingError(f"{name} does not take these settings ({error}). It has: {known}.") from None
