"""The bench's result for a terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table


def show(result: dict[str, Any], console: Console) -> None:
    """Print the result of :func:`gridprune.speed.run.bench` as tables."""
    machine, shape = result["machine"], result["shape"]
    console.print(f"{machine['processor']}, {machine['threads']} thread, torch {machine['torch']}", highlight=False)
    console.print(
        f"{shape['name']}: {shape['visual_tokens']} visual and {shape['text_tokens']} text tokens, "
        f"{shape['layers_built']} of {shape['layers']} layers built, {shape['dtype']}",
        highlight=False,
    )
    table = Table("N", "zone selection, ms")
    for tokens, milliseconds in result["decision_ms"].items():
        table.add_row(tokens, f"{milliseconds:.2f}")
    console.print(table)
    table = Table("N/k", "pruned / k native tokens", "unpruned / pruned")
    for pair, ratio in result["ratio_to_native"].items():
        table.add_row(pair, _interval(ratio), _interval(result["speedup"][pair]))
    console.print(table)
    for name, share in result["capture_overhead"].items():
        console.print(f"{name}: {share[0]:+.2%} over sdpa", highlight=False)
    for tokens, share in result["decision_share_of_prefill"].items():
        console.print(f"decision at N = {tokens}: {share:.2%} of the unpruned prefill", highlight=False)
    console.print(result["note"], style="dim")


def _interval(values: list[float]) -> str:
    return f"{values[0]:.3f} [{values[1]:.3f}, {values[2]:.3f}]"
