"""What was measured on a GPU as Markdown tables: results/gpu.json, and of answers results/h100.json, which is older."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .tables import markdown

Result = Mapping[str, Any]  # a file of results/, which says when and how it was measured


NAMES = {"llava-1.5-7b": "LLaVA-1.5-7B", "llava-next-7b": "LLaVA-NeXT-7B", "qwen2.5-vl-7b": "Qwen2.5-VL-7B"}
TOKENS = {"llava-1.5-7b": 576, "llava-next-7b": 2880, "qwen2.5-vl-7b": 1296}


def first_token(result: Result) -> str:
    """Time to the first token at the smallest budget: unpruned, pruned, accelerated, and the limit."""
    head = [
        "model",
        "images at once",
        "visual tokens",
        "unpruned, ms",
        "pruned, ms",
        "accelerated, ms",
        "the limit, ms",
    ]
    lines = []
    for shape, batches in result["shapes"].items():
        for batch, row in batches.items():
            keep = min(row["pruned"], key=int)
            times = [row["pruned"][keep], row.get("accelerated", {}).get(keep), row["native"][keep]]
            shown = ["" if time is None else _faster(row["unpruned"][0], time[0]) for time in times]
            lines.append([NAMES[shape], batch, f"{TOKENS[shape]} -> {keep}", f"{row['unpruned'][0]:.0f}", *shown])
    return markdown(head, lines) + "\n\n" + _foot(result)


def every_budget(result: Result) -> str:
    """All budgets, asked and new questions, with the most memory of a call beyond the weights."""
    head = ["model", "images", "kept", "pruned", "new question", "accelerated", "new question", "the limit", "MiB"]
    lines = [
        [
            NAMES[shape],
            batch,
            keep,
            *(
                f"{row[name][keep][0]:.0f}" if keep in row.get(name, {}) else ""
                for name in ("pruned", "pruned new question", "accelerated", "accelerated new question", "native")
            ),
            f"{row['peak_mib']['unpruned']} -> {row['peak_mib'][f'pruned {keep}']}",
        ]
        for shape, batches in result["shapes"].items()
        for batch, row in batches.items()
        for keep in row["pruned"]
    ]
    return f"{markdown(head, lines)}\n\nMilliseconds. {_foot(result)}"


def _faster(before: float, after: float) -> str:
    return f"{after:.0f} ({before / after:.2f} x)"


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


TABLES: Mapping[str, Callable[[Result], str]] = {
    "first-token": first_token,
    "every-budget": every_budget,
    "answers": answers,
}


def _foot(result: Result) -> str:
    machine, state = result["machine"], f", {result['state']}" if "state" in result else ""
    return (
        f"{machine['processor']}, {machine['cores']} host cores, torch {machine['torch']}, transformers "
        f"{machine['transformers']}; {result['how']}. Measured {result['measured']}{state}. "
        f"Measure it now: `{result['again']}`."
    )
