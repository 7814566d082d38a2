"""The reference leaves nothing unsaid, and the generated lists are those of the code."""

from __future__ import annotations

import importlib.util
import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import gridprune
from gridprune.methods import registry

ROOT = Path(__file__).resolve().parents[2]
_SHOWN = re.compile(r"^::: ([\w.]+)$", re.MULTILINE)


def shown() -> list[str]:
    """Modules and classes of the reference pages, and the modules of all methods."""
    pages = sorted((ROOT / "docs" / "reference").glob("*.md"))
    named = [name for page in pages for name in _SHOWN.findall(page.read_text(encoding="utf-8"))]
    methods = [registry.get(name).__module__ for name in registry.available()]
    return list(dict.fromkeys([*named, *(name for name in methods if name.startswith("gridprune."))]))


def find(name: str) -> Any:
    """A module, or something in one."""
    try:
        return import_module(name)
    except ModuleNotFoundError:
        module, _, attribute = name.rpartition(".")
        return getattr(import_module(module), attribute)


def silent(thing: Any) -> Iterator[str]:
    """Public names in and below `thing` without a docstring of their own or of the class they come from."""
    if inspect.ismodule(thing):
        if not thing.__doc__:
            yield thing.__name__
        for name, member in vars(thing).items():
            own = getattr(member, "__module__", None) == thing.__name__
            if not name.startswith("_") and own and (inspect.isclass(member) or inspect.isfunction(member)):
                yield from silent(member)
        return
    where = f"{thing.__module__}.{thing.__qualname__}"
    doc = thing.__doc__ or ""
    if not doc or doc.startswith(f"{thing.__name__}("):  # what a dataclass writes by itself says nothing
        yield where
    if inspect.isclass(thing):
        for name, member in vars(thing).items():
            member = getattr(member, "func", member)  # a cached property
            spoken = inspect.isfunction(member) or isinstance(member, (property, classmethod, staticmethod))
            if not name.startswith("_") and spoken and not inspect.getdoc(getattr(thing, name)):
                yield f"{where}.{name}"


@pytest.mark.parametrize("name", [*shown(), *(f"gridprune.{name}" for name in gridprune.__all__)])
def test_public_names_have_docstrings(name):
    assert list(silent(find(name))) == []


class Spoken:
    """Yes."""

    def said(self):
        """Yes."""

    def unsaid(self): ...

    @property
    def also_unsaid(self): ...

    def _private(self): ...


class Child(Spoken):
    """Yes."""

    def said(self): ...


def test_what_is_silent_is_found():
    assert [name.rpartition(".")[2] for name in silent(Spoken)] == ["unsaid", "also_unsaid"]
    assert list(silent(Child)) == []


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_list_of_methods_is_that_of_the_code():
    page = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    assert page == script("methods_page").page(), "run python -m scripts.methods_page"


def test_every_page_stands_in_the_navigation():
    script("docs").listed()
