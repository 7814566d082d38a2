"""A user's own questions on any supported checkpoint: one `prune` and one `model.generate` per question and cell.

Slower than :mod:`gridprune.eval.shared` and simple: exactly what an application does. The oracle goes through the same
calls.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import families
from ..methods.base import Cues
from ..methods.checks import checked_select
from ..runtime.ask import Loaded, looked_at, prepare
from ..runtime.failures import Failures
from .ablations import borrows_question, given, reads_evidence
from .data import Question, Scene
from .downsample import check, shrinks_image, smaller
from .entries import FULL
from .evidence import closeness, evidence, recall, seen_boxes, seen_part
from .shared import Result, RunCell

Told = tuple[str, str, Tensor, Tensor]  # a cell, its answer, the tokens it kept, and the evidence


class PerQuestion:
    """Answers scenes for a fixed list of cells, one call at a time."""

    def __init__(self, loaded: Loaded, wanted: Sequence[RunCell], max_new_tokens: int) -> None:
        self.loaded = loaded
        self.family = families.find(loaded.model)
        self.cells = list(wanted)
        self.max_new_tokens = max_new_tokens
        self._before: tuple[Question, ...] | None = None
        self._failures = Failures()
        for cell in self.cells:
            if not reads_evidence(cell.method):
                self.loaded.pruning(cell.method, "")  # raises now what it cannot do
        check(loaded, self.family, [cell.method for cell in self.cells])

    def remember(self, scene: Scene) -> None:
        """Note a scene that was answered before: the next one may borrow its questions."""
        self._before = scene.questions

    def run(self, scenes: Sequence[Scene]) -> list[Result]:
        """Answer all questions of some scenes, in the order of the data set."""
        return [self._scene(scene) for scene in scenes]

    def _scene(self, scene: Scene) -> Result:
        result = Result(scene)
        before = self._before or (*scene.questions[1:], scene.questions[0])
        for number, question in enumerate(scene.questions):
            try:
                told = self._question(result, scene, question, before[number % len(before)])
            except Exception as error:  # of this question, whatever it is: the others are asked all the same
                result.failed[question.id] = self._failures.reason(error)
                continue
            for cell, text, kept, wanted in told:
                self._book(result, cell, text, kept, wanted)
        self.remember(scene)
        return result

    def _question(self, result: Result, scene: Scene, question: Question, other: Question) -> list[Told]:
        inputs = prepare(self.loaded, scene.image, question.text)
        token_map = looked_at(self.family, inputs)[1][0].candidates
        boxes = seen_boxes(question.boxes, scene.image.size, self.loaded.processor)
        wanted = evidence(token_map, boxes)
        result.places, result.seen = token_map, seen_part(scene.image.size, self.loaded.processor)
        told = [(FULL, self.generate(inputs), torch.arange(len(token_map), device="cpu"), wanted)]
        for cell in self.cells:
            method = cell.method
            if shrinks_image(method):
                small = smaller(self.loaded, self.family, scene.image, question.text, method.budget)
                text = self.generate(small.call(self.family))
                told.append((cell.key, text, small.centres(token_map), wanted))
                continue
            if reads_evidence(method):
                cues = Cues(relevance=closeness(token_map, boxes)[None])
                chosen = checked_select(method, cues, token_map)
                method = given(chosen.kept[0])
            guide = other if borrows_question(method) else question
            with self.loaded.pruning(method, guide.text) as pruning:
                text = self.generate(inputs)
            told.append((cell.key, text, pruning.reports[-1].kept_indices, wanted))
        return told

    def _book(self, result: Result, cell: str, text: str, kept: Tensor, wanted: Tensor) -> None:
        share = recall(kept, wanted)
        result.answers.setdefault(cell, []).append(text)
        result.recall.setdefault(cell, []).append(None if share is None else round(share, 4))
        result.tokens.setdefault(cell, []).append(len(kept))
        result.kept.setdefault(cell, []).append(kept)

    @torch.no_grad()
    def generate(self, inputs: Any) -> str:
        """Greedy words."""
        output = self.loaded.model.generate(**inputs, max_new_tokens=self.max_new_tokens, do_sample=False)
        new = output[:, inputs["input_ids"].shape[1] :]
        return str(self.loaded.processor.batch_decode(new, skip_special_tokens=True)[0]).strip()
