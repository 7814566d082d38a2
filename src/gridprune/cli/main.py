"""The command line: `gridprune ask | explain | methods | eval | ...`. Heavy imports happen inside commands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from .. import __version__
from .ask import ask_command, explain_command
from .batch import batch_command
from .bench import bench_command
from .calibrate import calibrate_command
from .demo import demo_command
from .doctor import doctor_command
from .eval import eval_command
from .lists import export_clip_command, families_command, methods_command
from .options import reported
from .plan import plan_command
from .report import report_command
from .serve import serve_command
from .sign import sign_command

app = typer.Typer(
    name="gridprune",
    help="Training-free pruning of visual tokens for multimodal LLMs: guide globally, select locally.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_show_locals=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


_VERSION = typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")


@app.callback()
def options(version: Annotated[bool, _VERSION] = False) -> None:
    pass


_COMMANDS: dict[str, Callable[..., None]] = {
    "ask": ask_command,
    "explain": explain_command,
    "demo": demo_command,
    "batch": batch_command,
    "methods": methods_command,
    "families": families_command,
    "eval": eval_command,
    "bench": bench_command,
    "report": report_command,
    "sign": sign_command,
    "calibrate": calibrate_command,
    "plan": plan_command,
    "export-clip": export_clip_command,
}
for name, command in _COMMANDS.items():
    app.command(name)(reported(command))
_PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True}  # options of vLLM's
app.command("serve", context_settings=_PASSED_ON)(reported(serve_command))
app.command("doctor", context_settings=_PASSED_ON)(reported(doctor_command))
