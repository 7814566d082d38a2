"""The question: read out of a prompt's token ids with the checkpoint's own chat template, or given."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from torch import Tensor

from ..errors import QuestionError

# What evaluation harnesses append to ask for a short answer. They say nothing about the picture.
_FORMAT_SUFFIXES = (
    r"answer the question using a single word or phrase\.?",
    r"answer with the option'?s letter from the given choices directly\.?",
    r"please answer (?:yes or no|the question)[^.\n]*\.?",
    r"provide a one-sentence caption for the provided image\.?",
    r"when the provided information is insufficient, respond with 'unanswerable'\.?",
)
_SUFFIX = re.compile(r"\s*(?:" + "|".join(_FORMAT_SUFFIXES) + r")\s*$", re.IGNORECASE)
_PROBES = ("\ue000one\ue001", "\ue000two\ue001", "\ue000three\ue001")
_PICTURE = "\ue002"  # stands for a picture in the decoded prompt


def strip_format(question: str) -> str:
    """Remove answer-format instructions from the end of a question; what is left is never empty unless it was."""
    previous, current = None, question.strip()
    while previous != current:
        previous, current = current, _SUFFIX.sub("", current).strip()
    return current or question.strip()


def clean(text: str) -> str:
    """One line, single spaces, answer-format instructions removed."""
    return strip_format(re.sub(r"\s+", " ", text).strip())


@lru_cache(maxsize=256)
def split_words(question: str, parts: int) -> tuple[str, ...]:
    """A question cut into `parts` runs of nearly equally many words, for text towers with a short context."""
    words = question.split()
    cut = [len(words) * i // parts for i in range(parts + 1)]
    return tuple(" ".join(words[a:b]) for a, b in itertools.pairwise(cut) if b > a)


@dataclass(frozen=True)
class Template:
    """Text around a user turn.

    Attributes:
        user: what stands directly in front of a user's words, such as "USER:".
        end: what stands between a user turn and the assistant's, such as "ASSISTANT:".
        head: everything before the first user's words, a default system prompt included.
    """

    user: str
    end: str
    head: str = ""


# For prompts written by hand, without a processor's template.
_WELL_KNOWN = (
    Template("<|im_start|>user", "<|im_end|>"),
    Template("<|start_header_id|>user<|end_header_id|>", "<|eot_id|>"),
    Template("<start_of_turn>user", "<end_of_turn>"),
    Template("[INST]", "[/INST]"),
    Template("USER:", "ASSISTANT:"),
    Template("User:", "<end_of_utterance>"),
    Template("User:", "Assistant:"),
)


class QuestionReader:
    """Reads for every picture of a prompt the question of the user turn that holds it."""

    def __init__(self, processor: Any) -> None:
        """Args:
        processor: a processor with a tokenizer, or a tokenizer.
        """
        self.processor = processor
        self.tokenizer = getattr(processor, "tokenizer", processor)

    def read(self, ids: Tensor, pictures: Sequence[tuple[int, Tensor]], mask: Tensor | None = None) -> list[str]:
        """One question per picture.

        Args:
            ids: (B, L) on the CPU.
            pictures: row and columns of each picture's tokens, in prompt order.
            mask: (B, L), what is not padding; without it, padding is told by the tokenizer's pad token.
        """
        questions: list[str] = []
        for row in range(len(ids)):
            columns = [place for where, place in pictures if where == row]
            if columns:
                questions += self._of_row(ids[row], columns, None if mask is None else mask[row])
        return questions

    def _of_row(self, ids: Tensor, pictures: list[Tensor], mask: Tensor | None) -> list[str]:
        real = ids != self.tokenizer.pad_token_id if mask is None else mask.bool()
        pieces, start = [], 0
        for columns in pictures:  # separators between the tiles of one picture are not text of the user's
            pieces.append(self._decode(ids[start : int(columns[0])][real[start : int(columns[0])]]))
            start = int(columns[-1]) + 1
        pieces.append(self._decode(ids[start:][real[start:]]))
        turns = split_turns(_PICTURE.join(pieces), self.templates)
        words = [self._words(turn) for turn in turns]
        questions = []
        for number, turn in enumerate(turns):
            own = words[number] or next((text for text in words[number + 1 :] if text), "")
            questions += [own] * turn.count(_PICTURE)
        if len(questions) != len(pictures):
            raise QuestionError(
                "Could not tell which question belongs to which picture; give question=[...], one each."
            )
        return questions

    def _decode(self, ids: Tensor) -> str:
        return str(self.tokenizer.decode(ids.tolist(), skip_special_tokens=False)) if len(ids) else ""

    def _words(self, turn: str) -> str:
        return clean(self._markers.sub(" ", turn.replace(_PICTURE, " ")))

    @cached_property
    def _markers(self) -> re.Pattern[str]:
        """Every token that is not text: special and added ones."""
        added: dict[str, int] = getattr(self.tokenizer, "get_added_vocab", dict)()
        tokens = {str(token) for token in (*self.tokenizer.all_special_tokens, *added) if str(token).strip()}
        return re.compile("|".join(re.escape(token) for token in sorted(tokens, key=len, reverse=True)) or r"(?!)")

    @cached_property
    def templates(self) -> tuple[Template, ...]:
        """The processor's own template, and those that prompts written by hand commonly follow."""
        own = self._own_template()
        return (own, *_WELL_KNOWN) if own is not None else _WELL_KNOWN

    def _own_template(self) -> Template | None:
        """Render a probe conversation to learn what surrounds a user turn; None if there is no usable template."""
        chat = next((s for s in (self.processor, self.tokenizer) if getattr(s, "chat_template", None)), None)
        if chat is None:
            return None
        text = _render(chat)
        if text is None or not all(probe in text for probe in _PROBES):
            return None
        head, rest = text.split(_PROBES[0], 1)
        end, rest = rest.split(_PROBES[1], 1)
        again, _ = rest.split(_PROBES[2], 1)
        user = self._from_last_marker(_common_end(head, again))
        head, user, end = (self._as_decoded(part) for part in (head, user, end))
        return Template(user, end, head) if end.strip() else None

    def _from_last_marker(self, text: str) -> str:
        """The end of a text, from its last special token on: a role marker without what ended the turn before."""
        return text[max([text.rfind(str(token)) for token in self.tokenizer.all_special_tokens] + [0]) :]

    def _as_decoded(self, text: str) -> str:
        """The text as it comes back from the tokenizer, so that it is found in decoded prompts."""
        return str(self.tokenizer.decode(self.tokenizer(text, add_special_tokens=False)["input_ids"])).strip()


def split_turns(text: str, templates: Sequence[Template]) -> list[str]:
    """The user turns of a decoded prompt, by the first template that fits it; the whole prompt if none does."""
    for template in templates:
        turns = _split(text, template)
        if turns:
            return turns
    return [text]


def _split(text: str, template: Template) -> list[str]:
    end, user = _loose(template.end), _loose(template.user)
    if not end.search(text):
        return []
    turns = []
    for number, part in enumerate(end.split(text)):
        start = _words_start(part, template, user) if template.user else None
        if start is not None:
            turns.append(_PICTURE * part[:start].count(_PICTURE) + part[start:])
        elif number == 0 or _PICTURE in part:  # without a role marker only the first part is a user's
            turns.append(part)
    return turns


def _words_start(part: str, template: Template, user: re.Pattern[str]) -> int | None:
    """Where the user's words begin: behind the template's own head, or behind the last role marker."""
    head = _loose(template.head).search(part) if template.head else None
    if head is not None:
        return head.end()
    found = list(user.finditer(part))
    return found[-1].end() if found else None


@lru_cache(maxsize=64)
def _loose(text: str) -> re.Pattern[str]:
    """A pattern that finds the text whatever white space a tokenizer put into it or took out."""
    return re.compile(r"\s*".join(re.escape(character) for character in text if not character.isspace()))


def _render(chat: Any) -> str | None:
    for content in (lambda text: [{"type": "text", "text": text}], lambda text: text):
        roles = ("user", "assistant", "user")
        turns = [{"role": role, "content": content(probe)} for role, probe in zip(roles, _PROBES)]
        try:
            return str(chat.apply_chat_template(turns, add_generation_prompt=True, tokenize=False))
        except Exception:
            continue
    return None


def _common_end(a: str, b: str) -> str:
    size = 0
    while size < min(len(a), len(b)) and a[len(a) - 1 - size] == b[len(b) - 1 - size]:
        size += 1
    return a[len(a) - size :]
