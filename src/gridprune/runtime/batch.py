"""`gridprune batch`: questions about many images, answers as JSONL; what is answered already is not asked again."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import SettingError, first_line
from .jsonl import read_lines

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..methods.base import Method
    from .ask import Answer, Loaded

Key = tuple[str, str, Any]  # an image as it was named, a question, and an id if the line has one

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task:
    """One question about one image; `image` as it was named, `path` where it lies, `id` as the line has it."""

    image: str
    question: str
    path: Path
    id: str | int | None = None

    @property
    def key(self) -> Key:
        """What makes it the same task in another run."""
        return self.image, self.question, self.id

    @property
    def named(self) -> dict[str, Any]:
        """The fields that every row about it begins with."""
        return _named(self.key)


def _named(key: Key) -> dict[str, Any]:
    image, question, number = key
    return ({} if number is None else {"id": number}) | {"image": image, "question": question}


Failed = Callable[[Task, str], None]
_TABLES = (".parquet", ".csv", ".tsv", ".xlsx", ".arrow")


@dataclass
class Summary:
    """What a run did.

    Attributes:
        answered: answered now.
        skipped: found answered in the output.
        failed: tasks without an answer, each with the reason.
        seconds: wall seconds of the answers with pruned prompts.
        full_seconds: the same with all visual tokens, if they were compared.
        changed: answers that differ from those with all visual tokens.
    """

    answered: int = 0
    skipped: int = 0
    failed: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    full_seconds: float = 0.0
    changed: int = 0

    def count(self, row: dict[str, Any]) -> None:
        """Add an answer."""
        self.answered += 1
        self.seconds += row["seconds"]
        if "full" in row:
            self.full_seconds += row["full"]["seconds"]
            self.changed += row["full"]["answer"] != row["answer"]

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
    """The questions to ask: one about every image of a folder, or the lines of a JSONL file.

    Args:
        source: a folder, searched with its subfolders in order of names; or a file with one object with "image",
            "question" and, if you like, "id" a line, paths relative to the file.
        question: asked about every image of a folder; of a file, about lines that have none.

    Raises:
        SettingError: nothing there, or a line without image or question.
    """
    from .images import SUFFIXES

    if source.is_dir():
        if not question:
            raise SettingError("Give the question to ask about every image of the folder.")
        files = sorted(path for path in source.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
        if not files:
            raise SettingError(f"There are no images in {str(source)!r} ({', '.join(sorted(SUFFIXES))}).")
        return [Task(path.relative_to(source).as_posix(), question, path) for path in files]
    if not source.is_file():
        raise SettingError(f"There is no folder and no file {str(source)!r}.")
    if source.suffix.lower() in SUFFIXES:
        raise SettingError(f"{source.name} is one image, which `gridprune ask` is for; give a folder or a JSONL file.")
    if source.suffix.lower() in _TABLES:
        raise SettingError(f"{source.name} is no JSONL: pandas writes that, by to_json(orient='records', lines=True).")
    lines = read_lines(source)
    return [_task(line, number, source, question) for number, line in enumerate(lines, 1) if line.strip()]


def _task(line: str, number: int, source: Path, question: str | None) -> Task:
    try:
        row = json.loads(line)
        image, asked, own = row["image"], row.get("question") or question, row.get("id")
    except (ValueError, KeyError, TypeError, AttributeError):
        image = asked = own = None
    if not isinstance(image, str) or not isinstance(asked, str) or not isinstance(own, (str, int, type(None))):
        raise SettingError(f'{source.name}, line {number}: expected an object like {{"image": ..., "question": ...}}.')
    return Task(image, asked, source.parent / image, own)


class Output:
    """The JSONL file of answers, and beside it the list of what failed.

    Rows are written whole; half a row, left by a crash, is cut off. A task that failed is not in the file of answers:
    it stands with its reason in `failed_path`, until a later run, which tries it after all others, can answer it.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        """Args:
        settings: what answers depend on; a file with others is refused.

        Raises:
            SettingError: the file holds answers under other settings, or is something else.
        """
        self.path, self.settings = path, settings
        self.failed_path = path.with_name(f"{path.stem}.failed.jsonl")
        self.done: set[Key] = set()
        self.failed: dict[Key, str] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        for number, line in enumerate(_whole_lines(path), 1):
            self._note(line, number)
        for number, line in enumerate(_whole_lines(self.failed_path), 1):
            key, reason = _read(line, "reason", self.failed_path, number)
            self.failed[key] = reason

    def _note(self, line: bytes, number: int) -> None:
        key, settings = _read(line, "settings", self.path, number)
        if settings != self.settings:
            raise SettingError(
                f"{self.path} holds answers with other settings ({json.dumps(settings)}). Choose another --output."
            )
        self.done.add(key)

    def open_tasks(self, tasks: Sequence[Task]) -> list[Task]:
        """What is left to do, each once, and behind it what failed before."""
        left = {task.key: task for task in tasks if task.key not in self.done}
        return sorted(left.values(), key=lambda task: task.key in self.failed)

    def failures_of(self, tasks: Sequence[Task]) -> list[Task]:
        """The tasks that failed before and have no answer yet.

        Raises:
            SettingError: there is none.
        """
        found = [task for task in tasks if task.key in self.failed and task.key not in self.done]
        if not found:
            raise SettingError(f"Nothing to retry: {self.failed_path} names no row of these.")
        return found

    def write(self, task: Task, row: dict[str, Any]) -> None:
        """Append the answer to `task`."""
        _append(self.path, {**task.named, **row, "settings": self.settings})
        self.done.add(task.key)

    def fail(self, task: Task, reason: str) -> None:
        """Note why `task` has no answer."""
        _append(self.failed_path, {**task.named, "reason": reason})
        self.failed[task.key] = reason

    def close(self) -> None:
        """Leave in the list of failures what is still without an answer."""
        self.failed = {key: reason for key, reason in self.failed.items() if key not in self.done}
        self.failed_path.unlink(missing_ok=True)
        for key, reason in self.failed.items():
            _append(self.failed_path, {**_named(key), "reason": reason})


def _whole_lines(path: Path) -> list[bytes]:
    """The lines of a file, if it is there; half a line at its end is cut off, in the file too."""
    if not path.is_file():
        return []
    data = path.read_bytes()
    end = data.rfind(b"\n") + 1
    if end < len(data):
        os.truncate(path, end)
    return data[:end].split(b"\n")[:-1]


def _read(line: bytes, name: str, path: Path, number: int) -> tuple[Key, Any]:
    """The task that a row is about, and one of its other fields."""
    try:
        row = json.loads(line)
        return (row["image"], row["question"], row.get("id")), row[name]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise SettingError(f"{path}, line {number} is not of `gridprune batch`. Choose another --output.") from None


def _append(path: Path, row: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def run(
    loaded: Loaded,
    tasks: Sequence[Task],
    method: Method,
    output: Output,
    *,
    compare: bool = False,
    max_new_tokens: int = 64,
    batch_size: int = 1,
    failed: Failed = lambda task, reason: None,
) -> Iterator[Summary]:
    """Answer what the output does not hold yet; yields the running summary after every batch.

    Args:
        compare: also answer with all visual tokens, in turns, so that both meet the same machine.
        batch_size: rows answered in one call; one that fails in a batch is asked again by itself.
        failed: told about a task that has no answer, whatever the reason; the next run tries it again, last.

    Raises:
        GridPruneError: this model and this method cannot go together, whatever is asked.
    """
    from .failures import Failures

    loaded.pruning(method)  # what cannot work fails here, and the text half is read before the first measurement
    ask = _Asker(loaded, method, compare, max_new_tokens)
    left = output.open_tasks(tasks)
    failures = Failures()
    summary = Summary(skipped=len(tasks) - len(left))
    yield summary
    for start in range(0, len(left), batch_size):
        for task, row in ask(left[start : start + batch_size]):
            if isinstance(row, Exception):  # of the row, whatever it is: the others must not wait for it
                reason = failures.reason(row)
                output.fail(task, reason)
                summary.failed.append({**task.named, "reason": reason})
                failed(task, reason)
            else:
                output.write(task, row)
                summary.count(row)
        yield summary
    output.close()


@dataclass
class _Asker:
    """Answers tasks, timed. Its first call pays for allocations: it is made once for nothing."""

    loaded: Loaded
    method: Method
    compare: bool
    max_new_tokens: int
    _warm: bool = False

    def __call__(self, tasks: Sequence[Task]) -> Iterator[tuple[Task, dict[str, Any] | Exception]]:
        """The row of every task, or why it has none. Tasks of a batch that fails are asked one by one."""
        from .images import read_image

        ready: list[tuple[Task, Image]] = []
        for task in tasks:
            try:
                ready.append((task, read_image(task.path)))
            except Exception as error:
                yield task, error
        try:
            rows = self._rows([image for _, image in ready], [task.question for task, _ in ready]) if ready else []
        except Exception as error:
            if len(ready) == 1:
                yield ready[0][0], error
                return
            _log.warning("A batch of %d failed (%s): its rows are asked one by one.", len(ready), first_line(error))
            for task, _ in ready:
                yield from self([task])
        else:
            yield from zip((task for task, _ in ready), rows, strict=True)

    def _rows(self, images: list[Image], questions: list[str]) -> list[dict[str, Any]]:
        ways = [self.method, None] if self.compare else [self.method]
        if not self._warm:
            for way in ways:
                self._answers(images, questions, way, 1)
            self._warm = True
        (pruned, seconds), *full = [self._answers(images, questions, way, self.max_new_tokens) for way in ways]
        rows: list[dict[str, Any]] = [{"answer": answer.text, "seconds": round(seconds, 4)} for answer in pruned]
        for number, (row, answer) in enumerate(zip(rows, pruned)):
            if answer.report is not None:
                row["visual_tokens"] = {"total": answer.report.total, "kept": answer.report.kept}
            for answers, took in full:
                row["full"] = {"answer": answers[number].text, "seconds": round(took, 4)}
        return rows

    def _answers(
        self, images: list[Image], questions: list[str], method: Method | None, limit: int
    ) -> tuple[list[Answer], float]:
        """The answers, and the seconds for each, prompts prepared and images encoded."""
        from . import ask

        started = time.perf_counter()
        if len(images) == 1:
            inputs = ask.prepare(self.loaded, images[0], questions[0])
        else:
            inputs = ask.prepare_batch(self.loaded, images, questions)
        guided = None if method is None else self.loaded.pruning(method, questions, max_reports=len(images))
        found = ask.respond_all(self.loaded, inputs, guided, limit)
        return found, (time.perf_counter() - started) / len(images)
