"""`gridprune batch`: questions about many images."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..files import check_output, sole_writer
from ..runtime.batch import Output, Summary, Task, run, tasks_of
from . import options
from .options import load_model, print_json, stderr


def batch_command(
    source: Annotated[Path, typer.Argument(help="A folder of images, or JSONL with image and question a line.")],
    question: Annotated[str | None, typer.Argument(help="Asked about every image of a folder.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="JSONL of answers; a run continues it.")] = Path(
        "answers.jsonl"
    ),
    model: options.Model = "embedded",
    method: options.MethodSpec = "gridprune",
    keep: options.Keep = "11.1%",
    compare: options.Compare = False,
    batch_size: Annotated[int, typer.Option("--batch-size", "-b", min=1, help="Rows answered in one call.")] = 1,
    retry: Annotated[bool, typer.Option("--retry", help="Ask only the rows that failed before.")] = False,
    clip: options.Clip = None,
    max_new_tokens: options.MaxNewTokens = 64,
    device: options.Device = "auto",
    device_map: options.DeviceMap = None,
    dtype: options.Dtype = "auto",
    as_json: options.Json = False,
) -> None:
    """Answer questions about many images; answers go to a JSONL file, and a second run does what is left.

    An image or question that fails stops nothing: its reason goes to OUTPUT.failed.jsonl, and the next run tries it
    again, after all others. The exit code is 1 if there is no answer at all.
    """
    from ..methods.spec import parse

    spec = parse(method)
    chosen = spec.method(keep)
    tasks = tasks_of(source, question)
    check_output(output)
    settings = {
        "model": model,
        "clip": clip,
        "dtype": dtype,
        "method": spec.label,
        "keep": keep,
        "max_new_tokens": max_new_tokens,
        "compare": compare,
    }
    with sole_writer(output):
        answers = Output(output, settings)
        if retry:
            tasks = answers.failures_of(tasks)
        loaded = load_model(model, clip, device, dtype, device_map)
        limits: dict[str, Any] = {"compare": compare, "max_new_tokens": max_new_tokens, "batch_size": batch_size}
        start = partial(run, loaded, tasks, chosen, answers, **limits)
        summary = _with_a_bar(tasks, stderr, start)
    result = {**summary.to_dict(), "output": str(output)}
    if as_json:
        print_json(result)
    else:
        print(_in_words(result, answers.failed_path))
    if summary.failed and not answers.done:
        raise typer.Exit(1)


def _with_a_bar(tasks: Sequence[Task], console: Console, start: Callable[..., Iterator[Summary]]) -> Summary:
    """Go through a run with a bar that counts tasks, and a line for each that fails."""
    rate = TextColumn("{task.fields[rate]}")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), rate)
    summary = Summary()
    with Progress(*columns, console=console) as bar:
        line, started = bar.add_task("answering", total=len(tasks), rate=""), time.perf_counter()

        def failed(task: Task, reason: str) -> None:
            words = f"failed: {task.image[:80]}: {reason}".encode(
                errors="backslashreplace"
            ).decode()  # names may be any bytes
            console.print(words, style="yellow", soft_wrap=True)

        for summary in start(failed=failed):
            now = summary.answered + len(summary.failed)
            rate_now = f"{now / (time.perf_counter() - started):.2f} rows/s" if now else ""
            bar.update(line, completed=now + summary.skipped, rate=rate_now)
    return summary


def _in_words(result: dict[str, Any], failed_path: Path) -> str:
    """The end of a run, in one line."""
    rate = f", {result['images_per_second']} images/s" if result["answered"] else ""
    against = f", {result['speedup']}x the rate with all visual tokens" if "speedup" in result else ""
    reasons = f" ({failed_path})" if result["failed"] else ""
    counts = f"{result['answered']} answered, {result['skipped']} answered before, {len(result['failed'])} failed"
    return f"{counts}{reasons}{rate}{against}"
