"""`python -m benchmarks` on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from gridprune.cli.options import print_json, telling


def bench_command(
    parts: Annotated[
        str,
        typer.Option("--parts", help="Comma separated: decisions, published, profile, tiny, llava-1.5-7b, ... or all."),
    ] = "all",
    quick: Annotated[bool, typer.Option("--quick", help="Small sizes and the embedded model's shape only.")] = False,
    rounds: Annotated[int, typer.Option(min=1, help="Interleaved rounds.")] = 3,
    cap: Annotated[
        float, typer.Option(min=0.0, help="Seconds one decision may take; larger sizes are skipped.")
    ] = 20.0,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="JSON file, written after every measurement; a run continues where it stopped."),
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure again what the file holds.")] = False,
    device: Annotated[str, typer.Option("--device", help="Where decisions are made: cpu, cuda, ...")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout and nothing else.")] = False,
) -> None:
    """Measure what looking, choosing and the remaining tokens cost: ratios from interleaved runs."""
    from transformers.utils import logging

    from .run import PARTS, QUICK, bench
    from .show import show

    logging.set_verbosity_error()
    chosen = (QUICK if quick else PARTS) if parts == "all" else [part.strip() for part in parts.split(",")]
    with telling("measuring") as progress:
        result = bench(
            chosen,
            rounds=rounds,
            cap=cap,
            quick=quick,
            out=out,
            fresh=fresh,
            device=device,
            progress=progress,
        )
    if as_json:
        print_json(result)
    else:
        show(result, Console())
