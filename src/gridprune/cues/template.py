"""What a chat template writes around a user's words, learned by rendering probe conversations; and prompts cut by it.

Nothing is known about any template in particular. A conversation of made-up words is rendered, and what stands between
the words is what the template writes. Cutting is by turns, not by looking for markers: an answer lies between two user
turns, so a role marker that a user typed ends nothing.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from .chat import chat_side, render, understands_parts

_FIRST, _ANSWER, _LAST, _OTHER = (f"gridprune-probe-{number}" for number in range(4))  # words that no template writes
_ASKS = re.compile("[?\uff1f\u061f]")  # a question mark, also the Chinese and the Arabic one


@dataclass(frozen=True)
class Template:
    """Text around a user's words. White space is of no account, except in `system`.

    Attributes:
        user: what opens a user turn, such as "USER:"; "" if nothing does.
        again: what stands between an answer and the next user's words: `user`, and the end of the answer before it.
        answer: what stands between a user's words and the answer, such as "ASSISTANT:".
        head: everything before the first user's words, a default system prompt included.
        others: what opens turns of neither user nor assistant: tools, a later system message.
        system: what stands between system text and the user's words where the template puts both into one user turn; ""
            where system text has a place of its own.
        system_turn: the user turn that has it: 0, or -1 for the last.
    """

    user: str
    again: str
    answer: str
    head: str = ""
    others: tuple[str, ...] = ()
    system: str = ""
    system_turn: int = 0

    def turns(self, text: str, is_special: Callable[[str], bool]) -> list[tuple[int, int]]:
        """Where the words of the user turns begin and end; none if the prompt does not follow this template.

        Args:
            is_special: whether a text holds a token that no user writes. A marker that does begins a turn wherever it
                stands; one of plain words only behind an answer.
        """
        begins = _search(self.head, text) or _search(self.user, text)
        if begins is None and self.user.strip():
            return []
        first = begins.end() if begins else 0
        if not (_search(self.answer, text, first) or (begins and is_special(self.user))):
            return []
        own = self.user if is_special(self.user) else self.again
        starts, previous = [(first, first, True)], first
        for found in _any((*self.others, own)).finditer(text, first):
            if is_special(found[0]) or _search(self.answer, text, previous, found.start()):
                starts.append((found.start(), found.end(), found.lastindex == len(self.others) + 1))
                previous = found.end()
        ends = [start for start, _, _ in starts[1:]] + [len(text)]
        return [(start, self._end(text, start, end)) for (_, start, users), end in zip(starts, ends) if users]

    def _end(self, text: str, start: int, end: int) -> int:
        """Where a user's words end: at the last answer that begins before the next turn."""
        answers = list(_loose(self.answer).finditer(text, start, end))
        return answers[-1].start() if answers else end

    def without_system(self, words: str, image: str, lead: str = "") -> str:
        """The words of the turn that may hold system text, without it.

        Text in front of the turn's first image is system text if the template's own separator stands between them. In
        text alone a blank line may be the user's as well: what is in front of it goes only if a question comes behind.

        Args:
            image: the character that stands for an image.
            lead: white space that the processor puts in front of every image.
        """
        if not self.system:
            return words
        if self.system.strip():
            found = _search(self.system, words)
            return words[found.end() :] if found else words
        front, first, rest = words.partition(image)
        if first and not front.strip():
            return words
        if first and front.endswith(self.system + lead) and rest.replace(image, "").strip():
            return first + rest
        asks = _ASKS.search(words)
        cut = front.removesuffix(lead).rfind(self.system, 0, asks.start()) if asks else -1
        return words if cut < 0 else words[cut:]


def _known(user: str, end: str, answer: str) -> Template:
    return Template(user, end + user, end + answer)


# For prompts written by hand, without a processor's template.
WELL_KNOWN = (
    _known("<|im_start|>user", "<|im_end|>", "<|im_start|>assistant"),
    _known(
        "<|start_header_id|>user<|end_header_id|>",
        "<|eot_id|>",
        "<|start_header_id|>assistant<|end_header_id|>",
    ),
    _known("<start_of_turn>user", "<end_of_turn>", "<start_of_turn>model"),
    _known("[INST]", "", "[/INST]"),
    _known("USER:", "", "ASSISTANT:"),
    _known("User:", "<end_of_utterance>", "Assistant:"),
    _known("User:", "", "Assistant:"),
)


def learn(processor: Any, as_decoded: Callable[[str], str]) -> Template | None:
    """Render probe conversations to learn what a processor's template writes; None if there is no usable template.

    Args:
        as_decoded: a text as it comes back from the tokenizer, so that it is found in decoded prompts.
    """
    side = chat_side(processor)
    if side is None:
        return None
    shape: Callable[[str], Any] = _parts if understands_parts(side) else str
    text = _render(side, shape, _CONVERSATION)
    if text is None:
        return None
    head, middle, again, tail = _between(text, _FIRST, _ANSWER, _LAST)
    answer = _common_start(middle, tail)
    if not answer.strip():
        return None
    over = _render(side, shape, _CONVERSATION[:2], generation=False)
    closing = _between(over, _FIRST, _ANSWER)[2] if over else ""
    user = again.removeprefix(closing)
    system, turn = _shared_turn(side, shape, user)
    others = (as_decoded(_opening(side, shape, role, closing)) for role in ("tool", "system"))
    user, again, answer, head = map(as_decoded, (user, again, answer, head))
    return Template(
        user=user,
        again=again,
        answer=answer,
        head=head,
        others=tuple(other for other in others if _is_own(other, user, answer)),
        system=system,
        system_turn=turn,
    )


# -- probes ---------------------------------------------------------------------------------------------------------

_CONVERSATION = (("user", _FIRST), ("assistant", _ANSWER), ("user", _LAST))


def _parts(text: str) -> Any:
    return [{"type": "text", "text": text}]


def _render(
    side: Any, shape: Callable[[str], Any], turns: Sequence[tuple[str, str]], *, generation: bool = True
) -> str | None:
    """A rendered probe conversation, if the template takes it and writes every word of it."""
    messages = [{"role": role, "content": shape(words)} for role, words in turns]
    try:
        text = render(side, messages, generation=generation)
    except Exception:  # templates raise whatever they like
        return None
    at = [text.find(words) for _, words in turns]
    return text if min(at) >= 0 else None


def _between(text: str, *probes: str) -> list[str]:
    """The pieces of a text around probes that follow each other in it."""
    pieces = []
    for probe in probes:
        piece, _, text = text.partition(probe)
        pieces.append(piece)
    return [*pieces, text]


def _common_start(one: str, other: str) -> str:
    return "".join(a for a, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other)))


def _opening(side: Any, shape: Callable[[str], Any], role: str, closing: str) -> str:
    """What opens a turn of this role behind an answer; "" if the template does not take one there."""
    text = _render(side, shape, (*_CONVERSATION[:2], (role, _OTHER)))
    if text is None or not text.find(_ANSWER) < text.find(_OTHER):
        return ""
    return _between(text, _ANSWER, _OTHER)[1].removeprefix(closing)


def _is_own(opening: str, user: str, answer: str) -> bool:
    """Whether a role opens its turns in a way of its own, not as the user or the assistant does."""
    return opening.strip() not in ("", user.strip()) and not answer.strip().endswith(opening.strip())


def _shared_turn(side: Any, shape: Callable[[str], Any], user: str) -> tuple[str, int]:
    """What separates system text from a user's words within one turn, and which turn; "" if they do not share one."""
    text = _render(side, shape, (("system", _OTHER), *_CONVERSATION))
    if text is None or not user.strip():
        return "", 0
    turn, words = (0, _FIRST) if text.find(_OTHER) < text.find(_FIRST) else (-1, _LAST)
    front, between = text.partition(words)[0].rpartition(_OTHER)[::2]
    return ("", 0) if user.strip() in between or user.strip() not in front else (between, turn)


# -- patterns -------------------------------------------------------------------------------------------------------


def _search(marker: str, text: str, start: int = 0, end: int | None = None) -> re.Match[str] | None:
    """The first place of a marker; None for an empty one."""
    return _loose(marker).search(text, start, len(text) if end is None else end) if marker.strip() else None


@lru_cache(maxsize=64)
def _loose(text: str) -> re.Pattern[str]:
    """A pattern that finds the text whatever white space a tokenizer put into it or took out."""
    return re.compile(r"\s*".join(map(re.escape, "".join(text.split()))) or r"(?!)")


@lru_cache(maxsize=64)
def _any(markers: tuple[str, ...]) -> re.Pattern[str]:
    """The first of several markers that fits, each as a group."""
    return re.compile("|".join(f"({_loose(marker).pattern})" for marker in markers))
