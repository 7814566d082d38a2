"""The bench as Markdown tables, for README and docs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Result = Mapping[str, Any]  # results/bench.json


def summary(result: Result) -> str:
    """Decision, its share of the prefill, and end to end against the limit and the unpruned model."""
    shapes = [part for name, part in _shapes(result).items() if name != "tiny"] or list(_shapes(result).values())
    lines = []
    for part in shapes:
        shape = part["shape"]
        for pair, ratio in part["ratio_to_native"].items():
            share = f"{100 * part['decision_share_of_prefill']:.2f} %"
            gains = [f"{part[key][pair]:.2f}" for key in ("speedup", "speedup_prefill", "speedup_flops")]
            lines.append([shape["name"], pair, _interval(ratio), *gains, share])
    head = [
        "shape",
        "N/k",
        "pruned / k native tokens",
        "faster to first token",
        "prefill alone",
        "its FLOPs",
        "decision",
    ]
    return markdown(head, lines) + "\n\n" + _foot(result)


def decisions(result: Result) -> str:
    """Milliseconds of every method's decision over N, and how time and memory grow."""
    rows = result["parts"]["decisions"]
    sizes = sorted({int(n) for row in rows.values() for n in row.get("ms", {})})
    lines, skipped = [], []
    for name, row in sorted(rows.items(), key=lambda item: _first(item[1])):
        if "skipped" in row:
            skipped.append(f"`{name}` ({row['skipped']})")
            continue
        cells = [f"{row['ms'][str(n)][0]:.2f}" if str(n) in row["ms"] else "-" for n in sizes]
        lines.append([f"`{name}`", *cells, _number(row["time_exponent"]), _number(row["memory_exponent"])])
    head = ["decision in ms", *(f"N = {n:,}" for n in sizes), "time ~ N^", "memory ~ N^"]
    stopped = [f"`{name}` {row['stopped']}" for name, row in rows.items() if "stopped" in row]
    notes = [
        f"Left out: {'; '.join(skipped)}." if skipped else "",
        f"Cut off: {'; '.join(stopped)}." if stopped else "",
    ]
    return "\n\n".join([markdown(head, lines), *filter(None, notes)])


def published(result: Result) -> str:
    """DivPrune's and CDPruner's published procedures over our versions, and over GridPrune."""
    lines = [
        [pair, f"{row['published_ms']:.1f}", _interval(row["ours"]), _interval(row["gridprune"]), _yes(row["equal"])]
        for pair, row in result["parts"]["published"].items()
    ]
    return markdown(["method/N", "published, ms", "published / ours", "published / gridprune", "equal choice"], lines)


def capture(result: Result) -> str:
    """Extra cost of reading one block's attention, and of eager attention, over sdpa."""
    lines = [
        [tower, f"{row['blocks_built']} of {row['blocks']}", _percent(row["capture"]), _percent(row["eager"])]
        for tower, row in result["parts"]["capture"].items()
    ]
    return markdown(["tower", "blocks built", "capture over sdpa", "eager over sdpa"], lines)


def parts(result: Result) -> str:
    """Seconds of the stages between a picture and the first token."""
    lines = []
    for name, part in _shapes(result).items():
        stages, shape, whole = part["stages"], part["shape"], part["extrapolated"]
        n, k = (list(whole["prefill"])[i] for i in (0, -1))
        once = [stages[key][0] if key in stages else None for key in ("image processing", "text", "cues", "decision")]
        lines.append(
            [
                name,
                *(_seconds(value) for value in (once[0], whole["tower"], *once[1:])),
                f"{_seconds(whole['prefill'][n])} / {_seconds(whole['prefill'][k])}",
                f"{_seconds(whole['decode_per_token'][n])} / {_seconds(whole['decode_per_token'][k])}",
                f"{part['kv_bytes'][n]['all_layers'] / 1e6:.0f} / {part['kv_bytes'][k]['all_layers'] / 1e6:.0f}",
                f"{shape['layers_built'][1]} of {shape['layers']}",
            ]
        )
    head = [
        "seconds",
        "image processing",
        "tower",
        "text tower",
        "cues",
        "decision",
        "prefill, all / fewest",
        "a token",
    ]
    return markdown([*head, "KV in MB", "layers built"], lines)


TABLES: Mapping[str, Callable[[Result], str]] = {
    "speed": summary,
    "speed-decisions": decisions,
    "speed-published": published,
    "speed-capture": capture,
    "speed-parts": parts,
}


def _shapes(result: Result) -> dict[str, Any]:
    return {name: part for name, part in result["parts"].items() if "stages" in part}


def _foot(result: Result) -> str:
    machine = result["machine"]
    return (
        f"Random weights, {machine['dtype']}, {machine['attention']}, {machine['clock']}, {machine['processor']}, "
        f"torch {machine['torch']}. Times of all layers are extrapolated from two numbers of layers; pruned over "
        "native is measured with the smaller one, end to end, in brackets the middle half of the rounds."
    )


def _first(row: Mapping[str, Any]) -> float:
    return next((values[0] for values in row.get("ms", {}).values()), float("inf"))


def _interval(values: Sequence[float]) -> str:
    return f"{values[0]:.3g} ({values[1]:.3g} to {values[2]:.3g})"


def _percent(values: Sequence[float]) -> str:
    return f"{100 * values[0]:+.1f} % ({100 * values[1]:+.1f} to {100 * values[2]:+.1f})"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Cells as a Markdown table; the first column is text, the others are numbers."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *lines))
