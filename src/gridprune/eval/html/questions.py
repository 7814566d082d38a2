"""The questions that the page shows: words, answers, images, evidence and kept tokens.

Images are not part of a run. Generated ones are made again from the seed, a user's own are read again; an image
whose questions are not those of the run is left out.
"""

from __future__ import annotations

import base64
import hashlib
import io
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ...errors import SettingError
from .. import data, kept
from ..data import Box, DataSet, Question, Scene
from ..entries import FULL
from ..evidence import boxes_within

_LONGEST_SIDE = 512  # pixels of an image in the page
Row = Mapping[str, Any]


def data_of(identity: Mapping[str, Any], file: Path | None) -> DataSet:
    """The data set of a run.

    Args:
        file: the user's questions, for a run on these.

    Raises:
        SettingError: the file is missing, superfluous, or not the one the run was asked.
        QuestionError: it cannot be read.
    """
    if identity["data_sha256"] is None:
        if file is not None:
            raise SettingError("This run asked generated questions: leave --data out.")
        return data.generated(
            identity["data"], identity["questions"], identity["data_seed"], identity.get("data_form", "llava")
        )
    if file is None:
        raise SettingError(
            f"This run asked the questions of {identity['data']}: give that file with --data to show its images, or "
            "--questions 0 to leave the questions out."
        )
    found = data.own(file, identity["questions"])
    if hashlib.sha256(file.read_bytes()).hexdigest() != identity["data_sha256"]:
        raise SettingError(f"{file.name} is not the file that this run asked: its content differs.")
    return found


def sample(rows: Sequence[Row], count: int) -> list[Row]:
    """The first scenes, up to the one that holds question number `count`."""
    before = itertools.accumulate((len(row["questions"]) for row in rows), initial=0)
    return [row for row, start in zip(rows, before) if start < count]


def gather(
    rows: Sequence[Row], asked: DataSet, labels: Sequence[str], progress: Callable[[int], None] = lambda done: None
) -> dict[str, Any]:
    """Scenes and questions for the page.

    Args:
        rows: of the run, from its first on (:func:`sample`).
        labels: cells in the order in which answers and kept tokens are listed, without the full one.
        progress: called with the number of scenes done.
    """
    scenes, questions = [], []
    for number, (row, scene) in enumerate(zip(rows, asked.scenes())):
        known = {question.id: question for question in scene.questions}
        asking = [known.get(identity) for identity, *_ in row["questions"]]
        same = _same(row, asking)
        seen = tuple(row.get("seen", (0.0, 0.0, 1.0, 1.0)))
        scenes.append(_scene(row, scene if same else None, seen, labels))
        questions += [_question(row, i, number, one if same else None, seen, labels) for i, one in enumerate(asking)]
        progress(number + 1)
    return {"scenes": scenes, "questions": questions}


def _same(row: Row, asking: Sequence[Question | None]) -> bool:
    """Whether a row tells of these questions, and of any: those that failed are not in it."""
    told = [text for _, _, text, _ in row["questions"]]
    return bool(told) and told == [None if question is None else question.text for question in asking]


def _scene(row: Row, scene: Scene | None, seen: Box, labels: Sequence[str]) -> dict[str, Any]:
    """An image and its kept tokens; those of a method that reads no question are listed once."""
    found: dict[str, Any] = {"image": None}
    if scene is not None:
        image = _cropped(scene.image, seen)
        found |= {"image": _encoded(image), "size": list(image.size)}
    if "kept" in row:
        found["boxes"] = kept.boxes_of(row["places"]).round(4).tolist() if "boxes" in row["places"] else None
        found["grids"] = row["places"].get("grids")
        found["n"] = row["places"]["n"]
        found["kept"] = [row["kept"].get(label) for label in labels]
    return found


def _question(
    row: Row, i: int, scene: int, question: Question | None, seen: Box, labels: Sequence[str]
) -> dict[str, Any]:
    identity, kind, text, answer = row["questions"][i]
    boxes = [] if question is None else boxes_within(question.boxes, seen)
    return {
        "id": identity,
        "scene": scene,
        "place": i,
        "kind": kind,
        "text": text,
        "answer": answer if isinstance(answer, list) else [answer],
        "full": _answer(row["answers"][FULL][i]),
        "given": [_answer(row["answers"][label][i]) for label in labels],
        "recall": [_of(row["recall"][label], i) for label in labels],
        "boxes": [[round(value, 4) for value in box] for box in boxes],
    }


def _answer(value: Any) -> Any:
    """1 for a right answer, or the words of another; what those that are right in part count stands behind them."""
    return f"{value[1]} ({value[0]:.0%})" if isinstance(value, list) else value


def _of(values: Any, i: int) -> Any:
    """A row holds one value instead of a list of equal ones."""
    return values[i] if isinstance(values, list) else values


def _cropped(image: Image.Image, part: Box) -> Image.Image:
    width, height = image.size
    x0, y0, x1, y1 = part
    return image.crop((round(x0 * width), round(y0 * height), round(x1 * width), round(y1 * height)))


def _encoded(image: Image.Image) -> str:
    """A data URI: PNG for small images, which must not blur, JPEG for the others."""
    small = max(image.size) <= 256
    image = image.convert("RGB")
    image.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
    buffer = io.BytesIO()
    kind = "png" if small else "jpeg"
    image.save(buffer, kind, **({"optimize": True} if small else {"quality": 82}))
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
