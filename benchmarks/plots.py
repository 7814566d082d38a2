"""The bench as plots."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .tables import Result, between


def growth(result: Result, axes: Any) -> None:
    """Milliseconds of the decision against visual tokens, one line per method."""
    _lines(axes, {name: _milliseconds(row) for name, row in result["parts"]["decisions"].items()})
    axes.set(ylabel="decision, ms")


def memory(result: Result, axes: Any) -> None:
    """Most bytes a decision holds at once against visual tokens, one line per method."""
    rows = result["parts"]["decisions"].items()
    _lines(axes, {name: {int(n): held / 1e6 for n, held in row.get("bytes", {}).items() if held} for name, row in rows})
    axes.set(ylabel="memory of the decision, MB")


def profile(result: Result, axes: Any) -> None:
    """Where each decision's milliseconds go, as parts of the whole."""
    rows = result["parts"]["profile"]["rows"]
    parts = {name: {**row["kinds"], "between kernels": between(row)} for name, row in rows.items()}
    start = dict.fromkeys(rows, 0.0)
    for kind in next(iter(parts.values())):
        share = {name: 100 * part[kind] / sum(part.values()) for name, part in parts.items()}
        axes.barh(list(share), list(share.values()), left=list(start.values()), label=kind)
        start = {name: start[name] + share[name] for name in rows}
    axes.invert_yaxis()
    axes.set(xlabel="part of the decision, %", xlim=(0, 100))
    axes.tick_params(axis="y", labelsize=6)
    axes.legend(fontsize=6, ncols=4, loc="lower center", bbox_to_anchor=(0.4, 1.0))


PLOTS: Mapping[str, Callable[[Result, Any], None]] = {
    "speed-growth-plot": growth,
    "speed-memory-plot": memory,
    "speed-profile-plot": profile,
}


def _milliseconds(row: Mapping[str, Any]) -> dict[int, float]:
    return {int(n): values[0] for n, values in row.get("ms", {}).items()}


def _lines(axes: Any, methods: Mapping[str, Mapping[int, float]]) -> None:
    for name, points in methods.items():
        if points:
            ours = name == "gridprune"
            style = {"color": "#c02020", "lw": 2.6, "zorder": 3} if ours else {"lw": 1.0}
            axes.plot(list(points), list(points.values()), marker="o", ms=3, label=name, **style)
    axes.set(xscale="log", yscale="log", xlabel="visual tokens")
    axes.legend(fontsize=5, ncols=3, loc="upper left")
