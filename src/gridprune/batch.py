"""`gridprune batch`: questions about many pictures, answers as JSONL; what is answered already is not asked again."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .errors import GridPruneError, ImageError, SettingError

if TYPE_CHECKING:
    from .methods.base import Method
    from .runtime import Loaded

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"})


@dataclass(frozen=True)
class Task:
    """One question about one picture; `image` as it was named, `path` where it lies."""

    image: str
    question: str
    path: Path


@dataclass
class Summary:
    """What a run did.

    Attributes:
        answered: answered now.
        skipped: found answered in the output.
        failed: pictures that could not be read or answered, each with the reason.
        seconds: wall seconds of the answers with pruned prompts.
        full_seconds: the same with all visual tokens, if they were compared.
        changed: answers that differ from those with all visual tokens.
    """

    answered: int = 0
    skipped: int = 0
    failed: list[dict[str, str]] = field(default_factory=list)
    seconds: float = 0.0
    full_seconds: float = 0.0
    changed: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain values, with rates over the answers of this run."""
        result: dict[str, Any] = asdict(self)
        result["images_per_second"] = _rate(self.answered, self.seconds)
        if self.full_seconds:
            result["full_images_per_second"] = _rate(self.answered, self.full_seconds)
            result["speedup"] = round(self.full_seconds / self.seconds, 3)
        else:
            del result["full_seconds"], result["changed"]
        return result


def _rate(count: int, seconds: float) -> float | None:
    return round(count / seconds, 3) if seconds else None


def tasks_of(source: Path, question: str | None) -> list[Task]:
    """The questions to ask: one about every picture of a folder, or the lines of a JSONL file.

    Args:
        source: a folder, searched with its subfolders in order of names; or a file with one object with "image" and
            "question" a line, paths relative to the file.
        question: asked about every picture of a folder; of a file, about lines that have none.

    Raises:
        SettingError: nothing there, or a line without picture or question.
    """
    if source.is_dir():
        if not question:
            raise SettingError("Give the question to ask about every picture of the folder.")
        files = sorted(path for path in source.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
        if not files:
            raise SettingError(f"There are no pictures in {str(source)!r} ({', '.join(sorted(SUFFIXES))}).")
        return [Task(path.relative_to(source).as_posix(), question, path) for path in files]
    if not source.is_file():
        raise SettingError(f"There is no folder and no file {str(source)!r}.")
    lines = source.read_text(encoding="utf-8").splitlines()
    return [_task(line, number, source, question) for number, line in enumerate(lines, 1) if line.strip()]


def _task(line: str, number: int, source: Path, question: str | None) -> Task:
    try:
        row = json.loads(line)
        image, asked = row["image"], row.get("question") or question
    except (ValueError, KeyError, TypeError, AttributeError):
        image = asked = None
    if not isinstance(image, str) or not isinstance(asked, str):
        raise SettingError(f'{source.name}, line {number}: expected an object like {{"image": ..., "question": ...}}.')
    return Task(image, asked, source.parent / image)


class Output:
    """The JSONL file of answers. Rows are written whole; half a row, left by a crash, is cut off."""

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        """Args:
        settings: what answers depend on; a file with others is refused.

        Raises:
            SettingError: the file holds answers under other settings, or is something else.
        """
        self.path, self.settings = path, settings
        self.done: set[tuple[str, str]] = set()
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            return
        whole = path.read_bytes()
        end = whole.rfind(b"\n") + 1
        for number, line in enumerate(whole[:end].splitlines(), 1):
            self._note(line, number)
        if end < len(whole):
            with path.open("r+b") as file:
                file.truncate(end)

    def _note(self, line: bytes, number: int) -> None:
        try:
            row = json.loads(line)
            key, settings = (row["image"], row["question"]), row["settings"]
        except (ValueError, KeyError, TypeError):
            raise SettingError(f"{self.path}, line {number} is not an answer. Choose another --output.") from None
        if settings != self.settings:
            raise SettingError(
                f"{self.path} holds answers with other settings ({json.dumps(settings)}). Choose another --output."
            )
        self.done.add(key)

    def write(self, task: Task, row: dict[str, Any]) -> None:
        """Append the answer to `task`."""
        whole = {"image": task.image, "question": task.question, **row, "settings": self.settings}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(whole) + "\n")
        self.done.add((task.image, task.question))


def run(
    loaded: Loaded,
    tasks: Sequence[Task],
    method: Method,
    output: Output,
    *,
    compare: bool = False,
    max_new_tokens: int = 64,
    failed: Callable[[Task, str], None] = lambda task, reason: None,
) -> Iterator[Summary]:
    """Answer what the output does not hold yet; yields the running summary after every task.

    Args:
        compare: also answer with all visual tokens, in turns, so that both meet the same machine.
        failed: told about a picture that cannot be read or answered; it is left for the next run.
    """
    from .images import read_image
    from .runtime import answer

    summary = Summary()
    warm = False
    for task in tasks:
        if (task.image, task.question) in output.done:
            summary.skipped += 1
            yield summary
            continue
        try:
            picture = read_image(task.path)
            if not warm:  # the first call pays for allocations: it is made once for nothing
                answer(loaded, picture, task.question, method, max_new_tokens=1)
                if compare:
                    answer(loaded, picture, task.question, max_new_tokens=1)
                warm = True
            started = time.perf_counter()
            pruned = answer(loaded, picture, task.question, method, max_new_tokens=max_new_tokens)
            seconds = time.perf_counter() - started
            row: dict[str, Any] = {"answer": pruned.text, "seconds": round(seconds, 4)}
            if pruned.report is not None:
                row["visual_tokens"] = {"total": pruned.report.total, "kept": pruned.report.kept}
            if compare:
                started = time.perf_counter()
                full = answer(loaded, picture, task.question, max_new_tokens=max_new_tokens)
                row["full"] = {"answer": full.text, "seconds": round(time.perf_counter() - started, 4)}
        except GridPruneError as error:
            summary.failed.append({"image": task.image, "reason": str(error)})
            failed(task, str(error))
            if not isinstance(error, ImageError) and not summary.answered and len(summary.failed) == len(tasks):
                raise  # nothing works: the reason is not the pictures
            yield summary
            continue
        output.write(task, row)
        summary.answered += 1
        summary.seconds += seconds
        if compare:
            summary.full_seconds += row["full"]["seconds"]
            summary.changed += row["full"]["answer"] != pruned.text
        yield summary


def batch_command(
    source: Annotated[Path, typer.Argument(help="A folder of pictures, or JSONL with image and question a line.")],
    question: Annotated[str | None, typer.Argument(help="Asked about every picture of a folder.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="JSONL of answers; a run continues it.")] = Path(
        "answers.jsonl"
    ),
    model: Annotated[str, typer.Option("--model", help="'embedded', a checkpoint folder, or a hub id.")] = "embedded",
    method: Annotated[str, typer.Option("--method", help="See `gridprune methods`.")] = "gridprune",
    keep: Annotated[str, typer.Option("--keep", help="Visual tokens to keep: a count (64) or a share.")] = "11.1%",
    compare: Annotated[bool, typer.Option("--compare", help="Also answer with all visual tokens.")] = False,
    clip: Annotated[str | None, typer.Option("--clip", help="CLIP or SigLIP text half: folder or hub id.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 64,
    device: Annotated[str, typer.Option("--device", help="A torch device, such as cpu or cuda.")] = "cpu",
    dtype: Annotated[str, typer.Option("--dtype", help="auto, float32, bfloat16 or float16.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="The summary as one JSON object on stdout.")] = False,
) -> None:
    """Answer questions about many pictures; answers go to a JSONL file, and a second run does what is left."""
    from .methods import create

    stderr = Console(stderr=True)
    chosen = create(method, keep=keep)
    tasks = tasks_of(source, question)
    settings = {"model": model, "method": method, "keep": keep, "max_new_tokens": max_new_tokens, "compare": compare}
    answers = Output(output, settings)
    from transformers.utils import logging

    from .runtime import load

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with stderr.status("loading the model"):
        loaded = load(model, clip=clip, device=device, dtype=dtype)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    summary = Summary()
    with Progress(*columns, console=stderr) as bar:
        line = bar.add_task("answering", total=len(tasks))

        def failed(task: Task, reason: str) -> None:
            bar.console.print(f"skipped {task.image}: {reason}", style="yellow", highlight=False, markup=False)

        limits: dict[str, Any] = {"compare": compare, "max_new_tokens": max_new_tokens}
        for so_far in run(loaded, tasks, chosen, answers, failed=failed, **limits):
            summary = so_far
            bar.advance(line)
    result = {**summary.to_dict(), "output": str(output)}
    if as_json:
        json.dump(result, sys.stdout)
        sys.stdout.write("\n")
        return
    rate = f", {result['images_per_second']} pictures/s" if summary.answered else ""
    against = f", {result['speedup']}x the rate with all visual tokens" if "speedup" in result else ""
    print(f"{summary.answered} answered, {summary.skipped} were there, {len(summary.failed)} failed{rate}{against}")
