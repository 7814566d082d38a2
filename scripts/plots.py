"""Runs as PNG plots. Each file carries the digest of the numbers it shows, so that a stale one is found undrawn."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from gridprune.files import written

from .tables import Run, is_variant

_KEY = "gridprune-results"
_COLOURS = ("blue", "orange", "green", "purple", "brown", "pink", "olive", "cyan")  # red and grey are taken below
_STYLE: Mapping[str, Any] = {"oracle": {"color": "0.6", "linestyle": ":"}, "gridprune": {"color": "#c02020", "lw": 2.6}}


def retention(run: Run, axes: Any) -> None:
    """Mean retention against visual tokens kept, one line per method."""
    for method, points in _lines(run).items():
        points.sort(key=lambda row: row["tokens"])
        tokens = [row["tokens"] for row in points]
        axes.plot(tokens, [100 * row["retention"] for row in points], marker="o", ms=3, label=method, **_style(method))
        if method == "gridprune" and all(row["ci"] for row in points):
            low, high = ([100 * row["ci"][i] for row in points] for i in (0, 1))
            axes.fill_between(tokens, low, high, color="#c02020", alpha=0.15, lw=0)
    axes.axhline(100, color="0.7", lw=0.8)
    axes.set(xscale="log", xlabel=f"visual tokens kept of {run['full']['tokens']:g}", ylabel="retention, %")
    ticks = sorted({row["tokens"] for row in run["rows"] if row["tokens"] == int(row["tokens"])})
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks], minor=False)
    axes.minorticks_off()
    axes.legend(fontsize=6, ncols=1 + len(_lines(run)) // 14, loc="lower right")


def pareto(run: Run, axes: Any) -> None:
    """Mean retention against the seconds from the encoder's output to the first word: decision and prompt."""
    decide, prefill = run["timing"].get("decide", {}), run["timing"].get("prefill", {})
    full = prefill.get(f"{run['full']['tokens']:g}")
    if full:
        axes.axvline(1000 * full, color="0.7", lw=0.8, ls="--")
        axes.annotate("all tokens", (1000 * full, axes.get_ylim()[0]), rotation=90, fontsize=6, color="0.4")
    for method, points in _lines(run).items():
        shown = []
        for row in points:
            seconds = decide.get(f"{method}|{row['keep']}")
            reading = prefill.get(f"{row['tokens']:g}")
            if seconds is not None and reading is not None:
                shown.append((1000 * (seconds + reading), 100 * row["retention"]))
        if shown:
            shown.sort()
            axes.plot(*zip(*shown), marker="o", ms=3, label=method, **_style(method))
    axes.set(xscale="log", xlabel="decision + reading the prompt, ms", ylabel="retention, %")
    axes.legend(fontsize=6, ncols=1 + len(_lines(run)) // 14, loc="lower right")


PLOTS: Mapping[str, Callable[[Run, Any], None]] = {"retention-plot": retention, "pareto-plot": pareto}


def draw(name: str, run: Run, file: Path, plot: Callable[[Run, Any], None]) -> None:
    """Write a plot, which is called `name`."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7.2, 4.6), dpi=130, layout="constrained")
    axes.grid(alpha=0.25)
    axes.set_prop_cycle(color=[f"tab:{name}" for name in _COLOURS])
    plot(run, axes)
    with written(file) as partial:
        figure.savefig(partial, metadata={_KEY: digest(name, run), "Software": None})
    pyplot.close(figure)


def is_current(name: str, run: Run, file: Path) -> bool:
    """Whether the file shows these numbers."""
    if not file.is_file():
        return False
    with Image.open(file) as image:
        return bool(image.info.get(_KEY) == digest(name, run))


def digest(name: str, run: Run) -> str:
    """Of everything a plot may show."""
    shown = [name, run["full"], run["rows"], run["timing"]] if "rows" in run else [name, dict(run)]
    return hashlib.sha256(json.dumps(shown, sort_keys=True).encode()).hexdigest()[:16]


def _lines(run: Run) -> dict[str, list[Mapping[str, Any]]]:
    lines: dict[str, list[Mapping[str, Any]]] = {}
    for row in run["rows"]:
        if row["retention"] is not None and not is_variant(row["method"], run):
            lines.setdefault(row["method"], []).append(row)
    return lines


def _style(method: str) -> dict[str, Any]:
    return {"lw": 1.2, **_STYLE.get(method, {})}
