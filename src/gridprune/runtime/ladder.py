"""The smallest budget that gives the answer of all visual tokens, for one question about images or a video.

Nothing is bisected, since an answer is no monotone function of the budget: it may be right with 4 tokens by luck,
wrong with 32 and right again from 64 on. All of 1, 2, 3, 4, 6, 8, 11, 16, ... tokens are tried, each budget the square
root of two times the one before; the images are encoded once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import BudgetError, SettingError
from ..methods.spec import parse
from ..selection.encoder_cache import EncoderCache
from .ask import Loaded, Media, prepare, respond


@dataclass(frozen=True)
class Tried:
    """One budget, the answer with it, and whether it is the one of all visual tokens."""

    keep: int
    answer: str
    same: bool


@dataclass(frozen=True)
class FoundKeep:
    """Attributes:
    method: as it was given, in canonical form.
    answer: with all visual tokens.
    total: N, how many these are; of several images, of the one that has fewest.
    tried: every budget below N that was tried, ascending.
    """

    method: str
    answer: str
    total: int
    tried: tuple[Tried, ...]

    @property
    def smallest(self) -> int:
        """The smallest budget tried that gives the same answer; N if none does."""
        return next((one.keep for one in self.tried if one.same), self.total)

    @property
    def steady(self) -> int:
        """The budget from which on all that were tried give the same answer: `smallest` may be one by luck."""
        found = self.total
        for one in reversed(self.tried):
            if not one.same:
                break
            found = one.keep
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {**asdict(self), "smallest": self.smallest, "steady": self.steady}


def ladder(total: int) -> list[int]:
    """Budgets below `total`, each the square root of two times the one before, rounded."""
    return sorted({round(2 ** (step / 2)) for step in range(2 * total.bit_length())} & set(range(1, total)))


def find_keep(
    loaded: Loaded,
    images: Media,
    question: str,
    method: str = "gridprune",
    *,
    history: Sequence[tuple[str, str]] = (),
    max_new_tokens: int = 64,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> FoundKeep:
    """The smallest budget of a :func:`ladder` that gives the answer of all visual tokens. Greedy decoding.

    Args:
        images: an image, several, or a video; a budget is that of each image.
        method: a name, or a name with settings: "gridprune(zone=2)". It acts before the language model.
        history: earlier turns about them, each a question and its answer.
        progress: called with how many budgets were tried, and how many there are.

    Raises:
        SettingError: the method acts inside the language model, or decides by itself how many it keeps.
    """
    spec = parse(method)
    kind, cache = spec.method("50%"), EncoderCache(1)
    if kind.stage != "pre-llm" or not kind.fixed_count:
        raise SettingError(f"{spec.label} keeps no number of tokens of your choice before the language model.")
    inputs = prepare(loaded, images, question, history)
    full = respond(loaded, inputs, None, max_new_tokens)
    total = min(each.total for each in respond(loaded, inputs, loaded.pruning(kind, question, cache=cache), 1).reports)
    budgets, tried = ladder(total), []
    for done, keep in enumerate(budgets, 1):
        pruning = loaded.pruning(spec.method(keep), question, cache=cache)
        try:
            text = respond(loaded, inputs, pruning, max_new_tokens).text
        except BudgetError:  # some methods need more than a few
            continue
        tried.append(Tried(keep, text, text == full.text))
        progress(done, len(budgets))
    return FoundKeep(spec.label, full.text, total, tuple(tried))
