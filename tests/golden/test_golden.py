"""No method keeps other tokens than it did, unless `python tests/golden/golden.py` wrote so."""

from __future__ import annotations

import pytest

import golden
from gridprune.methods import create


@pytest.mark.parametrize("name", golden.NAMES)
def test_keeps_what_it_kept(name: str) -> None:
    written = golden.read(name)
    assert golden.selections(create(name), written["salt"]) == written["kept"], "see tests/golden/golden.py"


@pytest.mark.parametrize("name", golden.NAMES)
def test_rounding_does_not_decide(name: str) -> None:
    written = golden.read(name)
    assert golden.selections(create(name), written["salt"], jitter=6) == written["kept"]


def test_every_method_has_a_file_and_no_other_is_there() -> None:
    assert sorted(path.stem for path in golden.FOLDER.glob("*.json")) == golden.NAMES
