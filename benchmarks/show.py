"""The bench's result for a terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markdown import Markdown

from .tables import TABLES


def show(result: dict[str, Any], console: Console) -> None:
    """Print every table whose part was measured."""
    shapes = [name for name, part in result["parts"].items() if "stages" in part]
    wanted = {
        "speed": bool(shapes),
        "speed-gap": bool(shapes),
        "speed-parts": bool(shapes),
        **{f"speed-{part}": part in result["parts"] for part in ("decisions", "published", "profile", "capture")},
    }
    for name, there in wanted.items():
        if there:
            console.print(Markdown(TABLES[name](result)))
