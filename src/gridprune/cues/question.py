"""The question: read out of a prompt with the checkpoint's own chat template, or given; made fit for a text tower."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

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


def strip_format(question: str) -> str:
    """Remove answer-format instructions from the end of a question; what is left is never empty unless it was."""
    previous, current = None, question.strip()
    while previous != current:
        previous, current = current, _SUFFIX.sub("", current).strip()
    return current or question.strip()


@dataclass(frozen=True)
class Template:
    """What surrounds a user turn: found by rendering probes through the chat template.

    Attributes:
        head: text before the first user turn's words (system prompt and role marker).
        user_end: text between a user turn and the assistant's.
        user_start: text between an assistant turn and the next user's.
    """

    head: str
    user_end: str
    user_start: str


def find_template(processor: Any, image_marker: str) -> Template | None:
    """Render probe conversations to learn the markers of the processor's chat template; None if there is no template."""
    if not getattr(processor, "chat_template", None) and not getattr(
        getattr(processor, "tokenizer", None), "chat_template", None
    ):
        return None

    def turn(role: str, text: str, picture: bool = False) -> dict[str, Any]:
        image = [{"type": "image"}] if picture else []
        return {"role": role, "content": [*image, {"type": "text", "text": text}]}

    conversation = [turn("user", _PROBES[0], True), turn("assistant", _PROBES[1]), turn("user", _PROBES[2])]
    try:
        text = processor.apply_chat_template(conversation, add_generation_prompt=True, tokenize=False)
    except Exception:  # a template of the checkpoint's own may refuse the probe in any way it likes
        return None
    if not all(probe in text for probe in _PROBES):
        return None
    head, rest = text.split(_PROBES[0], 1)
    between, rest = rest.split(_PROBES[1], 1)
    user_start, _ = rest.split(_PROBES[2], 1)
    return Template(_squash(head.replace(image_marker, "")), _squash(between), _squash(user_start))


def user_turns(text: str, template: Template | None, image_marker: str) -> list[str]:
    """The words of each user turn of a decoded prompt, image markers kept in place."""
    if template is None or not template.user_end:
        return [text]
    turns = []
    for index, part in enumerate(_squash(text, strip=False).split(template.user_end)):
        if index and template.user_start and template.user_start in part:
            part = part.split(template.user_start, 1)[1]
        elif index:
            continue  # the assistant's words, nothing behind them
        turns.append(part)
    if turns:
        turns[0] = _drop_head(turns[0], template.head, image_marker)
    return turns or [text]


def question_per_image(text: str, template: Template | None, image_marker: str) -> list[str]:
    """For each image marker of a decoded prompt, the question of the user turn that holds it."""
    questions = []
    for turn in user_turns(text, template, image_marker):
        question = clean(turn.replace(image_marker, " "))
        questions.extend([question] * turn.count(image_marker))
    return questions


def clean(text: str) -> str:
    """One line, single spaces, answer-format instructions removed."""
    return strip_format(re.sub(r"\s+", " ", text).strip())


@lru_cache(maxsize=256)
def split_words(question: str, parts: int) -> tuple[str, ...]:
    """A question cut into `parts` runs of nearly equally many words, for text towers with a short context."""
    words = question.split()
    cut = [len(words) * i // parts for i in range(parts + 1)]
    return tuple(" ".join(words[a:b]) for a, b in zip(cut, cut[1:]) if b > a)


def _drop_head(turn: str, head: str, image_marker: str) -> str:
    """Remove the template's head from the first turn, wherever the image marker stands in it."""
    if not head:
        return turn
    markers = turn.count(image_marker)
    bare = _squash(turn.replace(image_marker, ""), strip=False)
    position = bare.find(head)
    if position < 0:  # another system prompt than the template's own: drop its last word, the role marker
        role = head.split()[-1]
        position, head = bare.find(role), role
    if position < 0:
        return turn
    return image_marker * markers + bare[position + len(head) :]


def _squash(text: str, strip: bool = True) -> str:
    text = re.sub(r"\s+", " ", text)
    return text.strip() if strip else text
