"""What was measured on a GPU as Markdown tables: results/h100.json, which says when, how and before what."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .tables import markdown

Result = Mapping[str, Any]  # results/h100.json


def first_token(result: Result) -> str:
    """Time to the first token: unpruned, pruned, and the limit, which is a prompt of k tokens."""
    head = [
        "model",
        "images at once",
        "visual tokens",
        "unpruned, ms",
        "pruned, ms",
        "faster",
        "the limit, ms",
        "tower, ms",
    ]
    lines = [
        [
            row["model"],
            str(row["batch"]),
            f"{row['total']} -> {row['kept']}",
            f"{row['unpruned']:.0f}",
            f"{row['pruned']:.0f}",
            f"{row['unpruned'] / row['pruned']:.2f} x",
            f"{row['native']:.0f}",
            f"{row['tower']:.0f}",
        ]
        for row in result["first_token"]
    ]
    return markdown(head, lines) + "\n\n" + _foot(result)


def answers(result: Result) -> str:
    """Whole answers, and the memory of a call beyond the weights."""
    head = ["model", "images at once", "new tokens", "cache", "unpruned, s", "pruned, s", "faster"]
    lines = [
        [
            *(str(row[name]) for name in ("model", "batch", "new_tokens", "cache")),
            f"{row['unpruned']:.2f}",
            f"{row['pruned']:.2f}",
            f"{row['unpruned'] / row['pruned']:.2f} x",
        ]
        for row in result["answers"]
    ]
    peaks = "; ".join(
        f"{row['model']} with {row['batch']} images {row['unpruned']:.1f} GB unpruned, {row['pruned']:.1f} GB pruned"
        for row in result["peak_gb"]
    )
    return f"{markdown(head, lines)}\n\nMost memory of a call beyond the weights: {peaks}.\n\n{_foot(result)}"


TABLES: Mapping[str, Callable[[Result], str]] = {"first-token": first_token, "answers": answers}


def _foot(result: Result) -> str:
    machine = result["machine"]
    return (
        f"{machine['processor']}, {machine['cores']} host cores, torch {machine['torch']}, transformers "
        f"{machine['transformers']}; {result['how']}. Measured {result['measured']}, {result['state']}. "
        f"Measure it now: `{result['again']}`."
    )
