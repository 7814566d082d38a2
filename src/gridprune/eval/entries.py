"""What a run compares: methods in the notation of :mod:`gridprune.methods.spec`, and those that exist in runs only."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any

from ..errors import SettingError
from ..methods import registry, spec
from ..methods.base import Method
from ..methods.spec import MethodSpec
from . import ablations

FULL = "full"
QUICK = ("random", "uniform", "fastervlm", "relevance", "gridprune", "oracle")
FIRST = ("random", "uniform", "pooling", "fastervlm", "relevance", "gridprune-literal", "gridprune", "oracle")


def parse(text: str) -> MethodSpec:
    """Read one method, or one that exists in runs only; see :func:`gridprune.methods.spec.parse`."""
    return spec.parse(text, extra=ablations.BENCH_ONLY)


def plain(entry: MethodSpec) -> dict[str, Any]:
    """All settings, defaults included, as plain values for config.json."""
    return {key: _plain(value) for key, value in entry.method("50%").explain().items() if key != "keep"}


def parse_list(text: str) -> list[MethodSpec]:
    """Read a comma-separated list; ``all`` stands for every method that a run on single images can compare.

    Raises:
        SettingError: an entry is given twice, or none is given.
    """
    entries: list[MethodSpec] = []
    for part in spec.split(text):
        entries.extend(everything() if part == "all" else [parse(part)])
    labels = [entry.label for entry in entries]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise SettingError(f"These methods are listed twice: {', '.join(twice)}. Name each once.")
    if not entries:
        raise SettingError(
            "No method was given. Write names, with settings in parentheses if you like: random,gridprune(zone=3). "
            "`gridprune methods` lists the names; 'all' takes all of them."
        )
    return entries


def everything() -> list[MethodSpec]:
    """Every registered method for single images that acts before the language model, the control, and the oracle."""
    found = []
    for name in registry.available():
        kind = registry.get(name)
        if kind.stage != "in-llm" and kind.min_frames == 1 and name != "keep-all" and not _needs_base(kind):
            found.append(parse(name))
    return [*found, parse("downsample"), parse("oracle")]


def _needs_base(kind: type[Method]) -> bool:
    """Whether the class is of no use without another method to hold."""
    return any(f.name != "keep" and f.default is MISSING and f.default_factory is MISSING for f in fields(kind))


def _plain(value: Any) -> Any:
    if isinstance(value, (str, int, float, bool, type(None))):
        return value
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items() if key != "keep"}
    if isinstance(value, Method):
        return {"name": value.name} | _plain(value.explain())
    return str(value)


def check(entries: list[MethodSpec]) -> None:
    """Refuse what a run on single images cannot compare.

    Raises:
        GridPruneError: the message names the entry and the reason.
    """
    for entry in entries:
        method = entry.method("50%")
        if method.stage == "in-llm":
            raise SettingError(
                f"{entry.label} prunes inside the language model. Its cost is not a number of visual tokens before it, "
                "so `gridprune eval` does not list it beside methods with the same --keep."
            )
        if method.min_frames > 1:
            raise SettingError(f"{entry.label} compares frames of a video; `gridprune eval` asks about single images.")
