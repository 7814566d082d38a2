"""Figures that others published, with their sources, as Markdown tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .tables import markdown

Result = Mapping[str, Any]  # results/published.json or recipes/expected.json


def retention(expected: Result) -> str:
    """Retention over sets of benchmarks, recipes/expected.json: a line for each checkpoint, budget and source."""
    lines: dict[tuple[str, int, str], list[str]] = {}
    for row in expected["figures"]:
        key = (row["pretrained"], row["keep"], row["source"])
        lines.setdefault(key, []).append(f"`{row['method']}` {row['retention']}")
    head = ["checkpoint", "kept", "retention in %", "source"]
    return markdown(head, [[f"`{name}`", str(k), ", ".join(found), said] for (name, k, said), found in lines.items()])


def text_dense(published: Result) -> str:
    """Reading documents, charts and signs."""
    return _scores(published, "text-dense")


def grounding(published: Result) -> str:
    """Saying where something is."""
    return _scores(published, "grounding")


TABLES: Mapping[str, Callable[[Result], str]] = {
    "expected": retention,
    "text-dense": text_dense,
    "grounding": grounding,
}


def _scores(published: Result, group: str) -> str:
    lines = [
        [
            *(row[name] for name in ("benchmark", "model", "kept")),
            f"{row['all']:g}",
            ", ".join(f"{name} {score:g}" for name, score in row["scores"].items()),
            row["source"],
        ]
        for row in published["rows"]
        if row["group"] == group
    ]
    return markdown(["benchmark", "model", "kept", "all tokens", "pruned", "source"], lines)
