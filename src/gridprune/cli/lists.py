"""`gridprune methods`, `gridprune families` and `gridprune export-clip`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from .options import Json, print_json, quiet, stderr


def methods_command(as_json: Json = False) -> None:
    """List the methods: what they need, where they act, what they cost."""
    from ..methods.registry import describe

    rows = describe()
    if as_json:
        print_json(rows)
        return
    table = Table()
    for name in ("method", "stage", "fixed count", "uses text", "needs", "cost", "paper"):
        table.add_column(name, overflow="fold")
    for row in rows:
        needs = ", ".join(row["needs"]) or "-"
        flags = ["yes" if row[key] else "no" for key in ("fixed_count", "uses_text")]
        table.add_row(row["name"], row["stage"], *flags, needs, row["cost"], row["paper"] or "-")
    Console().print(table)


def families_command(as_json: Json = False) -> None:
    """List the model families: classes, where their cues come from, videos, tested versions of transformers."""
    from ..families.registry import describe

    rows = describe()
    if as_json:
        print_json(rows)
        return
    table = Table()
    for name in ("family", "classes", "saliency", "relevance", "video", "refused"):
        table.add_column(name, overflow="fold")
    for row in rows:
        video, limits = "yes" if row["video"] else "no", "\n".join(f"{k}: {v}" for k, v in row["limits"].items())
        table.add_row(row["name"], "\n".join(row["classes"]), row["saliency"], row["relevance"], video, limits or "-")
    Console().print(table)


def export_clip_command(
    source: Annotated[str, typer.Argument(help="A CLIP checkpoint: folder or hub id.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The side folder to write.")] = Path("clip"),
) -> None:
    """Write the text half of a CLIP, once, as a small side folder; put it as `clip` in the checkpoint it belongs to."""
    from ..cues.clip_text import ClipText

    quiet()
    with stderr.status(f"reading {source}"):
        side = ClipText.load(source)
        target = side.export(output)
    size = sum(file.stat().st_size for file in target.iterdir() if file.is_file())
    stderr.print(f"{target}: {size / 1e6:.1f} MB, relevance sign {side.relevance_sign:+d}", highlight=False)
