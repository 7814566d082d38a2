"""`gridprune report`: a run as one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..files import check_output, written
from .options import stderr


def report_command(
    run: Annotated[Path, typer.Argument(help="Folder of a run: what `gridprune eval --out` wrote.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The HTML file to write.")] = Path("report.html"),
    questions: Annotated[
        int, typer.Option("--questions", "-n", min=0, help="Questions to show with their images; the first ones.")
    ] = 200,
    data: Annotated[
        Path | None, typer.Option("--data", help="The question file of a run on your own questions.")
    ] = None,
) -> None:
    """Write a run as one HTML file: tables, plots, and a browser of questions with what each method kept."""
    from ..eval.html.page import report
    from ..eval.store import RunFolder

    check_output(output, (".html", ".htm"))
    with stderr.status("reading the run") as status:
        text = report(
            RunFolder(run),
            questions=questions,
            data=data,
            progress=lambda done: status.update(f"drawing images: {done}"),
        )
    with written(output) as partial:
        partial.write_text(text, encoding="utf-8")
    stderr.print(f"written to {output} ({len(text.encode()) / 1e6:.1f} MB)", soft_wrap=True)
