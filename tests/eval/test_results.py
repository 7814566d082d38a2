"""Tables and plots between markers: written from rows, and found stale."""

from __future__ import annotations

import gzip
import json

import pytest

from gridprune.errors import SettingError, UnknownNameError
from gridprune.eval.metrics import summarise
from scripts import results
from scripts.plots import PLOTS
from scripts.tables import TABLES, ablations, retention

from .test_metrics import CONFIG, ROWS

PLACE = {
    "command": "gridprune eval",
    "commit": "0",
    "versions": {"gridprune": "0"},
    "machine": {"processor": "x", "threads": 1},
}
TIMING = {"decide": {"m|64": 0.002, "gridprune|64": 0.001}, "prefill": {"64": 0.004, "576": 0.02}, "encode": {}}


@pytest.fixture
def root(tmp_path):
    run = tmp_path / "results" / "leaderboard"
    run.mkdir(parents=True)
    config = {**CONFIG, **PLACE}
    (run / "config.json").write_text(json.dumps(config))
    (run / "rows.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, ROWS)).encode()))
    (run / "metrics.json").write_text(json.dumps(summarise(ROWS, config)))
    (run / "timing.json").write_text(json.dumps(TIMING))
    specs = [f"leaderboard/{name}" for name in (*TABLES, *PLOTS)] + ["leaderboard/retention?gridprune"]
    blocks = [f"<!-- results:{spec} -->\nold\n<!-- /results:{spec} -->" for spec in specs]
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "results.md").write_text("# x\n\n" + "\n\n".join(blocks) + "\n\nend\n")
    (tmp_path / "README.md").write_text("no blocks\n")
    return tmp_path


def test_written_once_and_then_current(root):
    assert any("docs/results.md" in line for line in results.check(root))
    assert set(results.write(root)) == {
        "docs/results.md",
        "docs/images/leaderboard-retention-plot.png",
        "docs/images/leaderboard-pareto-plot.png",
        "results/leaderboard.json",
    }
    assert results.check(root) == []
    assert results.write(root) == []
    text = (root / "docs" / "results.md").read_text()
    assert "| `gridprune` | 116.7 (" in text
    assert "](images/leaderboard-retention-plot.png)" in text
    assert text.endswith("end\n")
    assert (root / "README.md").read_text() == "no blocks\n"
    chosen = text.split("<!-- results:leaderboard/retention?gridprune -->")[1]
    assert "`m`" not in chosen.split("<!-- /")[0]


def test_variants_have_a_table_of_their_own():
    def renamed(cells):
        return {cell.replace("m|", "global-topk(gridprune)|"): value for cell, value in cells.items()}

    rows = [{**row, **{key: renamed(row[key]) for key in ("answers", "recall", "tokens")}} for row in ROWS]
    methods = [CONFIG["identity"]["methods"][0] | {"label": "global-topk(gridprune)"}, CONFIG["identity"]["methods"][1]]
    config = {**CONFIG, **PLACE, "identity": {**CONFIG["identity"], "methods": methods}}
    run = {**summarise(rows, config), "config": config, "timing": TIMING}
    assert "global-topk" not in retention(run)
    assert "| `global-topk(gridprune)` | -50.0 (" in ablations(run)
    assert "| `gridprune` |" not in ablations(run)


@pytest.mark.parametrize("stale", ["page", "plot", "rows", "board", "marker"])
def test_stale_is_found(root, stale):
    results.write(root)
    page, run = root / "docs" / "results.md", root / "results" / "leaderboard"
    if stale == "page":
        page.write_text(page.read_text().replace("116.7", "118.7"))
    elif stale == "plot":
        (root / "docs" / "images" / "leaderboard-pareto-plot.png").unlink()
    elif stale == "rows":
        (run / "rows.jsonl.gz").write_bytes(gzip.compress(json.dumps(ROWS[0]).encode()))
    elif stale == "board":
        (root / "results" / "leaderboard.json").write_text("{}")
    else:
        page.write_text(page.read_text() + "<!-- results:leaderboard/cost -->\n")
    assert results.check(root)


def test_unknown_blocks_are_named(root):
    page = root / "README.md"
    page.write_text("<!-- results:leaderboard/nothing -->\n<!-- /results:leaderboard/nothing -->\n")
    with pytest.raises(UnknownNameError, match="retention"):
        results.check(root)
    page.write_text("<!-- results:none/cost -->\n<!-- /results:none/cost -->\n")
    with pytest.raises(SettingError, match="results/none"):
        results.check(root)
