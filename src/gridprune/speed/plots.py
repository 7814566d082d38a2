"""The bench as plots."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .tables import Result


def growth(result: Result, axes: Any) -> None:
    """Milliseconds of the decision against visual tokens, one line per method."""
    _lines(axes, {name: _milliseconds(row) for name, row in result["parts"]["decisions"].items()})
    axes.set(ylabel="decision, ms")


def memory(result: Result, axes: Any) -> None:
    """Most bytes a decision holds at once against visual tokens, one line per method."""
    rows = result["parts"]["decisions"].items()
    _lines(axes, {name: {int(n): held / 1e6 for n, held in row.get("bytes", {}).items() if held} for name, row in rows})
    axes.set(ylabel="memory of the decision, MB")


PLOTS: Mapping[str, Callable[[Result, Any], None]] = {"speed-growth-plot": growth, "speed-memory-plot": memory}


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
