"""A method as people write it: ``gridprune``, or with settings ``gridprune(zone=3, temperature=0.02)``; read safely.

Values are Python literals or, for what holds a method, another method: ``merge-rest(divprune)``. Every command, the
page, vLLM's settings and lmms-eval's arguments read methods here, so that all of them take and refuse the same.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from ..core.budget import Budget, Keep
from ..errors import SettingError, UnknownNameError
from . import registry
from .base import Method

_APART = ("uniform-budgets", "global-topk", "flipped-sign", "shuffled-question")
EVAL_ONLY = {  # what exists in `gridprune eval` only, and why
    "downsample": "it makes the image smaller. Give a smaller image instead, and prune nothing",
    "oracle": "it reads where the evidence of a question lies",
    **dict.fromkeys(_APART, "it takes another method apart"),
}
_NONE: Mapping[str, type[Method]] = {}
_QUOTED = re.compile(r"('[^']*'|\"[^\"]*\")")
_HYPHENED = re.compile(r"(?<![\w.])[A-Za-z]\w*(?:-\w+)+")
_HELP = "Write a name, or a name with settings: gridprune(zone=3, temperature=0.02)."


@dataclass(frozen=True)
class MethodSpec:
    """A method without its budget.

    Attributes:
        name: as registered.
        kind: the class of that name.
        settings: keyword settings; a value may be another spec.
    """

    name: str
    kind: type[Method] = field(repr=False, compare=False)
    settings: tuple[tuple[str, Any], ...] = ()

    @property
    def label(self) -> str:
        """The canonical string, which reads back as the same spec."""
        if not self.settings:
            return self.name
        held = _held(self.kind)
        shown = [
            value.label if isinstance(value, MethodSpec) and key == held else f"{key}={_show(value)}"
            for key, value in self.settings
        ]
        return f"{self.name}({', '.join(shown)})"

    def method(self, keep: Keep) -> Method:
        """The method for one budget; what it holds gets the same budget.

        Raises:
            SettingError: settings that the method does not have or does not take.
            BudgetError: not a budget.
        """
        settings = {key: value.method(keep) if isinstance(value, MethodSpec) else value for key, value in self.settings}
        return registry.build(self.name, self.kind, keep=keep, **settings)

    def with_settings(self, settings: Mapping[str, Any]) -> MethodSpec:
        """The same with further settings, given as values.

        Raises:
            SettingError: the method refuses them, or one of them is given twice.
        """
        twice = sorted({"keep", *dict(self.settings)} & settings.keys())
        if twice:
            raise SettingError(
                f"{', '.join(twice)} of {self.label} cannot be given here: keep goes by itself, settings once."
            )
        more = MethodSpec(self.name, self.kind, (*self.settings, *settings.items()))
        more.method("50%")
        return more


def parse(text: str, *, extra: Mapping[str, type[Method]] = _NONE) -> MethodSpec:
    """Read one method.

    Args:
        extra: names that are known here besides the registered ones.

    Raises:
        SettingError: not readable, or the method refuses its settings.
        UnknownNameError: no such method, or one of `gridprune eval` only.
    """
    parts = _QUOTED.split(text.strip())
    source = "".join(part if i % 2 else _HYPHENED.sub(_underscored, part) for i, part in enumerate(parts))
    try:
        tree = ast.parse(source, mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):  # the last two: brackets within brackets
        raise SettingError(f"Cannot read the method {text!r}. {_HELP}") from None
    spec = _Reader(text, extra).spec(tree)
    spec.method("50%")  # settings are checked now, not after a model was loaded
    return spec


def split(text: str) -> list[str]:
    """Cut a list of methods at commas outside parentheses and brackets."""
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


@dataclass(frozen=True)
class _Reader:
    """Turns the syntax tree of `text` into specs."""

    text: str
    extra: Mapping[str, type[Method]]

    def spec(self, tree: ast.expr) -> MethodSpec:
        if isinstance(tree, ast.Name):
            return self.named(tree.id)
        if not (isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name)):
            raise SettingError(f"Cannot read the method {self.text!r}. {_HELP}")
        found = self.named(tree.func.id)
        settings: dict[str, Any] = {}
        if len(tree.args) > 1 or any(word.arg is None for word in tree.keywords):
            raise SettingError(f"Cannot read the method {self.text!r}: settings go by name. {_HELP}")
        if tree.args:
            settings[_held(found.kind)] = self.spec(tree.args[0])
        for word in tree.keywords:
            assert word.arg is not None
            if word.arg == "keep":
                raise SettingError(f"The budget of {self.text!r} is given by --keep, not among the settings.")
            settings[word.arg] = self.value(word.value)
        return MethodSpec(found.name, found.kind, tuple(settings.items()))

    def value(self, tree: ast.expr) -> Any:
        if isinstance(tree, ast.Call):
            return self.spec(tree)
        try:
            return ast.literal_eval(tree)
        except (ValueError, TypeError):
            if not isinstance(tree, ast.Name):
                raise SettingError(
                    f"In {self.text!r}, settings must be numbers, quoted words or tuples of these."
                ) from None
        try:
            return self.named(tree.id)
        except UnknownNameError:
            raise SettingError(f"In {self.text!r}, quote words: '{tree.id}'.") from None

    def named(self, name: str) -> MethodSpec:
        key = registry.normal(name)
        if key in self.extra:
            return MethodSpec(key, self.extra[key])
        if key in EVAL_ONLY:
            raise UnknownNameError(f"{key!r} exists in `gridprune eval` only: {EVAL_ONLY[key]}.")
        try:
            return MethodSpec(key, registry.get(key))
        except UnknownNameError as error:
            more = f" Here also: {', '.join(self.extra)}." if self.extra else ""
            raise UnknownNameError(f"{error}{more}") from None


def _underscored(word: re.Match[str]) -> str:
    return word[0].replace("-", "_")


def _held(kind: type[Method]) -> str:
    """The field in which a method of this class holds another one: its first besides `keep`."""
    return next((f.name for f in fields(kind) if f.name != "keep"), "")


def _show(value: Any) -> str:
    return value.label if isinstance(value, MethodSpec) else repr(value)
