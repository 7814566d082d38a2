"""A user's own questions on any supported checkpoint: one `prune` and one `model.generate` per question and cell.

Slower than :mod:`gridprune.bench.shared` and simple: exactly what an application does. The oracle goes through the same
calls.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import families
from ..errors import GridPruneError
from ..methods.base import Cues, Method, checked_select
from ..pruning import prune
from ..runtime import Loaded, prompt_text
from .ablations import borrows_question, given, reads_evidence
from .data import Question, Scene
from .entries import FULL
from .evidence import closeness, evidence, recall, seen_boxes, seen_part
from .shared import Cell, Result, clip_of


class Own:
    """Answers scenes for a fixed list of cells, one call at a time."""

    def __init__(self, loaded: Loaded, wanted: Sequence[Cell], max_new_tokens: int) -> None:
        self.loaded = loaded
        self.family = families.find(loaded.model)
        self.cells = list(wanted)
        self.clip = clip_of(loaded)
        self.max_new_tokens = max_new_tokens
        self._before: tuple[Question, ...] | None = None
        for cell in self.cells:
            if not reads_evidence(cell.method):
                self._prune(cell.method, "")  # raises now what it cannot do

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
                self._question(result, scene, question, before[number % len(before)])
            except GridPruneError as error:
                raise type(error)(f"Question {question.id}: {error}") from error
        self.remember(scene)
        return result

    def _question(self, result: Result, scene: Scene, question: Question, other: Question) -> None:
        inputs = self._inputs(scene, question)
        token_map = self.family.token_maps(self._vision(inputs))[0].candidates
        boxes = seen_boxes(question.boxes, scene.image.size, self.loaded.processor)
        wanted = evidence(token_map, boxes)
        result.places, result.seen = token_map, seen_part(scene.image.size, self.loaded.processor)
        self._book(result, FULL, self.generate(inputs), torch.arange(len(token_map), device="cpu"), wanted)
        for cell in self.cells:
            method = cell.method
            if reads_evidence(method):
                cues = Cues(relevance=closeness(token_map, boxes)[None])
                chosen = checked_select(method, cues, token_map, method.count(cues, token_map))
                method = given(chosen.indices[0])
            guide = other if borrows_question(method) else question
            with self._prune(method, guide.text) as pruning:
                text = self.generate(inputs)
            self._book(result, cell.key, text, pruning.reports[-1].kept_indices, wanted)

    def _book(self, result: Result, cell: str, text: str, kept: Tensor, wanted: Tensor) -> None:
        share = recall(kept, wanted)
        result.answers.setdefault(cell, []).append(text)
        result.recall.setdefault(cell, []).append(None if share is None else round(share, 4))
        result.tokens.setdefault(cell, []).append(len(kept))
        result.kept.setdefault(cell, []).append(kept)

    def _inputs(self, scene: Scene, question: Question) -> Any:
        processor, model = self.loaded.processor, self.loaded.model
        text = prompt_text(processor, question.text)
        return processor(images=scene.image, text=text, return_tensors="pt").to(model.device, dtype=model.dtype)

    def _prune(self, method: Method, question: str) -> Any:
        return prune(
            self.loaded.model, method, processor=self.loaded.processor, question=question or None, clip=self.clip
        )

    @torch.no_grad()
    def generate(self, inputs: Any) -> str:
        """Greedy words."""
        output = self.loaded.model.generate(**inputs, max_new_tokens=self.max_new_tokens, do_sample=False)
        new = output[:, inputs["input_ids"].shape[1] :]
        return str(self.loaded.processor.batch_decode(new, skip_special_tokens=True)[0]).strip()

    def _vision(self, inputs: Any) -> dict[str, Any]:
        return {key: inputs[key] for key in self.family.vision_keys if key in inputs}
