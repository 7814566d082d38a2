"""What a server is told once, what a request may say, and how both reach the model. Imports no vLLM."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from typing import Any, get_args

import torch
from torch import Tensor

from .. import __version__
from ..core.budget import Budget
from ..core.token_map import TokenMap
from ..cues.question import Guide, clean
from ..errors import BudgetError, QuestionError, SettingError
from ..methods.base import Method
from ..methods.spec import parse

FIELD = "gridprune"  # what travels with every image to the model
KEEP, QUESTION = "gridprune_keep", "gridprune_question"  # what a request may give in mm_processor_kwargs


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The value of ``hf_overrides["gridprune"]``.

    Attributes:
        method: a method, with settings in parentheses if need be: ``gridprune(alpha=0.3)``.
        keep: the budget of requests that name none; an image with fewer tokens than such a count is kept whole.
        clip: folder or hub id of CLIP's text half, for LLaVA; a folder `clip` in or beside the checkpoint is found.
        tower_tokens: images go through the tower in batches of at most this many visual tokens, counted unpruned (one
            image at least). None: the tokens the scheduler may batch, which is what vLLM's memory profile measured.
        guide: which question guides where a request gives none. "last": the one that the request is to answer, for all
            its images. "turn": the one that was asked when the image came, so that a later turn finds the image
            and all behind it in the caches, chosen for an earlier question.
    """

    method: str = "gridprune"
    keep: int | float | str | None = None
    clip: str | None = None
    tower_tokens: int | None = None
    guide: Guide = "last"

    @classmethod
    def read(cls, given: Any) -> Settings:
        """From plain values, as they come out of JSON.

        Raises:
            SettingError: unknown or wrong settings.
            UnknownNameError: no such method.
        """
        if not isinstance(given, Mapping):
            raise SettingError(f"The gridprune settings must be a mapping such as {{'keep': 64}}, got {given!r:.200}.")
        known = [f.name for f in fields(cls)]
        unknown = sorted(str(name) for name in given.keys() - set(known))
        if unknown:
            raise SettingError(f"Unknown gridprune setting(s) {', '.join(unknown)}. There are: {', '.join(known)}.")
        settings = cls(**given)
        if not isinstance(settings.method, str):
            raise SettingError(f"method must be text such as 'gridprune(zone=2)', got {settings.method!r:.200}.")
        tokens = settings.tower_tokens
        if tokens is not None and (not isinstance(tokens, int) or isinstance(tokens, bool) or tokens < 1):
            raise SettingError(f"tower_tokens must be a whole number of at least 1, got {tokens!r}.")
        if settings.guide not in get_args(Guide):
            raise SettingError(f"guide must be 'last' or 'turn', got {settings.guide!r}.")
        settings.build()
        return settings

    def build(self) -> Method:
        """The method that the settings describe."""
        spec = parse(self.method)
        return spec.method(spec.kind.keep if self.keep is None else self.keep)

    def identity(self) -> dict[str, Any]:
        """What decides, besides a request, which tokens stay: a part of every image's hash."""
        return {"version": __version__, "method": parse(self.method).label, "clip": self.clip}


@dataclass(frozen=True)
class PruneRequest:
    """What is asked of one image.

    Attributes:
        budget: how many of its tokens to keep.
        question: what guides the choice; empty for methods without text.
        explicit: whether the request gave the budget itself; one that cannot be met is then an error.
    """

    budget: Budget
    question: str = ""
    explicit: bool = False

    def identity(self) -> str:
        """Equal for equal asks."""
        return json.dumps([_plain(self.budget), self.question, self.explicit])

    def settle(self, method: Method, token_map: TokenMap) -> ResolvedRequest:
        """The exact number of tokens for an image of this geometry.

        Raises:
            BudgetError: the count cannot be met.
        """
        candidates = token_map.candidates
        total, budget = len(candidates), self.budget
        if not self.explicit and budget.count is not None:
            budget = Budget(count=min(budget.count, total))
        k = replace(method, keep=budget).budget.resolve(total)
        method.check_count(candidates, k)
        return ResolvedRequest(k, self.question)


@dataclass(frozen=True)
class ResolvedRequest:
    """An ask with its number fixed: what the model gets, beside the pixels.

    Attributes:
        keep: k, tokens to keep.
        question: what guides the choice.
    """

    keep: int
    question: str

    def pack(self) -> Tensor:
        """As a tensor of bytes, the only thing vLLM hands to models."""
        return torch.frombuffer(bytearray(json.dumps([self.keep, self.question]).encode()), dtype=torch.uint8)

    @classmethod
    def unpack(cls, packed: Tensor) -> ResolvedRequest:
        keep, question = json.loads(packed.cpu().numpy().tobytes())
        return cls(keep, question)


def _plain(budget: Budget) -> list[int]:
    share = budget.share or Fraction(0)
    return [budget.count or 0, share.numerator, share.denominator]


def split_request(kwargs: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Ours, and the rest, of a request's `mm_processor_kwargs`.

    Raises:
        SettingError: a name that begins like ours and is none.
    """
    ours = {name: value for name, value in kwargs.items() if name in (KEEP, QUESTION)}
    unknown = [name for name in kwargs if name.startswith("gridprune") and name not in ours]
    if unknown:
        raise SettingError(f"Unknown option(s) {', '.join(unknown)}; a request may give {KEEP} and {QUESTION}.")
    return ours, {name: value for name, value in kwargs.items() if name not in ours}


def asks_of(
    given: Mapping[str, Any], method: Method, images: int, read_questions: Callable[[], Sequence[str]]
) -> list[PruneRequest]:
    """One ask per image of a request.

    Args:
        given: what the request says: a budget or a list with one per image, a question or a list.
        method: the server's method; its `keep` is the default.
        read_questions: reads one question per image from the prompt; called only if one is needed and none given.

    Raises:
        BudgetError, QuestionError: values that cannot be used.
    """
    keeps = given.get(KEEP)
    budgets = [Budget.parse(keep) for keep in _each(keeps, images, KEEP, BudgetError)] if keeps is not None else None
    questions: Sequence[str] = [""] * images
    if method.uses_text:
        question = given.get(QUESTION)
        questions = read_questions() if question is None else _each(question, images, QUESTION, QuestionError)
        if not all(isinstance(each, str) for each in questions):
            raise QuestionError(f"{QUESTION} must be text or a list of texts, got {question!r:.200}.")
        questions = [clean(each) for each in questions]
        if not all(questions):
            raise QuestionError(
                f"The method {method.label!r} is guided by the question, and the request asks nothing in words."
                f" Add text to a user turn, or give {QUESTION} in mm_processor_kwargs."
            )
    return [
        PruneRequest(method.budget if budgets is None else budgets[i], questions[i], explicit=budgets is not None)
        for i in range(images)
    ]


def _each(value: Any, count: int, name: str, error: type[Exception]) -> list[Any]:
    if not isinstance(value, (list, tuple)):
        return [value] * count
    if len(value) != count:
        raise error(f"{name} lists {len(value)} values for {count} images; give one, or one per image.")
    return list(value)
