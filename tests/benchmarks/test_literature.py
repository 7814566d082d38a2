"""Tables of what was measured on a GPU and of what others published, by hand and from the committed files."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks import gpu, literature

ROOT = Path(__file__).parents[2]


def test_times_by_hand():
    row = {"unpruned": [30.4, 1, 1], "native": {"9": [1], "3": [10, 1, 1]}, "pruned": {"9": [25], "3": [20, 1, 1]}}
    row |= {"accelerated": {"3": [15.2]}, "pruned new question": {"9": [26], "3": [21]}}
    row |= {"peak_mib": {"unpruned": 8, "pruned 9": 5, "pruned 3": 2}}
    result = json.loads((ROOT / "results" / "gpu.json").read_text()) | {"shapes": {"llava-1.5-7b": {"2": row}}}
    table = gpu.first_token(result)
    assert "| LLaVA-1.5-7B | 2 | 576 -> 3 | 30 | 20 (1.52 x) | 15 (2.00 x) | 10 (3.04 x) |" in table
    assert "H200" in table
    assert result["again"] in table
    assert "| LLaVA-1.5-7B | 2 | 9 | 25 | 26 |  |  | 1 | 8 -> 5 |" in gpu.every_budget(result)
    result = json.loads((ROOT / "results" / "h100.json").read_text())
    row = {"model": "M", "batch": 2, "new_tokens": 8, "cache": "static", "unpruned": 3, "pruned": 2}
    peak = {"model": "M", "batch": 2, "unpruned": 4, "pruned": 1}
    table = gpu.answers({**result, "answers": [row], "peak_gb": [peak]})
    assert "| M | 2 | 8 | static | 3.00 | 2.00 | 1.50 x |" in table
    assert "M with 2 images 4.0 GB unpruned, 1.0 GB pruned" in table


def test_figures_stand_beside_their_source():
    figures = [
        {"pretrained": "P", "method": method, "keep": 64, "retention": kept, "source": source}
        for method, kept, source in (("a", "96.6", "S"), ("b", "95", "T"), ("c", "94", "S"))
    ]
    table = literature.retention({"figures": figures})
    assert "| `P` | 64 | `a` 96.6, `c` 94 | S |" in table
    assert "| `P` | 64 | `b` 95 | T |" in table


def test_every_published_score_has_a_source_and_a_place():
    published = json.loads((ROOT / "results" / "published.json").read_text())
    assert {row["group"] for row in published["rows"]} == {"text-dense", "grounding"}
    assert all(row["source"] and row["scores"] for row in published["rows"])
    shown = literature.text_dense(published) + literature.grounding(published)
    assert all(row["source"] in shown for row in published["rows"])
