"""What docs/vllm.md says is served is what is served: its tables against the registry, read without vLLM."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from gridprune.errors import GridPruneError, UnsupportedModelError
from gridprune.methods import available, create
from gridprune.vllm.architectures import ARCHITECTURES, REFUSED, Architecture, of_config

PAGE = (Path(__file__).parents[2] / "docs" / "vllm.md").read_text(encoding="utf-8")


def table(head: str) -> list[list[str]]:
    """Cells of the rows below the line that begins like this."""
    lines = PAGE[PAGE.index(head) :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def names(cell: str) -> set[str]:
    return set(re.findall(r"`([^`]+)`", cell))


def refused(architecture: Architecture) -> set[str]:
    """Methods that it does not run."""
    found = set()
    for name in available():
        try:
            architecture.check(create(name))
        except GridPruneError:
            found.add(name)
    return found


def test_the_table_of_what_works_is_the_registry() -> None:
    rows = table("| architecture |")
    assert [row[0].strip("`") for row in rows] == list(ARCHITECTURES)
    everywhere = set.intersection(*map(refused, ARCHITECTURES.values()))
    for row, architecture in zip(rows, ARCHITECTURES.values()):
        assert names(row[2]) == refused(architecture) - everywhere, row[0]


def test_the_table_of_what_is_refused_is_the_registry() -> None:
    assert {row[0].strip("`"): row[1] for row in table("| refused |")} == REFUSED


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_says_why(name: str) -> None:
    with pytest.raises(UnsupportedModelError, match=re.escape(REFUSED[name])):
        of_config(SimpleNamespace(architectures=[name]))
