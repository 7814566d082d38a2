"""`gridprune doctor`: what is installed, whether it fits together, and whether pruning works here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from itertools import chain
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from ..errors import SettingError
from .options import Clip, Json, print_json, quiet, stderr

if TYPE_CHECKING:
    from ..runtime.doctor import Check

_COLOURS = {"ok": "green", "note": "yellow", "broken": "red"}


def doctor_command(
    context: typer.Context,
    model: Annotated[
        str | None, typer.Option("--model", help="Also look at this checkpoint: 'embedded', a folder, or a hub id.")
    ] = None,
    clip: Clip = None,
    serve: Annotated[
        str | None,
        typer.Option(
            "--serve",
            help="Also start vLLM's engine on this model, prune an image and compare with transformers. "
            "Options not listed here go to the engine, such as --enforce-eager.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check versions, extras, devices, plugins, and pruning itself on the embedded model; say what to do.

    Ends with 1 if something is broken that is required, and with 0 otherwise.
    """
    if context.args and serve is None:
        raise SettingError(f"Unknown option(s): {' '.join(context.args)}. Only --serve passes some on, to vLLM.")
    quiet(bars=False)
    checks: list[Check] = []
    for check in _checks(model, clip, serve, context.args):
        if not as_json:
            _print(check, checks[-1] if checks else None)
        checks.append(check)
    broken = any(check.state == "broken" for check in checks)
    if as_json:
        print_json({"ok": not broken, "checks": [asdict(check) for check in checks]})
    raise typer.Exit(int(broken))


def _checks(model: str | None, clip: str | None, serve: str | None, options: list[str]) -> Iterator[Check]:
    from ..runtime import doctor
    from ..runtime.served import served

    yield from chain(doctor.versions(), doctor.extras(), doctor.hardware(), doctor.plugins())
    if model is not None:
        yield from doctor.checkpoint(model, clip)
    with stderr.status("pruning the embedded model"):
        found = list(doctor.selftest())
    yield from found
    if serve is not None:
        with stderr.status(f"starting vLLM on {serve}; this takes minutes"):
            found = list(served(serve, clip, options))
        yield from found


def _print(check: Check, last: Check | None) -> None:
    console = Console(highlight=False, soft_wrap=True)
    if last is None or last.area != check.area:
        console.print(f"[bold]{check.area}[/bold]")
    colour = _COLOURS[check.state]
    console.print(f"  [{colour}]{check.state:6}[/{colour}] {check.name:14} {escape(check.found)}")
    if check.do:
        console.print(f"         {'':14} -> {escape(check.do)}")
