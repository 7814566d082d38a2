"""What was measured, in a terminal and as a plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from ..files import written
from .run import waits

Row = Mapping[str, Any]
_ROUGH = 0.2


def table(found: Mapping[str, Any], console: Console) -> None:
    """One table per batch size, and what they mean in sentences."""
    attention = ", ".join(f"{name} {kind}" for name, kind in found["attention"].items())
    machine = found["machine"]
    on = machine["accelerator"] or f"{machine['processor']}, {machine['threads']} threads"
    console.print(
        f"{found['model']}: {found['visual_tokens']} visual tokens an image, {found['text_tokens']} of text\n"
        f"{found['dtype']}, attention: {attention}\n{on}; medians of {found['rounds']} interleaved rounds\n",
        highlight=False,
    )
    for batch in dict.fromkeys(row["batch"] for row in found["calls"]):
        console.print(_batch(batch, [row for row in found["calls"] if row["batch"] == batch]), "")
    for line in sentences(found):
        console.print(line, highlight=False)


def _batch(batch: int, rows: Sequence[Row]) -> Table:
    shown = Table(title=f"batch {batch}", title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    shown.show_edge, shown.padding = False, (0, 1, 0, 0)  # nine columns in 80
    static = any("static_token_seconds" in row for row in rows)
    on_gpu = any(row["peak_bytes"] is not None for row in rows)
    heads = ["", "visual\ntokens", "first\ntoken", "faster", "over\nnative", "later\ntoken"]
    heads += ["static\ncache"] * static + ["peak\nMiB", "launch"] * on_gpu
    for head in heads:
        shown.add_column(head, justify="right" if head else "left", overflow="fold")
    for row in rows:
        cells = [
            _name(row),
            "" if row["call"] == "tower" or row["visual_tokens"] is None else str(row["visual_tokens"]),
            _milliseconds(row["seconds"]) if row["fits"] else "OOM",
            _times(row["faster"]),
            _times(row["over_native"]),
            _milliseconds(row.get("token_seconds")),
        ]
        cells += [_milliseconds(row.get("static_token_seconds"))] * static
        if on_gpu:
            share = row["launch_share"]
            cells += [f"{row['peak_bytes'] / 2**20:.0f}" if row["fits"] else ""]
            cells += ["" if share is None else f"{100 * share:.0f} %"]
        shown.add_row(*cells)
    return shown


def sentences(found: Mapping[str, Any]) -> list[str]:
    """What the tables do not say by themselves."""
    rows = found["calls"]
    said = [
        "Times in ms, from the image on. Native is the limit: the vision tower, then the stock model on a prompt of "
        "that many visual tokens."
    ]
    if any(row["question"] for row in rows):
        said.append("New question: the text tower reads that of every row within the call, not before it.")
    said += [
        f"Batch {row['batch']}: without pruning the GPU waits for the host, which launches for "
        f"{100 * row['launch_share']:.0f} % of the time. Fewer tokens gain little there; more images at once do."
        for row in rows
        if row["call"] == "unpruned" and waits(row)
    ]
    said += [
        f"Batch {row['batch']}: rough, half of the unpruned calls took {1e3 * row['seconds'][1]:.0f} to "
        f"{1e3 * row['seconds'][2]:.0f} ms. Give more --rounds, or the machine less to do."
        for row in rows
        if row["call"] == "unpruned" and row["fits"] and _spread(row["seconds"]) > _ROUGH
    ]
    if all(row["peak_bytes"] is None for row in rows):
        said.append("On a CPU, memory and waiting are not measured: see --device cuda.")
    if "largest_batch" in found:
        each = ", ".join(f"{keep} visual tokens {batch}" for keep, batch in found["largest_batch"].items())
        said.append(f"Largest batch whose prompts can be read at once: {each}.")
    return said


def save(found: Mapping[str, Any], file: Path) -> None:
    """Write :func:`plot` as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.6), dpi=130, layout="constrained")
    axes = figure.subplots()
    axes.grid(alpha=0.25)
    plot(found, axes)
    with written(file) as partial:
        figure.savefig(partial)


def plot(found: Mapping[str, Any], axes: Any) -> None:
    """How many times faster to the first token than unpruned, by batch; the native calls dashed."""
    lines: dict[str, list[Row]] = {}
    for row in found["calls"]:
        if row["faster"] is not None and row["question"] != "cached":
            lines.setdefault(f"{row['method'] or 'native'} {row['keep']}", []).append(row)
    for label, rows in lines.items():
        median, low, high = zip(*(row["faster"] for row in rows))
        spread = [[m - lo for m, lo in zip(median, low)], [hi - m for m, hi in zip(median, high)]]
        style = {"marker": "o", "ms": 3, "lw": 1.2, "capsize": 2, "ls": "--" if rows[0]["method"] is None else "-"}
        axes.errorbar([row["batch"] for row in rows], median, spread, label=label, **style)
    axes.axhline(1, color="0.7", lw=0.8)
    batches = sorted({row["batch"] for row in found["calls"]})
    axes.set(xscale="log", xlabel="batch", ylabel="times faster to the first token than unpruned", ylim=(0, None))
    axes.set_xticks(batches, [str(batch) for batch in batches], minor=False)
    axes.minorticks_off()
    axes.legend(fontsize=6)


def _spread(seconds: Sequence[float]) -> float:
    """Of the middle half, as a share of the median."""
    return (seconds[2] - seconds[1]) / seconds[0]


def _name(row: Row) -> str:
    named = row["method"] or row["call"]
    return f"{named}, {row['question']} question" if row["question"] == "new" else str(named)


def _milliseconds(seconds: Sequence[float] | None) -> str:
    if seconds is None:
        return ""
    return f"{1e3 * seconds[0]:.{1 if seconds[0] < 1 else 0}f}" if seconds[0] > 0 else "?"  # less than its noise


def _times(ratio: Sequence[float] | None) -> str:
    return "" if ratio is None else f"{ratio[0]:.2f}"
