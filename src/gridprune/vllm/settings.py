"""What a server is told once, what a request may say, and how both reach the model. Imports no vLLM."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, fields, replace
from fractions import Fraction
from functools import cached_property, lru_cache
from typing import Any, get_args

import torch
from torch import Tensor

from .. import __version__
from ..core.budget import Budget
from ..core.token_map import TokenMap
from ..cues.question import Guide, clean
from ..errors import BudgetError, QuestionError, SettingError, UnknownNameError
from ..methods.base import Method, Needs
from ..methods.spec import MethodSpec, parse

FIELD = "gridprune"  # what travels with every image to the model
KEEP, MIN_TOKENS, METHOD, QUESTION = OPTIONS = (  # what a request may give in mm_processor_kwargs
    "gridprune_keep", "gridprune_min_tokens", "gridprune_method", "gridprune_question",
)  # fmt: skip
_SURROGATE = re.compile("[\ud800-\udfff]")
MOST_LETTERS = {QUESTION: 10_000, METHOD: 500}  # prompts are bounded by the model, these are not


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The value of ``hf_overrides["gridprune"]``.

    Attributes:
        method: a method, with settings in parentheses if need be: ``gridprune(alpha=0.3)``.
        keep: the budget of requests that name none; an image with fewer tokens than such a count is kept whole.
        clip: folder or hub id of CLIP's text half, for LLaVA; a folder `clip` in or beside the checkpoint is found.
        tower_tokens: images go through the tower in batches of at most this many visual tokens, counted unpruned (one
            image at least). None: the tokens the scheduler may batch, which is what vLLM's memory profile measured.
        min_tokens: a floor under every budget, unless a request names another: an image keeps at least so many tokens,
            or all it has.
        methods: names of methods that requests may choose, with any settings; the server's own needs no permission.
        guide: which question guides where a request gives none. "last": the one that the request is to answer, for all
            its images. "turn": the one that was asked when the image came, so that a later turn finds the image
            and all behind it in the caches, chosen for an earlier question.
    """

    method: str = "gridprune"
    keep: int | float | str | None = None
    clip: str | None = None
    tower_tokens: int | None = None
    min_tokens: int = 0
    methods: Sequence[str] = ()
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
        floor_of(settings.min_tokens, "min_tokens")
        if isinstance(settings.methods, str) or not all(isinstance(name, str) for name in settings.methods):
            raise SettingError(f"methods must be a list of names such as ['divprune'], got {settings.methods!r:.200}.")
        if given := [name for name in settings.methods if parse(name).settings]:
            raise SettingError(f"methods lists names only, and requests give the settings; got {', '.join(given)}.")
        if settings.guide not in get_args(Guide):
            raise SettingError(f"guide must be 'last' or 'turn', got {settings.guide!r}.")
        settings.build()
        return settings

    def build(self) -> Method:
        """The method that the settings describe."""
        spec = parse(self.method)
        return spec.method(spec.kind.keep if self.keep is None else self.keep)

    @cached_property
    def label(self) -> str:
        """The server's method in its canonical form."""
        return parse(self.method).label

    def allowed(self) -> list[Method]:
        """The methods whose cues the server reads: its own, and those that requests may choose."""
        return [self.build(), *(build(name) for name in self.methods)]

    def method_of(self, text: Any) -> str:
        """The canonical form of a method that a request names.

        Raises:
            SettingError: it cannot be read, or this server does not allow it; the message says what it allows.
        """
        try:
            spec = parse(short_text(text, METHOD))
        except UnknownNameError as error:  # a KeyError, which a server would answer with a 500
            raise SettingError(f"{METHOD}: {error}") from None
        names = {parse(name).name for name in self.methods}
        if spec.label != self.label and not set(_names(spec)) <= names:
            raise SettingError(
                f"{METHOD} {spec.label!r:.200} is not allowed. The server prunes with {self.label!r}; requests may "
                f"choose: {', '.join(sorted(names)) or 'nothing else'}. Who runs it allows others by --allow-methods."
            )
        needs, read = Needs.of(spec.method("50%")), Needs.of(*self.allowed())
        depths = set(needs.saliency_depths) - set(read.saliency_depths)
        if more := [*sorted(needs.cues - read.cues), *(f"saliency at depth {depth}" for depth in sorted(depths))]:
            raise SettingError(
                f"{METHOD} {spec.label!r:.200} reads {', '.join(more)}, and this server reads "
                f"{', '.join(sorted(read.cues)) or 'no cues'}. Leave out the settings that ask for more."
            )
        return spec.label

    def identity(self) -> dict[str, Any]:
        """What decides, besides a request, which tokens stay: a part of every image's hash."""
        return {"version": __version__, "clip": self.clip}


@lru_cache(maxsize=256)
def build(label: str) -> Method:
    """The method of a canonical form; its budget is nobody's."""
    return parse(label).method("50%")


@dataclass(frozen=True)
class PruneRequest:
    """What is asked of one image.

    Attributes:
        budget: how many of its tokens to keep.
        question: what guides the choice; empty for methods without text.
        explicit: whether the request gave the budget itself; one that cannot be met is then an error.
        min_tokens: keep at least this many, or all there are, whatever the budget says.
        method: what chooses, in its canonical form.
    """

    budget: Budget
    question: str = ""
    explicit: bool = False
    min_tokens: int = 0
    method: str = Settings.method

    def identity(self) -> str:
        """Equal for equal asks."""
        return json.dumps([_plain(self.budget), self.question, self.explicit, self.min_tokens, self.method])

    def settle(self, token_map: TokenMap) -> ResolvedRequest:
        """The exact number of tokens for an image of this geometry.

        Raises:
            BudgetError: the count cannot be met.
        """
        candidates = token_map.candidates
        total, budget = len(candidates), self.budget
        if not self.explicit and budget.count is not None:
            budget = Budget(count=min(budget.count, total))
        method = build(self.method)
        k = max(replace(method, keep=budget).budget.resolve(total), min(self.min_tokens, total))
        method.check_count(candidates, k)
        return ResolvedRequest(k, total, self.question, self.method)


@dataclass(frozen=True)
class ResolvedRequest:
    """An ask with its number fixed: what the model gets, beside the pixels.

    Attributes:
        keep: k, tokens to keep.
        total: N, tokens to choose from.
        question: what guides the choice.
        method: what chooses, in its canonical form.
    """

    keep: int
    total: int
    question: str = ""
    method: str = Settings.method

    def pack(self) -> Tensor:
        """As a tensor of bytes, the only thing vLLM hands to models."""
        return torch.frombuffer(bytearray(json.dumps(astuple(self)).encode()), dtype=torch.uint8)

    @classmethod
    def unpack(cls, packed: Tensor) -> ResolvedRequest:
        return cls(*json.loads(packed.cpu().numpy().tobytes()))


def _plain(budget: Budget) -> list[int]:
    share = budget.share or Fraction(0)
    return [budget.count or 0, share.numerator, share.denominator]


def _names(spec: MethodSpec) -> Iterator[str]:
    """Names of a method and of those it holds."""
    yield spec.name
    for _, value in spec.settings:
        if isinstance(value, MethodSpec):
            yield from _names(value)


def floor_of(value: Any, name: str) -> int:
    """A number of tokens to keep at least.

    Raises:
        SettingError: it is none.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise SettingError(f"{name} must be a whole number of visual tokens, 0 for no floor, got {value!r:.200}.")
    return value


def short_text(value: Any, name: str, error: type[Exception] = SettingError) -> str:
    """A text of a request.

    Raises:
        error: it is none, long enough to hurt, or has half of a pair of surrogates, which tokenizers fail on.
    """
    if not isinstance(value, str) or len(value) > MOST_LETTERS[name] or _SURROGATE.search(value):
        raise error(f"{name} must be text of at most {MOST_LETTERS[name]} Unicode characters, got {value!r:.100}.")
    return value


def split_request(kwargs: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Ours, and the rest, of a request's `mm_processor_kwargs`.

    Raises:
        SettingError: a name that begins like ours and is none.
    """
    ours = {name: kwargs[name] for name in OPTIONS if kwargs.get(name) is not None}
    unknown = [name for name in kwargs if name.startswith("gridprune") and name not in OPTIONS]
    if unknown:
        raise SettingError(f"Unknown option(s) {', '.join(unknown)}; a request may give {', '.join(OPTIONS)}.")
    return ours, {name: value for name, value in kwargs.items() if name not in OPTIONS}


def asks_of(
    given: Mapping[str, Any], settings: Settings, images: int, read_questions: Callable[[], Sequence[str]]
) -> list[PruneRequest]:
    """One ask per image of a request.

    Args:
        given: what the request says: a method, and a budget, a floor and a question or lists with one per image.
        settings: the server's, which are the defaults and say what a request may choose.
        read_questions: reads one question per image from the prompt; called only if one is needed and none given.

    Raises:
        BudgetError, QuestionError, SettingError: values that cannot be used.
    """
    method = settings.method_of(given[METHOD]) if METHOD in given else settings.label
    keeps, floor = given.get(KEEP), given.get(MIN_TOKENS, settings.min_tokens)
    budgets = _each(settings.build().budget if keeps is None else keeps, images, KEEP, BudgetError)
    floors = [floor_of(each, MIN_TOKENS) for each in _each(floor, images, MIN_TOKENS, SettingError)]
    questions = _questions(given, method, images, read_questions) if build(method).uses_text else [""] * images
    return [
        PruneRequest(Budget.parse(budgets[i]), questions[i], keeps is not None, floors[i], method)
        for i in range(images)
    ]


def _questions(
    given: Mapping[str, Any], method: str, images: int, read_questions: Callable[[], Sequence[str]]
) -> list[str]:
    question = given.get(QUESTION)
    if question is None:
        asked: Sequence[str] = read_questions()
    else:
        asked = [short_text(each, QUESTION, QuestionError) for each in _each(question, images, QUESTION, QuestionError)]
    cleaned = [clean(each) for each in asked]
    if not all(cleaned):
        raise QuestionError(
            f"The method {method!r} is guided by the question, and the request asks nothing in words."
            f" Add text to a user turn, or give {QUESTION} in mm_processor_kwargs."
        )
    return cleaned


def _each(value: Any, count: int, name: str, error: type[Exception]) -> list[Any]:
    if not isinstance(value, (list, tuple)):
        return [value] * count
    if len(value) != count:
        raise error(f"{name} lists {len(value)} values for {count} images; give one, or one per image.")
    return list(value)
