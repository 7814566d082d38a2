"""No figure of a run and no table changes, unless `scripts.results --root tests/golden/tables --write` wrote so."""

from __future__ import annotations

from pathlib import Path

from scripts import results
from scripts.tables import TABLES

ROOT = Path(__file__).parent / "tables"


def test_figures_and_tables_are_what_they_were() -> None:
    assert results.check(ROOT) == [], "see tests/golden/tables/README.md"


def test_every_table_is_there() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [name for name in TABLES if f"<!-- results:small/{name} -->" not in text] == []
