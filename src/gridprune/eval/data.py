"""What is asked: questions grouped by image, generated or a user's own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from PIL import Image

from ..errors import ImageError, QuestionError, SettingError
from ..runtime.images import read_image
from ..runtime.jsonl import read_lines
from ..tiny import Example, iter_examples, text_prior
from ..tiny.forms import FORMS
from . import scoring
from .scoring import EXACT

Box = tuple[float, float, float, float]
UNSCORED = frozenset({"describe"})  # generated kinds that are shown but not averaged, as in the model card


@dataclass(frozen=True)
class Question:
    """Attributes:
    id: unique in the data set.
    answers: any of them is right; for the metric "vqa" one of each annotator.
    kind: kind of question; accuracies are reported by kind.
    boxes: where the evidence is, as fractions of the image; empty if unknown or if nothing is there to see.
    metric: how answers are scored; see :mod:`gridprune.eval.scoring`.
    """

    id: str
    text: str
    answers: tuple[str, ...]
    kind: str
    boxes: tuple[Box, ...] = ()
    metric: str = EXACT

    def score(self, given: str) -> float:
        """How right an answer is, from 0 to 1."""
        return scoring.score(self.metric, given, self.answers)


@dataclass(frozen=True)
class Scene:
    """An image and its questions.

    Attributes:
        number: counts the images of a data set from 0.
        opened: the image; None if it cannot be read.
        problem: why it cannot be read.
    """

    number: int
    opened: Image.Image | None
    questions: tuple[Question, ...]
    problem: str = ""

    @property
    def image(self) -> Image.Image:
        """The image.

        Raises:
            ImageError: it cannot be read.
        """
        if self.opened is None:
            raise ImageError(self.problem)
        return self.opened


@dataclass(frozen=True)
class DataSet:
    """Attributes:
    name: split or file name.
    total: number of questions.
    matching: the metrics by which answers are scored, comma-separated.
    unscored: kinds that are left out of the mean over kinds.
    form: of generated scenes: "llava" (192 px) or "next" (384 px).
    metric: of questions that name none.
    """

    name: str
    total: int
    matching: str
    unscored: frozenset[str]
    seed: int
    file: Path | None = None
    form: str = "llava"
    metric: str = EXACT

    def scenes(self) -> Iterator[Scene]:
        """The images in order, with their questions."""
        if self.file is not None:
            yield from _read(self.file, self.total, self.metric)
            return
        examples = iter_examples(self.name, self.total, seed=self.seed or None, form=self.form)
        for number, (_, group) in enumerate(groupby(examples, key=lambda example: example.scene)):
            members = list(group)
            yield Scene(number, members[0].image, tuple(_question(example) for example in members))

    def prior(self) -> dict[str, float] | None:
        """Accuracy by kind of text alone: the best constant answer to each question template."""
        return None if self.file is not None else text_prior(self.name, seed=self.seed or None, form=self.form)


def generated(split: str, questions: int, seed: int = 0, form: str = "llava") -> DataSet:
    """The first `questions` of a split of the generated scenes: of 192 px, or of 384 px in the form "next".

    Raises:
        SettingError: unknown split or form, or fewer than one question.
    """
    if split not in ("dev", "test"):
        raise SettingError(f"--split must be dev (for tuning) or test (untouched), got {split!r}.")
    if questions < 1:
        raise SettingError(f"--questions must be at least 1, got {questions}.")
    if form not in FORMS:
        raise SettingError(f"--form must be one of {', '.join(FORMS)}, got {form!r}.")
    return DataSet(split, questions, EXACT, UNSCORED, seed, form=form)


def own(file: str | Path, questions: int | None = None, metric: str = EXACT) -> DataSet:
    """A user's questions: JSON lines with `image` (path, relative to the file), `question`, `answer` (one or a list),
    and optionally `kind`, `metric` and `boxes` ([[x0, y0, x1, y1], ...] in pixels).

    An image that cannot be read makes its own questions fail, not the data set.

    Args:
        questions: only the first so many.
        metric: of lines that name none.

    Raises:
        QuestionError: a line cannot be read, or no image is there; the message says which and why.
    """
    path = Path(file)
    if not path.is_file():
        raise QuestionError(f"There is no file {str(path)!r}. Give JSON lines with image, question and answer.")
    rows = _lines(path, metric)[:questions]
    if not any(_is_file(path.parent / row["image"]) for row in rows):
        raise QuestionError(f"{path.name}: there is no image {rows[0]['image'][:80]!r} beside the file, nor another.")
    matching = ", ".join(sorted({row["metric"] for row in rows}))
    return DataSet(path.name, len(rows), matching, frozenset(), 0, path, metric=metric)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # not even a name that a file can have
        return False


def _question(example: Example) -> Question:
    width, height = example.image.size
    return Question(
        example.id, example.question, (example.answer,), example.kind, _fractions(example.boxes, width, height)
    )


def _fractions(boxes: Any, width: int, height: int) -> tuple[Box, ...]:
    return tuple((x0 / width, y0 / height, x1 / width, y1 / height) for x0, y0, x1, y1 in boxes)


def _lines(path: Path, metric: str) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(read_lines(path), 1):
        if line.strip():
            try:
                rows.append(_row(line, number, metric))
            except QuestionError as error:
                raise QuestionError(f"{path.name}, line {number}: {error}.") from None
    if not rows:
        raise QuestionError(f"{path.name} holds no question.")
    return rows


def _row(line: str, number: int, metric: str) -> dict[str, Any]:
    """One line with everything in its place; a QuestionError says what is wrong with it."""
    try:
        row = json.loads(line)
        json.dumps(row, ensure_ascii=False).encode()  # as the run's rows will be
    except ValueError as error:  # half a surrogate pair is one too
        raise QuestionError(f"not JSON in Unicode ({error})") from None
    if not isinstance(row, dict):
        raise QuestionError("not an object; every line needs image, question, answer")
    answers = row["answer"] if isinstance(row.get("answer"), list) else [row.get("answer")]
    given = {"image": _is_text(row.get("image")), "question": _is_text(row.get("question"))}
    given["answer"] = bool(answers) and all(_is_text(one) or _is_number(one) for one in answers)
    absent = [name for name, fine in given.items() if not fine]
    if absent:
        raise QuestionError(
            f"{', '.join(absent)} missing, empty or of another type; every line needs image and question as text, and "
            "answer as text, a number, or a list of these"
        )
    row |= {"answer": tuple(map(str, answers)), "metric": row.get("metric", metric), "id": str(row.get("id", number))}
    scoring.check(row["metric"], row["answer"])
    boxes = row.setdefault("boxes", [])
    if not isinstance(boxes, list) or not all(map(_is_box, boxes)):
        raise QuestionError("every box must be [x0, y0, x1, y1] in pixels with x0 < x1 and y0 < y1")
    return row


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_box(box: Any) -> bool:
    numbers = isinstance(box, list) and len(box) == 4 and all(map(_is_number, box))
    return numbers and box[0] < box[2] and box[1] < box[3]


def _read(path: Path, total: int, metric: str) -> Iterator[Scene]:
    """All lines about one image are one scene, which stands where the first of them does."""
    scenes: dict[str, list[dict[str, Any]]] = {}
    for row in _lines(path, metric)[:total]:
        scenes.setdefault(str(row["image"]), []).append(row)
    for number, (image, group) in enumerate(scenes.items()):
        opened, problem = None, ""
        try:
            opened = read_image(path.parent / image)
        except (ImageError, MemoryError) as error:
            problem = str(error) or "There is not enough memory for this image."
        questions = tuple(
            Question(
                id=row["id"],
                text=row["question"],
                answers=row["answer"],
                kind=str(row.get("kind", "all")),
                boxes=_fractions(row["boxes"], *opened.size) if opened else (),
                metric=row["metric"],
            )
            for row in group
        )
        yield Scene(number, opened, questions, problem)
