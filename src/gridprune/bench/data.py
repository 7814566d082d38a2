"""What is asked: questions grouped by picture, generated or a user's own, and how an answer is judged."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from PIL import Image

from ..errors import QuestionError, SettingError
from ..images import read_image
from ..tiny import Example, iter_examples, text_prior
from ..tiny.forms import FORMS

Box = tuple[float, float, float, float]
UNSCORED = frozenset({"describe"})  # generated families that are shown but not averaged, as in the model card
EXACT = "exact"
NORMALISED = "normalised"
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = re.compile(r"[^\w\s%$€£.,:/-]|(?<!\d)[.,:/-]|[.,:/-](?!\d)")


@dataclass(frozen=True)
class Question:
    """Attributes:
    id: unique in the data set.
    answers: any of them is right.
    family: kind of question; accuracies are reported by family.
    boxes: where the evidence is, as fractions of the picture; empty if unknown or if nothing is there to see.
    """

    id: str
    text: str
    answers: tuple[str, ...]
    family: str
    boxes: tuple[Box, ...] = ()


@dataclass(frozen=True)
class Scene:
    """A picture and its questions; `number` counts the pictures of a data set from 0."""

    number: int
    image: Image.Image
    questions: tuple[Question, ...]


@dataclass(frozen=True)
class DataSet:
    """Attributes:
    name: split or file name.
    total: number of questions.
    matching: "exact" (after stripping blanks) or "normalised" (see :func:`normalise`).
    unscored: families that are left out of the mean over families.
    form: of generated scenes: "llava" (192 px) or "next" (384 px).
    """

    name: str
    total: int
    matching: str
    unscored: frozenset[str]
    seed: int
    file: Path | None = None
    form: str = "llava"

    def scenes(self) -> Iterator[Scene]:
        """The pictures in order, with their questions."""
        if self.file is not None:
            yield from _read(self.file, self.total)
            return
        examples = iter_examples(self.name, self.total, seed=self.seed or None, form=self.form)
        for number, (_, group) in enumerate(groupby(examples, key=lambda example: example.scene)):
            members = list(group)
            yield Scene(number, members[0].image, tuple(_question(example) for example in members))

    def prior(self) -> dict[str, float] | None:
        """Accuracy by family of text alone: the best constant answer to each question template."""
        return None if self.file is not None else text_prior(self.name, seed=self.seed or None, form=self.form)

    def right(self, given: str, question: Question) -> bool:
        """Whether an answer counts."""
        if self.matching == EXACT:
            return given.strip() in question.answers
        return normalise(given) in {normalise(answer) for answer in question.answers}


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


def own(file: str | Path, questions: int | None = None) -> DataSet:
    """A user's questions: JSON lines with `image` (path, relative to the file), `question`, `answer` (one or a list),
    and optionally `family` and `boxes` ([[x0, y0, x1, y1], ...] in pixels).

    Raises:
        QuestionError: a line cannot be read; the message says which and why.
    """
    path = Path(file)
    if not path.is_file():
        raise QuestionError(f"There is no file {str(path)!r}. Give JSON lines with image, question and answer.")
    rows = _lines(path)
    for row in rows:
        if not (path.parent / row["image"]).is_file():
            raise QuestionError(f"{path.name}: there is no picture {row['image']!r} beside the file.")
    total = len(rows) if questions is None else min(questions, len(rows))
    return DataSet(path.name, total, NORMALISED, frozenset(), 0, path)


def normalise(answer: str) -> str:
    """Lower case, no punctuation (kept inside numbers), no articles unless nothing else is left, single blanks."""
    text = " ".join(_PUNCTUATION.sub(" ", answer.lower()).split())
    return " ".join(_ARTICLES.sub(" ", text).split()) or text


def _question(example: Example) -> Question:
    width, height = example.image.size
    return Question(
        example.id, example.question, (example.answer,), example.family, _fractions(example.boxes, width, height)
    )


def _fractions(boxes: Any, width: int, height: int) -> tuple[Box, ...]:
    return tuple((x0 / width, y0 / height, x1 / width, y1 / height) for x0, y0, x1, y1 in boxes)


def _lines(path: Path) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        where = f"{path.name}, line {number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise QuestionError(f"{where}: not JSON ({error}).") from None
        absent = [key for key in ("image", "question", "answer") if not isinstance(row, dict) or not row.get(key)]
        if absent:
            raise QuestionError(
                f"{where}: {', '.join(absent)} missing or empty; every line needs image, question, answer."
            )
        if any(len(box) != 4 or box[2] <= box[0] or box[3] <= box[1] for box in row.get("boxes", [])):
            raise QuestionError(f"{where}: every box must be [x0, y0, x1, y1] in pixels with x0 < x1 and y0 < y1.")
        rows.append({**row, "id": str(row.get("id", number))})
    if not rows:
        raise QuestionError(f"{path.name} holds no question.")
    return rows


def _read(path: Path, total: int) -> Iterator[Scene]:
    """Neighbouring lines with the same picture are one scene."""
    for number, (image, group) in enumerate(groupby(_lines(path)[:total], key=lambda row: str(row["image"]))):
        picture = read_image(path.parent / image)
        questions = tuple(
            Question(
                id=row["id"],
                text=str(row["question"]),
                answers=tuple(map(str, row["answer"])) if isinstance(row["answer"], list) else (str(row["answer"]),),
                family=str(row.get("family", "all")),
                boxes=_fractions(row.get("boxes", []), *picture.size),
            )
            for row in group
        )
        yield Scene(number, picture, questions)
