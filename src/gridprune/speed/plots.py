"""The bench as plots."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .tables import Result


def growth(result: Result, axes: Any) -> None:
    """Milliseconds of the decision against visual tokens, one line per method."""
    for name, row in result["parts"]["decisions"].items():
        if row.get("ms"):
            sizes = [int(n) for n in row["ms"]]
            ours = name == "gridprune"
            style = {"color": "#c02020", "lw": 2.6, "zorder": 3} if ours else {"lw": 1.0}
            axes.plot(sizes, [values[0] for values in row["ms"].values()], marker="o", ms=3, label=name, **style)
    axes.set(xscale="log", yscale="log", xlabel="visual tokens", ylabel="decision, ms")
    axes.legend(fontsize=5, ncols=3, loc="upper left")


PLOTS: Mapping[str, Callable[[Result, Any], None]] = {"speed-growth-plot": growth}
