"""Which end of CLIP's patch relevance points at what the question asks about? Measured on labelled boxes, per tower.

OpenAI's CLIP gives background patches the higher cosine, other towers do not; a wrong sign makes text guidance worse
than chance. For both signs: the share of the k most relevant tokens that lie on evidence
(:func:`gridprune.eval.evidence.evidence`), averaged over questions with boxes, with intervals that resample scenes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..core.budget import Keep
from ..core.scores import topk
from ..cues.question import clean
from ..errors import MissingCueError, QuestionError
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
    """Shares of both signs, their paired difference, and the sign that localises: None if that is undecided.

    Intervals are over images, and there are none (None) of fewer than :data:`LEAST_IMAGES`. A sign is decided if the
    interval of the difference does not hold zero.

    Raises:
        QuestionError: no question has boxes on a token map.
        MissingCueError: the model's relevance does not come from a text tower, or none is at hand.
    """
    engine = Shared(loaded, cells([parse("relevance")], [keep]), decodes=False)
    if engine.selector.text.clip is None:
        raise MissingCueError(
            "Only relevance from a CLIP or SigLIP text tower has a sign to measure. Give --clip FOLDER_OR_HUB_ID."
        )
    per_scene: list[tuple[float, float, float, int]] = []
    done = 0
    for scene in data.scenes():
        found = list(_questions(engine, scene, keep))
        if found:
            plus, minus, chance = (sum(values) for values in zip(*found))
            per_scene.append((plus, minus, chance, len(found)))
        done += len(scene.questions)
        progress(done)
    if not per_scene:
        raise QuestionError(
            "No question has boxes that fall on a token: labelled boxes are needed to measure the sign."
        )
    table = np.array(per_scene)
    asked = table[:, 3].sum()
    weights = resamples(len(table))
    drawn = (weights @ table[:, :3]) / (weights @ table[:, 3:])
    mean = table[:, :3].sum(0) / asked
    enough = len(table) >= LEAST_IMAGES
    plus_ci, minus_ci, difference = (
        interval(values) if enough else None for values in (drawn[:, 0], drawn[:, 1], drawn[:, 0] - drawn[:, 1])
    )
    decided = difference is not None and (difference[0] > 0 or difference[1] < 0)
    return {
        "model": Path(loaded.name).name,
        "data": data.name,
        "n": int(asked),
        "images": len(table),
        "keep": keep,
        "chance": round(float(mean[2]), 4),
        "plus": {"share": round(float(mean[0]), 4), "ci": plus_ci},
        "minus": {"share": round(float(mean[1]), 4), "ci": minus_ci},
        "difference": {"share": round(float(mean[0] - mean[1]), 4), "ci": difference},
        "localises": (1 if mean[0] > mean[1] else -1) if decided else None,
        "in_use": engine.selector.text.clip.relevance_sign,
    }


def _questions(engine: Shared, scene: Scene, keep: Keep) -> list[tuple[float, float, float]]:
    """For each question with evidence: shares of plus and of minus, and the share expected by chance."""
    vision, token_map = looked_at(engine.family, prepare(engine.loaded, scene.image, "?"))
    encoded, token_map = engine.selector.encode(vision, [token_map]), token_map.candidates
    labelled = []
    for question in scene.questions:
        boxes = seen_boxes(question.boxes, scene.image.size, engine.loaded.processor)
        wanted = evidence(token_map, boxes)
        if bool(wanted.any()):
            labelled.append((clean(question.text), wanted))
    if not labelled:
        return []
    method = Relevance(keep=keep)
    questions = [text for text, _ in labelled]
    cues = engine.selector.cues(encoded, [0] * len(labelled), questions)
    relevance = cues.require("relevance").cpu()
    k = method.budget.resolve(len(token_map))
    out = []
    for values, (_, wanted) in zip(relevance, labelled):
        plus, minus = (float(wanted[topk(sign * values[None], k)[0]].float().mean()) for sign in (1, -1))
        out.append((plus, minus, float(wanted.float().mean())))
    return out
