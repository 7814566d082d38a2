"""All methods, budgets and questions of a few scenes from one vision pass.

The path is the one of `prune`, through a :class:`~gridprune.selection.selector.Selector`. What `prune` does once per
call is shared here: the images are encoded once with the captures that all methods together need, a method that reads
no text decides once per image, and equal prompts are read once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from .. import families
from ..core.budget import Keep
from ..core.token_map import TokenMap
from ..cues.question import clean
from ..errors import UnsupportedCallError
from ..families.base import Encoded, Family
from ..methods.base import Cues, Method, Needs
from ..methods.checks import checked_select
from ..methods.spec import MethodSpec
from ..runtime.ask import Loaded
from ..selection.collect import TextSide
from ..selection.selector import Choice, Selector
from .ablations import borrows_question, reads_evidence
from .data import Box, Question, Scene
from .decode import Decoder, Job, Prefix, prompt_parts
from .downsample import check, shrinks_image, smaller
from .entries import FULL
from .evidence import closeness, evidence, recall, seen_boxes, seen_part

_SHARED = (
    "llava",
    "llava-next",
)  # positions 0, 1, 2, ... and causal attention: what stands behind a prefix leaves it be

_EVIDENCE, _NOBODY, _OWN, _OTHER = "evidence", "nobody", "own", "other"
_WAITING = 256_000_000  # bytes of kept features that wait to be answered together


@dataclass(frozen=True)
class RunCell:
    """One method at one budget; `key` names it in rows."""

    entry: MethodSpec
    keep: Keep
    method: Method

    @property
    def key(self) -> str:
        return f"{self.entry.label}|{self.keep}"


@dataclass(eq=False)
class Result:
    """Answers to one scene's questions, by cell: texts, evidence recall (None without evidence), tokens kept.

    Attributes:
        failed: why questions have no answer, by id; the lists above and `kept` leave them out.
        kept: (k,) int64 indices among the tokens of `places`.
        places: the tokens that were chosen from.
        seen: the part of the image that the tower sees, as fractions of it.
    """

    scene: Scene
    answers: dict[str, list[str]] = field(default_factory=dict)
    recall: dict[str, list[float | None]] = field(default_factory=dict)
    tokens: dict[str, list[int]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    kept: dict[str, list[Tensor]] = field(default_factory=dict)
    places: TokenMap | None = None
    seen: Box = (0.0, 0.0, 1.0, 1.0)


@dataclass(eq=False)
class _Kept:
    """What one cell keeps for one question (or for all of a scene, `question` None)."""

    scene: int
    cell: str
    question: int | None
    features: Tensor

    @cached_property
    def digest(self) -> bytes:
        """Equal for equal features: such prompts need to be read once only."""
        return hashlib.blake2b(self.features.detach().cpu().contiguous().view(torch.uint8).numpy().data).digest()


def cells(entries: Sequence[MethodSpec], keeps: Sequence[Keep]) -> list[RunCell]:
    """Every entry at every budget; keep-all once, since it keeps all tokens at each of them."""
    found: list[RunCell] = []
    for entry in entries:
        own = ["100%"] if entry.name == "keep-all" else keeps
        found.extend(RunCell(entry, keep, entry.method(keep)) for keep in own)
    return found


class Shared:
    """Answers scenes for a fixed list of cells."""

    def __init__(
        self,
        loaded: Loaded,
        wanted: Sequence[RunCell],
        max_new_tokens: int | None = None,
        *,
        decodes: bool = True,
    ) -> None:
        """Args:
        decodes: False if only cues are wanted, which every family gives.
        """
        self.loaded = loaded
        self.family: Family = families.find(loaded.model)
        self.cells = list(wanted)
        if decodes and self.family.name not in _SHARED:
            raise UnsupportedCallError(
                f"Generated questions are answered from shared prompts, which is tested for {', '.join(_SHARED)} and "
                f"not for {self.family.name}. Give your own questions with --data: those go through `prune`."
            )
        methods = [cell.method for cell in self.cells if not reads_evidence(cell.method)]
        check(loaded, self.family, methods)
        text = TextSide(loaded.text_tower(), loaded.processor.tokenizer)
        self.selector = Selector.of(self.family, text, *methods)
        self._needs = {  # by whose question it is that guides
            whose: Needs.of(*(method for method in methods if _guide(method) == whose))
            for whose in {_guide(method) for method in methods}
        }
        limit = max_new_tokens or getattr(loaded.model.generation_config, "max_new_tokens", None) or 24
        self.decoder = Decoder(self.family, int(limit))
        self._before: tuple[Question, ...] | None = None

    def remember(self, scene: Scene) -> None:
        """Note a scene that was answered before: the next one may borrow its questions."""
        self._before = scene.questions

    @torch.no_grad()
    def run(self, scenes: Sequence[Scene]) -> list[Result]:
        """Answer all questions of some scenes, which must come in the order of the data set."""
        vision = self.vision(scenes)
        encoded = self.selector.encode(vision)
        results = [Result(scene) for scene in scenes]
        kept: list[_Kept] = []
        waiting = 0
        for position, result in enumerate(results):
            for one in self._decide(result, position, encoded):
                kept.append(one)
                waiting += one.features.nbytes
                if waiting > _WAITING:
                    self._answer(results, kept, encoded)
                    kept, waiting = [], 0
            self.remember(result.scene)
        self._answer(results, kept, encoded)
        return results

    def vision(self, scenes: Sequence[Scene]) -> dict[str, Any]:
        """The vision arguments of a call with these images."""
        processor = self.loaded.processor.image_processor
        inputs = processor(images=[scene.image for scene in scenes], return_tensors="pt")
        model = self.loaded.model
        moved = {key: value.to(model.device) if torch.is_tensor(value) else value for key, value in inputs.items()}
        return {
            key: moved[key].to(model.dtype) if key == "pixel_values" else moved[key]
            for key in self.family.vision_keys
            if key in moved
        }

    # -- which tokens stay ---------------------------------------------------------------------------------------

    def _decide(self, result: Result, image: int, encoded: Encoded) -> Iterator[_Kept]:
        token_map = encoded.maps[image].candidates
        asked = [clean(question.text) for question in result.scene.questions]
        boxes = [
            seen_boxes(question.boxes, result.scene.image.size, self.loaded.processor)
            for question in result.scene.questions
        ]
        wanted = [evidence(token_map, one) for one in boxes]
        result.places = token_map
        result.seen = seen_part(result.scene.image.size, self.loaded.processor)
        everything = torch.arange(len(token_map), device="cpu")
        yield self._kept(result, image, FULL, None, everything, encoded.embeddings[image], wanted)
        cues: dict[str, Cues] = {}
        for cell in self.cells:
            if shrinks_image(cell.method):
                small = smaller(self.loaded, self.family, result.scene.image, "?", cell.method.budget)
                features = small.features(self.family)
                yield self._kept(result, image, cell.key, None, small.centres(token_map), features, wanted)
                continue
            whose = _guide(cell.method)
            if whose not in cues and whose == _EVIDENCE:
                cues[whose] = Cues(relevance=torch.stack([closeness(token_map, one) for one in boxes]))
            elif whose not in cues:
                questions = {_NOBODY: [""], _OWN: asked, _OTHER: self._borrow(asked)}[whose]
                cues[whose] = self.selector.cues(encoded, [image] * len(questions), questions, self._needs[whose])
            for number, choice in choose(cell.method, cues[whose], token_map):
                features = self.selector.gather(encoded, image, choice)
                question = None if whose == _NOBODY else number
                yield self._kept(result, image, cell.key, question, choice.kept, features, wanted)

    def _kept(
        self,
        result: Result,
        image: int,
        cell: str,
        question: int | None,
        indices: Tensor,
        features: Tensor,
        wanted: Sequence[Tensor],
    ) -> _Kept:
        """Book the decision's tokens and evidence recall, and pack it for decoding."""
        for number in range(len(wanted)) if question is None else [question]:
            share = recall(indices, wanted[number])
            result.recall.setdefault(cell, []).append(None if share is None else round(share, 4))
            result.tokens.setdefault(cell, []).append(len(indices))
            result.kept.setdefault(cell, []).append(indices)
        return _Kept(image, cell, question, features)

    def _borrow(self, asked: Sequence[str]) -> list[str]:
        """As many questions of the scene before; the first scene borrows from itself, each question from another."""
        others = [clean(question.text) for question in self._before] if self._before else [*asked[1:], asked[0]]
        return [others[i % len(others)] for i in range(len(asked))]

    # -- what is answered ----------------------------------------------------------------------------------------

    def _answer(self, results: Sequence[Result], kept: Sequence[_Kept], encoded: Encoded) -> None:
        token = self.family.placeholder
        prefixes: list[Prefix] = []
        jobs: list[Job] = []
        places: list[tuple[Result, str]] = []
        parts = [
            [prompt_parts(self.loaded.processor, question.text, token) for question in result.scene.questions]
            for result in results
        ]
        known: dict[tuple[tuple[int, ...], bytes], int] = {}
        for one in kept:
            own = parts[one.scene]
            for number in range(len(own)) if one.question is None else [one.question]:
                head, tail = own[number]
                index = known.setdefault((head, one.digest), len(prefixes))
                if index == len(prefixes):
                    ids = torch.tensor([*head, *[token] * len(one.features)], device="cpu")
                    prefixes.append(Prefix(ids, one.features))
                jobs.append(Job(index, tail))
                places.append((results[one.scene], one.cell))
        for (result, cell), new in zip(places, self.decoder.answer(prefixes, jobs, encoded)):
            text = self.loaded.processor.tokenizer.decode(new, skip_special_tokens=True).strip()
            result.answers.setdefault(cell, []).append(text)


def _guide(method: Method) -> str:
    """Whose question guides a method, or what else does."""
    if reads_evidence(method):
        return _EVIDENCE
    if not method.uses_text:
        return _NOBODY
    return _OTHER if borrows_question(method) else _OWN


def choose(method: Method, cues: Cues, token_map: TokenMap) -> Iterator[tuple[int, Choice]]:
    """The choices of a batch, numbered; methods without a fixed count decide one by one."""
    if method.fixed_count:
        selection = checked_select(method, cues, token_map)
        yield from ((number, Choice(selection, cues, number)) for number in range(cues.batch))
        return
    for number in range(cues.batch):
        own = cues.image(number)
        yield number, Choice(checked_select(method, own, token_map), own, 0)
