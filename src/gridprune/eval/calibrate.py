"""How much should each query head count when the language model's first attention layer reads the question? Fitted to
boxes, or to answers where there are none, and judged on images that the fit has not seen.

Boxes: a ridge regression of the evidence (:func:`gridprune.eval.evidence.evidence`) on the heads' rows, as `hawk` reads
them, that shrinks towards equal weights; its strength is chosen by held-out squared error. Answers: as HAWK's release
(arXiv 2604.07812) found its own, every head is switched off in turn, and its weight is what is lost without it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import families
from ..core.budget import Keep
from ..core.scores import topk
from ..errors import QuestionError
from ..methods.hawk import Hawk, head_rows
from ..runtime.ask import Loaded
from .data import DataSet, Scene
from .entries import parse
from .metrics import Floats, interval, resamples
from .own import PerQuestion
from .shared import Shared, cells
from .sign import LEAST_IMAGES, labelled

STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0)  # of the ridge, by the mean square of a head's rows
FOLDS = 5  # below twice as many images each is a fold of its own
Progress = Callable[[int], None]


@torch.no_grad()
def measure(
    loaded: Loaded, data: DataSet, keep: Keep = "11.1%", progress: Progress = lambda done: None
) -> dict[str, Any]:
    """Held-out shares of equal and of calibrated weights, their paired difference, and the weights fitted to all images
    (sum of magnitudes 1); "better" only if the interval of the difference is above zero.

    A share is that of the k best tokens that lie on evidence, or of right answers if no question has boxes. Intervals
    resample images; there are none (None) of fewer than :data:`gridprune.eval.sign.LEAST_IMAGES`.

    Raises:
        QuestionError: the questions have boxes, but none of them falls on a token; or none could be answered.
        UnsupportedModelError: the language model has no first attention layer that can be read.
    """
    boxed = any(question.boxes for scene in data.scenes() for question in scene.questions)
    by = _by_boxes if boxed else _by_answers
    table, weights = by(loaded, data, keep, progress)
    drawn = resamples(len(table)) @ table
    drawn = drawn[:, :-1] / drawn[:, -1:]
    mean = table[:, :-1].sum(0) / table[:, -1].sum()
    enough = len(table) >= LEAST_IMAGES

    def told(share: float, values: Floats) -> dict[str, Any]:
        return {"share": round(float(share), 4), "ci": interval(values) if enough else None}

    difference = told(mean[1] - mean[0], drawn[:, 1] - drawn[:, 0])
    return {
        "model": Path(loaded.name).name,
        "data": data.name,
        "by": "boxes" if boxed else "answers",
        "n": int(table[:, -1].sum()),
        "images": len(table),
        "keep": keep,
        "chance": round(float(mean[2]), 4) if boxed else None,
        "equal": told(mean[0], drawn[:, 0]),
        "calibrated": told(mean[1], drawn[:, 1]),
        "difference": difference,
        "weights": None if weights is None else [round(each, 6) for each in weights],
        "better": weights is not None and difference["ci"] is not None and difference["ci"][0] > 0,
    }


# -- boxes -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Labelled:
    """One image: (Q, H, N) rows of the heads, and (Q, N) fp32 where the evidence is."""

    rows: Tensor
    on: Tensor

    def equations(self) -> tuple[Tensor, Tensor]:
        """(H, H) and (H,) float64: normal equations, rows centred over tokens, evidence centred and of length 1."""
        rows, on = self.rows.double(), self.on.double()
        rows, on = rows - rows.mean(-1, keepdim=True), on - on.mean(-1, keepdim=True)
        on = on / on.norm(dim=-1, keepdim=True).clamp(min=1e-30)
        return torch.einsum("qhn,qgn->hg", rows, rows), torch.einsum("qhn,qn->h", rows, on)

    def share(self, weights: Tensor, keep: Keep) -> float:
        """Sum over the questions of the share of the k best tokens that lie on evidence."""
        scores = torch.einsum("h,qhn->qn", weights.float(), self.rows)
        kept = topk(scores, Hawk(keep=keep).budget.resolve(scores.shape[1]))
        return float(self.on.gather(1, kept).mean(1).sum())


def _by_boxes(loaded: Loaded, data: DataSet, keep: Keep, progress: Progress) -> tuple[Floats, Sequence[float] | None]:
    engine = Shared(loaded, cells([parse("hawk")], [keep]), decodes=False)
    images, done = [], 0
    for scene in data.scenes():
        if (found := labelled(engine, scene)) is not None:
            images.append(Labelled(head_rows(found[0]).cpu(), found[1]))
        done += len(scene.questions)
        progress(done)
    if not images:
        raise QuestionError("No box falls on a token: boxes are [[x0, y0, x1, y1], ...] in pixels of the image.")
    return judge(images, keep)


def judge(images: Sequence[Labelled], keep: Keep) -> tuple[Floats, Sequence[float] | None]:
    """Per image the sums of shares (equal weights, weights fitted to other folds, chance) and the number of questions;
    and the weights fitted to all images, None of one image."""
    per_image = [image.equations() for image in images]
    count = min(FOLDS, len(images)) if len(images) >= 2 * FOLDS else len(images)
    member = [number % count for number in range(len(images))]
    folds = [_total([each for each, own in zip(per_image, member) if own == fold]) for fold in range(count)]
    equal = torch.full((len(folds[0][1]),), 1 / len(folds[0][1]), dtype=torch.float64, device="cpu")
    held_out = [equal]  # of one image there is nothing to fit to
    if count > 1:
        held_out = [_fit([each for other, each in enumerate(folds) if other != fold]) for fold in range(count)]
    table = [
        [image.share(equal, keep), image.share(held_out[fold], keep), float(image.on.mean(1).sum()), len(image.on)]
        for image, fold in zip(images, member)
    ]
    return np.array(table), _fit(folds).tolist() if len(images) > 1 else None


def _total(equations: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    return sum(each[0] for each in equations), sum(each[1] for each in equations)  # type: ignore[return-value]


def _fit(folds: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """(H,) weights of magnitude 1, by the strength that predicts each fold best from the others."""

    def error(strength: float) -> float:
        total = 0.0
        for out, (square, product) in enumerate(folds):
            rest = [each for other, each in enumerate(folds) if other != out]
            found = _ridge(*_total(rest), strength) if rest else torch.zeros_like(product)
            total += float(found @ square @ found - 2 * found @ product)
        return total

    weights = _ridge(*_total(folds), min(STRENGTHS, key=error))
    return weights / weights.abs().sum().clamp(min=1e-30)


def _ridge(square: Tensor, product: Tensor, strength: float) -> Tensor:
    """The solution that shrinks towards the best multiple, not below 0, of equal weights."""
    ones = torch.ones_like(product)
    start = ones * (product.sum() / square.sum().clamp(min=1e-30)).clamp(min=0)
    penalty = strength * square.trace() / len(product)
    return start + torch.linalg.solve(
        square + penalty * torch.eye(len(product), dtype=square.dtype, device=square.device), product - square @ start
    )


# -- answers ---------------------------------------------------------------------------------------------------------


def _by_answers(loaded: Loaded, data: DataSet, keep: Keep, progress: Progress) -> tuple[Floats, Sequence[float] | None]:
    scenes = list(data.scenes())
    heads = families.find(loaded.model).streams[0].first_attention.heads
    without = [tuple(float(other != head) for other in range(heads)) for head in range(heads)] if heads > 1 else []
    right = _right(loaded, scenes, ["equal", *without], keep, progress)
    number = {question.id: scene.number % 2 for scene in scenes for question in scene.questions}
    fitted = [_lost([scores for own, scores in right.items() if number[own] != half]) for half in (0, 1)]
    judged: dict[str, list[float]] = {}
    for half, weights in enumerate(fitted):
        asked = [scene for scene in scenes if scene.number % 2 == half]
        judged |= {} if weights is None else _right(loaded, asked, [weights], keep)
    table = []
    for scene in scenes:
        own = [question.id for question in scene.questions if question.id in right]
        if own:
            equal = [right[each][0] for each in own]
            calibrated = [judged.get(each, right[each])[0] for each in own]
            table.append([sum(equal), sum(calibrated), len(own)])
    if not table:
        raise QuestionError("No question could be answered, so no head can be weighed; `gridprune eval` says why.")
    return np.array(table, dtype=np.float64), _lost(list(right.values()))


def _right(
    loaded: Loaded, scenes: Sequence[Scene], weights: Sequence[Any], keep: Keep, progress: Progress = lambda done: None
) -> dict[str, list[float]]:
    """By question: how right the answer is with each of some weights. Questions that fail are left out."""
    wanted = cells([parse(f"hawk(weights={each!r})") for each in weights], [keep])
    engine, found, done = PerQuestion(loaded, wanted, 24), dict[str, list[float]](), 0
    for scene in scenes:
        (result,) = engine.run([scene])
        answered = [question for question in scene.questions if question.id not in result.failed]
        for place, question in enumerate(answered):
            found[question.id] = [question.score(result.answers[cell.key][place]) for cell in wanted]
        done += len(scene.questions)
        progress(done)
    return found


def _lost(scores: Sequence[Sequence[float]]) -> tuple[float, ...] | None:
    """Weights of sum 1 by what is lost without each head, not negative; None if nothing is."""
    if not scores:
        return None
    mean = np.array(scores).mean(0)
    lost = (mean[0] - mean[1:]).clip(min=0)
    return tuple(float(each) for each in lost / lost.sum()) if lost.sum() > 1e-9 else None
