"""The house as code: who may import whom, and how much a room holds."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "gridprune"

# A folder imports from what stands before it, and from the modules at the top.
LAYERS = (
    "core", "cues", "methods", "families", "selection", "report", "hf", "tiny", "vllm", "runtime", "eval",
    "bench", "lmms", "demo", "cli",
)  # fmt: skip
PURE = ("core", "methods")  # never import transformers
MOST_LINES = 26_630  # of the package: what comes takes the place of something
TOP = {"__init__", "__main__", "compat", "costs", "errors", "files"}


def files(folder: str = "") -> list[Path]:
    return sorted((PACKAGE / folder).rglob("*.py"))


def imported(file: Path) -> Iterator[str]:
    """Absolute names of what a file imports, anywhere in it."""
    package = ["gridprune", *file.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            stem = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*stem, *([node.module] if node.module else [])])
            yield from (f"{module}.{name.name}" for name in node.names)


def room(name: str) -> str:
    """The folder that an absolute name of the package lies in; "" for the modules at the top."""
    part = name.split(".")[1]
    return part if part in LAYERS else ""


def test_every_folder_is_a_layer():
    assert {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"} == set(LAYERS)
    assert {path.stem for path in PACKAGE.glob("*.py")} == TOP


@pytest.mark.parametrize("layer", LAYERS)
def test_nothing_imports_upwards(layer):
    above = set(LAYERS[LAYERS.index(layer) + 1 :])
    climbs = [
        f"{file.relative_to(PACKAGE)} imports {name}"
        for file in files(layer)
        for name in imported(file)
        if name.startswith("gridprune.") and room(name) in above
    ]
    assert climbs == []


@pytest.mark.parametrize("module", sorted(TOP - {"__init__", "__main__"}))
def test_the_top_stands_on_nothing(module):
    assert [name for name in imported(PACKAGE / f"{module}.py") if room(f"{name}.") and "gridprune" in name] == []


@pytest.mark.parametrize("layer", PURE)
def test_pure_layers_know_no_transformers(layer):
    assert [f"{file}: {name}" for file in files(layer) for name in imported(file) if "transformers" in name] == []


def test_files_and_functions_stay_small():
    long = []
    for file in files():
        text = file.read_text(encoding="utf-8")
        long += [f"{file.relative_to(PACKAGE)}: {lines} lines"] if (lines := text.count("\n")) > 400 else []
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and (node.end_lineno or 0) - node.lineno >= 60:
                long.append(f"{file.relative_to(PACKAGE)}: {node.name} has more than 60 lines")
    assert long == []


def test_the_package_does_not_grow():
    assert sum(file.read_text(encoding="utf-8").count("\n") for file in files()) <= MOST_LINES


ROOT = PACKAGE.parents[1]
MAP = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_the_map_names_every_folder_and_only_modules_that_are_there():
    rows = [line.split("|")[1:3] for line in MAP.splitlines() if line.startswith("| `")]
    rooms = [room for cell, _ in rows for room in re.findall(r"`([\w/.]+)`", cell)]
    assert sorted(rooms) == sorted([f"{layer}/" for layer in LAYERS] + [f"{name}.py" for name in TOP if name[0] != "_"])
    for cell, words in rows[1:]:  # the first is about the files at the top
        folder = PACKAGE / cell.strip(" `")
        for name in re.findall(r"`([a-z_]+/?)`", words):
            there = (folder / f"{name}.py").is_file() or (folder / name).is_dir() or (ROOT / name).is_dir()
            assert there, f"the row of {folder.name} names {name}"


def test_the_walks_pass_files_that_are_there():
    named = re.findall(r"`((?:\w+/)+(?:\w+\.py)?)`", MAP.split("Beside the package")[1].split("## Rules")[0])
    assert len(named) > 25
    assert [name for name in named if not (PACKAGE / name).exists() and not (ROOT / name).exists()] == []
