"""Which questions `eval`, `sign` and `calibrate` ask, and the bar that counts them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import SettingError
from .options import stderr

if TYPE_CHECKING:
    from ..eval.data import DataSet

Data = Annotated[
    Path | None,
    typer.Option("--data", help="Your own questions: JSON lines with image, question, answer [, boxes, kind]."),
]
Questions = Annotated[int | None, typer.Option("--questions", "-n", min=1, help="How many; 600 by default.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Another set of generated scenes.")]


def form_of(model: str) -> str:
    """Scenes that fit a model."""
    from ..runtime.ask import EMBEDDED_FORMS

    return EMBEDDED_FORMS.get(model, "llava")


def data_set(
    file: Path | None, split: str, questions: int | None, seed: int, form: str, metric: str | None = None
) -> DataSet:
    from ..eval import data, scoring

    if file is None:
        if metric is not None:
            raise SettingError("--metric scores your own questions; it has no meaning without --data.")
        return data.generated(split, questions or 600, seed, form)
    if seed:
        raise SettingError("--seed chooses generated scenes; it has no meaning with --data.")
    return data.own(file, questions, metric or scoring.EXACT)


@contextmanager
def progress(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on stderr that counts questions."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=stderr) as bar:
        task = bar.add_task(title, total=total)
        try:
            yield lambda done: bar.update(task, completed=done)
        except KeyboardInterrupt:
            bar.stop()
            stderr.print("stopped; give the same command again to continue")
            raise typer.Exit(130) from None
