"""Which end of CLIP's patch relevance points at what the question asks about? Measured on labelled boxes, per tower.

Some towers give background patches the higher cosine, others do not, and on some evidence lies at both ends; a wrong
sign makes text guidance worse than chance. For every reading (:mod:`gridprune.core.reading`): the share of the k most
relevant tokens that lie on evidence (:func:`gridprune.eval.evidence.evidence`), averaged over questions with boxes,
with intervals that resample scenes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.budget import Keep
from ..core.reading import READINGS
from ..core.scores import topk
from ..cues.question import clean
from ..errors import MissingCueError, QuestionError
from ..methods.base import Cues
from ..methods.relevance import Relevance
from ..runtime.ask import Loaded, looked_at, prepare
from .data import DataSet, Scene
from .entries import parse
from .evidence import evidence, seen_boxes
from .metrics import interval, resamples
from .shared import Shared, cells

LEAST_IMAGES = 6  # with fewer, all on one side is no rarity: 2 * 0.5^5 is more than 5 %


@torch.no_grad()
def measure(
    loaded: Loaded, data: DataSet, keep: Keep = "11.1%", progress: Callable[[int], None] = lambda done: None
) -> dict[str, Any]:
    """Shares of all readings, the paired difference of the best and the one in use, and which is better beyond chance
    than the one in use: None if none is, or if that is undecided.

    Intervals are over images, and there are none (None) of fewer than :data:`LEAST_IMAGES`.

    Raises:
        QuestionError: no question has boxes on a token map.
        MissingCueError: the model's relevance does not come from a text tower, or none is at hand.
    """
    engine = Shared(loaded, cells([parse("relevance(reading='agree')")], [keep]), decodes=False)
    if engine.selector.text.clip is None:
        raise MissingCueError(
            "Only relevance from a CLIP or SigLIP text tower has a sign to measure. Give --clip FOLDER_OR_HUB_ID."
        )
    per_scene: list[list[float]] = []
    done = 0
    for scene in data.scenes():
        found = list(_questions(engine, scene, keep))
        if found:
            per_scene.append([*(sum(values) for values in zip(*found)), len(found)])
        done += len(scene.questions)
        progress(done)
    if not per_scene:
        raise QuestionError(
            "No question has boxes that fall on a token: labelled boxes are needed to measure the sign."
        )
    table = np.array(per_scene)
    weights, asked = resamples(len(table)), table[:, -1].sum()
    drawn = (weights @ table[:, :-1]) / (weights @ table[:, -1:])
    mean = table[:, :-1].sum(0) / asked
    best, used = int(mean[:-1].argmax()), READINGS.index(engine.selector.text.clip.reading)
    enough = len(table) >= LEAST_IMAGES
    *own, difference = (
        interval(values) if enough else None for values in (*drawn.T[: len(READINGS)], drawn[:, best] - drawn[:, used])
    )
    return {
        "model": Path(loaded.name).name,
        "data": data.name,
        "n": int(asked),
        "images": len(table),
        "keep": keep,
        "chance": round(float(mean[-1]), 4),
        "readings": {name: {"share": round(float(mean[i]), 4), "ci": own[i]} for i, name in enumerate(READINGS)},
        "in_use": READINGS[used],
        "best": READINGS[best],
        "difference": {"share": round(float(mean[best] - mean[used]), 4), "ci": difference},
        "better": READINGS[best] if difference is not None and difference[0] > 0 else None,
    }


def _questions(engine: Shared, scene: Scene, keep: Keep) -> list[list[float]]:
    """For each question with evidence: the share of every reading, and the one expected by chance."""
    found = labelled(engine, scene)
    if found is None:
        return []
    cues, on = found
    k = Relevance(keep=keep).budget.resolve(on.shape[1])
    kept = [topk(cues.read(reading), k).cpu() for reading in READINGS]  # [B, k] each
    shares = torch.stack([*(on.gather(1, each).mean(1) for each in kept), on.mean(1)], 1)
    return shares.tolist()  # type: ignore[no-any-return]


def labelled(engine: Shared, scene: Scene) -> tuple[Cues, Tensor] | None:
    """The cues of a scene's questions with evidence, and (B, N) fp32 where it is; None if there are no such."""
    if not any(question.boxes for question in scene.questions):
        return None
    vision, (token_map,) = looked_at(engine.family, prepare(engine.loaded, scene.image, "?"))
    encoded, token_map = engine.selector.encode(vision, [token_map]), token_map.candidates
    asked, on = [], []
    for question in scene.questions:
        boxes = seen_boxes(question.boxes, scene.image.size, engine.loaded.processor)
        wanted = evidence(token_map, boxes)
        if bool(wanted.any()):
            asked.append(clean(question.text))
            on.append(wanted)
    return (engine.selector.cues(encoded, [0] * len(asked), asked), torch.stack(on).float()) if asked else None
