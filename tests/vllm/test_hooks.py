"""The table of hooks.py against vLLM's sources: those that are installed, and those in the folder `VLLM_SOURCES` names.

For a version that is not installed: `pip download vllm==0.33.0 --no-deps`, unzip the wheel, and
`make test-vllm VLLM_SOURCES=folder`.
"""

from __future__ import annotations

import os
import re
from importlib.metadata import requires
from importlib.util import find_spec
from pathlib import Path

import pytest
from hooks import HOOKS, RANGE, Hook, plugin_imports
from packaging.requirements import Requirement

_SPEC = find_spec("vllm")
SOURCES = [Path(str(_SPEC.origin)).parent] if _SPEC else []
SOURCES += [Path(folder) / "vllm" for folder in filter(None, [os.environ.get("VLLM_SOURCES")])]


@pytest.mark.parametrize("sources", SOURCES, ids=["installed", "given"][: len(SOURCES)])
@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: hook.what)
def test_hook(hook: Hook, sources: Path) -> None:
    assert hook.broken(sources) == [], f"{hook.file}: {hook.name}"


@pytest.mark.parametrize("sources", SOURCES, ids=["installed", "given"][: len(SOURCES)])
@pytest.mark.parametrize(("module", "name"), plugin_imports())
def test_import(module: str, name: str, sources: Path) -> None:
    """Every name that the plugin imports stands in the module it comes from, or in a part that a package gathers."""
    place = sources.joinpath(*module.split(".")[1:])
    files = [*place.glob("*.py")] if place.is_dir() else [place.with_suffix(".py")]
    assert any(re.search(rf"\b{name}\b", file.read_text(encoding="utf-8")) for file in files)


def test_the_range_is_what_the_table_was_read_against() -> None:
    wanted = [Requirement(line) for line in requires("gridprune") or ()]
    (vllm,) = [need for need in wanted if need.name == "vllm"]
    assert vllm.specifier == Requirement(f"vllm{RANGE}").specifier


def test_a_moved_hook_is_named(tmp_path: Path) -> None:
    (tmp_path / "moved.py").write_text("class Runner:\n    def load(self):\n        second()\n        first()\n")
    hook = Hook("order", "moved.py", "Runner.load", ("first()", "second()"), absent=("load",))
    assert hook.broken(tmp_path) == ["second()", "not load"]
