"""The throughput table of docs/vllm.md, from a file written out by hand and from the committed one."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks import serving
from scripts import results

COMMITTED = json.loads((Path(__file__).parents[2] / "results" / "vllm.json").read_text())


def test_a_table_by_hand(tmp_path):
    def times(*pairs):
        return [{"requests_per_second": rate, "first_token_seconds": first} for rate, first in pairs]

    ratio = {
        "requests_per_second": {"median": 2.5, "least": 2.0, "most": 3.0},
        "first_token_seconds": {"median": 0.5, "least": 0.25, "most": 0.75},
    }
    row = {"clients": 8, "stock": times((1, 4), (3, 2)), "pruned": times((3, 1), (6, 1.5)), "ratio": ratio}
    page = tmp_path / "docs" / "vllm.md"
    page.parent.mkdir()
    page.write_text("<!-- results:vllm/throughput -->\n<!-- /results:vllm/throughput -->\n")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "vllm.json").write_text(json.dumps({**COMMITTED, "rows": [row]}))
    assert results.write(tmp_path) == ["docs/vllm.md"]
    assert results.check(tmp_path) == []
    text = page.read_text()
    assert "| 8 | 2.00 | 4.50 | 2.50 (2.00 to 3.00) | 3.00 | 1.25 | 0.50 (0.25 to 0.75) |" in text
    assert "64 of 576 visual tokens" in text
    assert "medians of 2 interleaved rounds" in text


def test_pruning_never_lowered_throughput():
    """What docs/vllm.md says of the committed run, at 1, 8 and 32 clients and in every single round."""
    assert [row["clients"] for row in COMMITTED["rows"]] == [1, 8, 32]
    assert all(row["ratio"]["requests_per_second"]["least"] > 1 for row in COMMITTED["rows"])
    assert serving.throughput(COMMITTED).count("\n| ") == 1 + len(COMMITTED["rows"])
