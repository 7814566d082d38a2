"""A run in the terminal."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

_FAILED = 10  # questions that failed and are listed


def with_seconds(metrics: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The metrics with `decision_seconds` of every row, where they were measured."""
    file = folder / "timing.json"
    decide = json.loads(file.read_text())["decide"] if file.is_file() else {}
    rows = [{**row, "decision_seconds": decide.get(f"{row['method']}|{row['keep']}")} for row in metrics["rows"]]
    return {**metrics, "rows": rows}


def table(metrics: Mapping[str, Any], console: Console) -> None:
    """One line per method and budget."""
    full = metrics["full"]
    title = f"{metrics['model']}, {metrics['split']}: {metrics['n']} questions about {metrics['scenes']} images"
    shown = Table(title=title, title_justify="left", title_style="bold")
    for name in ("method", "tokens", "accuracy", "retention", "95 % interval", "evidence recall", "decision"):
        shown.add_column(name, justify="left" if name == "method" else "right")
    shown.add_row("all tokens", _number(full["tokens"], "g"), percent(full["accuracy"]), "100.0 %", "", "", "")
    for row in metrics["rows"]:
        seconds = row.get("decision_seconds")
        shown.add_row(
            row["method"],
            _number(row["tokens"], "g"),
            percent(row["accuracy"]),
            percent(row["retention"]),
            "" if row["ci"] is None else f"{100 * row['ci'][0]:.1f} to {100 * row['ci'][1]:.1f}",
            percent(row["evidence_recall"]),
            "" if seconds is None else f"{1000 * seconds:.1f} ms",
        )
    console.print(shown)
    if metrics["text_prior"]:
        prior = ", ".join(f"{kind} {100 * value:.0f}" for kind, value in metrics["text_prior"].items())
        console.print(f"text alone, in %: {prior}", highlight=False)
    failed = metrics.get("failed", {})
    for number, reason in itertools.islice(failed.items(), _FAILED):
        console.print(f"question {number} failed: {reason}", highlight=False, markup=False)
    if failed:
        console.print(f"{len(failed)} questions failed and are in no number above; metrics.json names them all.")
    for keep, peer in metrics["best_peer"].items():
        low, high = peer["ci"] or (float("nan"), float("nan"))
        console.print(
            f"gridprune against the best peer at {keep}: {100 * peer['difference']:+.1f} points on {peer['method']} "
            f"(95 %: {100 * low:+.1f} to {100 * high:+.1f})",
            highlight=False,
        )


def sign(found: Mapping[str, Any], console: Console) -> None:
    """All readings, and what follows."""
    for name, measured in found["readings"].items():
        console.print(
            f"{name:>5}: {percent(measured['share'])} of the top {found['keep']} tokens lie in the boxes "
            f"({_over(measured['ci'])})",
            highlight=False,
        )
    images = f"{found['n']} questions about {found['images']} images"
    console.print(f"chance: {percent(found['chance'])}; {images}", highlight=False)
    console.print(f"in use: {found['in_use']}; best: {found['best']}", highlight=False)
    difference = found["difference"]
    if found["better"]:
        console.print(
            f"{found['better']} is better than what is in use by {percent(difference['share'])} "
            f"({_over(difference['ci'])})",
            highlight=False,
        )
    elif difference["ci"] is None:
        console.print("undecided: give more images")
    else:
        console.print("none is better beyond chance than what is in use")


def calibrate(found: Mapping[str, Any], console: Console) -> None:
    """Equal and calibrated head weights side by side, and what follows."""
    what = (
        f"of the top {found['keep']} tokens lie in the boxes" if found["by"] == "boxes" else "of the answers are right"
    )
    for name in ("equal", "calibrated"):
        measured = found[name]
        console.print(f"{name:>10}: {percent(measured['share'])} {what} ({_over(measured['ci'])})", highlight=False)
    chance = "" if found["chance"] is None else f"chance: {percent(found['chance'])}; "
    images = f"{found['n']} questions about {found['images']} images, judged on images they were not fitted to"
    console.print(f"{chance}{images}", highlight=False)
    difference = found["difference"]
    if found["better"]:
        console.print(
            f"calibrated weights are better by {percent(difference['share'])} ({_over(difference['ci'])})",
            highlight=False,
        )
        console.print(f"hawk(weights={found['weights']})", highlight=False, soft_wrap=True)
    else:
        few = " of so few images: give more" if difference["ci"] is None else ""
        console.print(f"undecided{few}: calibrated weights are not better beyond chance")


def _over(ci: Sequence[float] | None) -> str:
    return "no interval of so few images" if ci is None else f"95 %: {100 * ci[0]:.1f} to {100 * ci[1]:.1f}"


def percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
