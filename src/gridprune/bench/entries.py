"""What is compared: method strings such as ``gridprune(zone=3, temperature=0.02)``, read safely, built per budget.

An entry is a method's name, optionally with settings in parentheses. Values are Python literals or, for what holds a
method, another entry: ``global-topk(gridprune(temperature=0.02))``.
"""

from __future__ import annotations

import ast
import re
from dataclasses import MISSING, dataclass, fields
from typing import Any

from ..budget import Budget, Keep
from ..errors import GridPruneError, SettingError, UnknownNameError
from ..methods import registry
from ..methods.base import Method
from . import ablations

FULL = "full"
QUICK = ("random", "uniform", "fastervlm", "relevance", "gridprune", "oracle")
FIRST = (
    "random", "uniform", "pooling", "downsample", "fastervlm", "relevance", "gridprune-literal", "gridprune", "oracle",
)  # fmt: skip
_QUOTED = re.compile(r"('[^']*'|\"[^\"]*\")")
_HYPHEN = re.compile(r"(?<=[A-Za-z0-9])-(?=[A-Za-z])")
_HELP = "Write a name, or a name with settings: gridprune(zone=3, temperature=0.02)."


@dataclass(frozen=True)
class Entry:
    """One competitor of a run.

    Attributes:
        name: registered or bench-only name.
        settings: keyword settings; a value may be another entry.
    """

    name: str
    settings: tuple[tuple[str, Any], ...] = ()

    @property
    def label(self) -> str:
        """The canonical string, which reads back as the same entry."""
        if not self.settings:
            return self.name
        held = _held(self.name)
        shown = [
            value.label if isinstance(value, Entry) and key == held else f"{key}={_show(value)}"
            for key, value in self.settings
        ]
        return f"{self.name}({', '.join(shown)})"

    def method(self, keep: Keep) -> Method:
        """The method for one budget; what it holds gets the same budget."""
        settings: dict[str, Any] = {
            key: value.method(keep) if isinstance(value, Entry) else value for key, value in self.settings
        }
        settings.setdefault("keep", keep)
        kind = ablations.BENCH_ONLY.get(self.name)
        if kind is None:
            return registry.create(self.name, **settings)
        try:
            return kind(**settings)
        except TypeError as error:
            raise SettingError(f"{self.name} does not take these settings ({error}).") from None

    @property
    def plain(self) -> dict[str, Any]:
        """All settings, defaults included, as plain values for config.json."""
        return {key: _plain(value) for key, value in self.method("50%").explain().items() if key != "keep"}


def parse(text: str) -> Entry:
    """Read one entry.

    Raises:
        SettingError: not readable, or the method refuses its settings.
        UnknownNameError: no such method.
    """
    parts = _QUOTED.split(text.strip())
    source = "".join(part if i % 2 else _HYPHEN.sub("_", part) for i, part in enumerate(parts))
    try:
        tree = ast.parse(source, mode="eval").body
    except (SyntaxError, ValueError):
        raise SettingError(f"Cannot read the method {text!r}. {_HELP}") from None
    entry = _entry(tree, text)
    entry.method("50%")  # settings are checked now, not after the vision pass
    return entry


def parse_list(text: str) -> list[Entry]:
    """Read a comma-separated list; ``all`` stands for every method that a run on single pictures can compare.

    Raises:
        SettingError: an entry is given twice, or none is given.
    """
    entries: list[Entry] = []
    for part in _split(text):
        entries.extend(everything() if part == "all" else [parse(part)])
    labels = [entry.label for entry in entries]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise SettingError(f"These methods are listed twice: {', '.join(twice)}. Name each once.")
    if not entries:
        raise SettingError(
            f"No method was given. {_HELP} `gridprune methods` lists the names; 'all' takes all of them."
        )
    return entries


def everything() -> list[Entry]:
    """Every registered method for single pictures that acts before the language model, and the oracle."""
    found = []
    for name in registry.available():
        kind = registry.get(name)
        if kind.stage != "in-llm" and kind.min_frames == 1 and name != "keep-all" and not _needs_base(kind):
            found.append(Entry(name))
    return [*found, Entry("oracle")]


def parse_keeps(text: str) -> list[Keep]:
    """Read ``192,128,64`` or ``33%,11.1%``: counts stay integers.

    Raises:
        SettingError: a budget is given twice, or none is given.
    """
    keeps: list[Keep] = []
    for part in (part.strip() for part in text.split(",")):
        if part:
            budget = Budget.parse(part)
            keeps.append(budget.count if budget.count is not None else part)
    if not keeps or len(set(map(str, keeps))) < len(keeps):
        raise SettingError(f"--keep needs one or more different budgets such as 192,128,64,32 or 11.1%, got {text!r}.")
    return keeps


def _entry(tree: ast.expr, text: str) -> Entry:
    if isinstance(tree, ast.Name):
        return Entry(_known(tree.id))
    if not (isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name)):
        raise SettingError(f"Cannot read the method {text!r}. {_HELP}")
    name = _known(tree.func.id)
    settings: dict[str, Any] = {}
    if len(tree.args) > 1 or any(word.arg is None for word in tree.keywords):
        raise SettingError(f"Cannot read the method {text!r}: settings go by name. {_HELP}")
    if tree.args:
        settings[_held(name)] = _entry(tree.args[0], text)
    for word in tree.keywords:
        assert word.arg is not None
        if word.arg == "keep":
            raise SettingError(f"The budget of {text!r} is given by --keep, not among the settings.")
        settings[word.arg] = _value(word.value, text)
    return Entry(name, tuple(settings.items()))


def _value(tree: ast.expr, text: str) -> Any:
    if isinstance(tree, ast.Call):
        return _entry(tree, text)
    try:
        return ast.literal_eval(tree)
    except (ValueError, TypeError):
        if isinstance(tree, ast.Name):
            try:
                return Entry(_known(tree.id))
            except UnknownNameError:
                raise SettingError(f"In {text!r}, quote words: '{tree.id}'.") from None
        raise SettingError(f"In {text!r}, settings must be numbers, quoted words or tuples of these.") from None


def _known(name: str) -> str:
    """The canonical name; raises UnknownNameError with close matches."""
    key = name.strip().lower().replace("_", "-")
    if key in ablations.BENCH_ONLY:
        return key
    try:
        registry.get(key)
    except UnknownNameError as error:
        raise UnknownNameError(f"{error} In a run also: {', '.join(ablations.BENCH_ONLY)}.") from None
    return key


def _held(name: str) -> str:
    """The field in which `name` holds another method: its first one besides `keep`."""
    kind: Any = ablations.BENCH_ONLY.get(name) or registry.get(name)
    names = [f.name for f in fields(kind) if f.name != "keep"]
    return names[0] if names else ""


def _needs_base(kind: type[Method]) -> bool:
    """Whether the class is of no use without another method to hold."""
    return any(f.name != "keep" and f.default is MISSING and f.default_factory is MISSING for f in fields(kind))


def _split(text: str) -> list[str]:
    """Cut at commas outside parentheses and brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "([") - (letter in ")]")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    if depth:
        raise SettingError(f"The parentheses of {text!r} do not match. {_HELP}")
    return [part.strip() for part in parts if part.strip()]


def _show(value: Any) -> str:
    return value.label if isinstance(value, Entry) else repr(value)


def _plain(value: Any) -> Any:
    if isinstance(value, (str, int, float, bool, type(None))):
        return value
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items() if key != "keep"}
    if isinstance(value, Method):
        return {"name": value.name} | _plain(value.explain())
    return str(value)


def check(entries: list[Entry]) -> None:
    """Refuse what a run on single pictures cannot compare.

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
            raise SettingError(f"{entry.label} compares frames of a clip; `gridprune eval` asks about single pictures.")


__all__ = [
    "FIRST",
    "FULL",
    "QUICK",
    "Entry",
    "GridPruneError",
    "check",
    "everything",
    "parse",
    "parse_keeps",
    "parse_list",
]
