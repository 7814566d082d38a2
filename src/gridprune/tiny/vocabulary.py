"""Names of everything in a scene, and the word-level vocabulary of questions and answers.

Label ids used for cells, items and training heads: 0 is background, 1..16 are the object
classes, 17..26 the sign words. Colour ids: 0 is "no card", 1..6 are ``COLORS``.
"""

from __future__ import annotations

import difflib
import re

from ..errors import QuestionError

CLASSES = (
    "apple", "banana", "dog", "cat", "frog", "bird", "fish", "car",
    "bus", "tree", "flower", "ball", "clock", "key", "star", "mushroom",
)  # fmt: skip
PLURALS = (
    "apples", "bananas", "dogs", "cats", "frogs", "birds", "fishes", "cars",
    "buses", "trees", "flowers", "balls", "clocks", "keys", "stars", "mushrooms",
)  # fmt: skip
#: Classes that look alike: distractors and plausible absent objects come from the same group.
GROUPS = (
    ("dog", "cat", "frog"),
    ("apple", "ball", "clock"),
    ("car", "bus"),
    ("bird", "fish"),
    ("tree", "flower", "mushroom"),
    ("banana", "star", "key"),
)
COLORS = ("red", "blue", "green", "yellow", "purple", "white")
COLOR_RGB = ((212, 40, 44), (44, 84, 214), (42, 158, 66), (242, 208, 48), (146, 62, 178), (244, 244, 244))
WORDS = ("stop", "open", "exit", "taxi", "sale", "bank", "zoo", "pizza", "24", "50")
#: The nine regions of the 3x3 division of the picture, row-major.
REGIONS = (
    "top left", "top", "top right", "left", "center", "right", "bottom left", "bottom", "bottom right",
)  # fmt: skip
COUNTS = ("1", "2", "3", "4")
LETTERS = ("A", "B", "C", "D")

N_CLASSES = len(CLASSES)
N_LABELS = 1 + N_CLASSES + len(WORDS)
N_COLORS = 1 + len(COLORS)

#: </s> must not be id 2, which selects a legacy pooling path in CLIP.
PAD, UNK, BOS, EOS, IMAGE, ANSWER = range(6)
SPECIALS = ("<pad>", "<unk>", "<s>", "</s>", "<image>", "<ans>")

_GRAMMAR = (
    "is", "there", "a", "an", "in", "the", "picture", "what", "color", "card", "behind", "on", "where",
    "object", "how", "many", "are", "of", "to", "does", "sign", "say", "which", "and", "describe", "above",
    "below", "left", "right", "top", "bottom", "center", "background", "yes", "no", "?", ".", ",",
)  # fmt: skip


def _vocabulary() -> tuple[str, ...]:
    seen: dict[str, None] = dict.fromkeys(SPECIALS)
    for group in (_GRAMMAR, CLASSES, PLURALS, COLORS, WORDS, COUNTS, LETTERS):
        seen.update(dict.fromkeys(group))
    return tuple(seen)


VOCABULARY = _vocabulary()
TOKEN_ID = {word: i for i, word in enumerate(VOCABULARY)}
#: What the embedded model knows, in words.
KNOWN = f"{len(CLASSES)} things ({', '.join(CLASSES)}), their colors, places, numbers, and short words on signs"
_NAMED = 8  # unknown words in a message
_SPLIT = re.compile(r"\w+|[^\w\s]")
#: What is written small before a text is cut into words: every capital but the letters of options, which stand alone
#: behind the question mark. "IS THERE A DOG?" holds an article, "Which ...? A dog B cat" two options.
CAPITALS = {letter: rf"{letter}(?=\w)|(?<=\w){letter}" for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"}
CAPITALS["A"] += r"|A(?=[^?]*\?)"
_CAPITAL = re.compile("|".join(CAPITALS.values()))


def label_word(label: int) -> str:
    """Word of a label id (class name, sign word, or ``background``)."""
    if label == 0:
        return "background"
    return CLASSES[label - 1] if label <= N_CLASSES else WORDS[label - 1 - N_CLASSES]


def encode(text: str) -> list[int]:
    """Token ids of a plain text without special tokens (the same as the exported fast tokenizer)."""
    return [TOKEN_ID.get(word, UNK) for word in _words(text)]


def _words(text: str) -> list[str]:
    return _SPLIT.findall(_CAPITAL.sub(lambda m: m.group().lower(), text))


def check_known(question: str) -> None:
    """Refuse a question that holds words which no training question held.

    Raises:
        QuestionError: the message names the words, and close ones that are known.
    """
    unknown = [word for word in dict.fromkeys(_words(question)) if word[0].isalnum() and word not in TOKEN_ID]
    if unknown:
        named = ", ".join(map(_with_hint, unknown[:_NAMED])) + (", ..." if len(unknown) > _NAMED else "")
        raise QuestionError(
            f"The embedded model does not know {named}. It is small: it knows {KNOWN}. Ask for example "
            "'How many dogs are there?' or 'What does the blue sign say?', or choose another model."
        )


def _with_hint(word: str) -> str:
    close = difflib.get_close_matches(word, VOCABULARY[len(SPECIALS) :], n=1, cutoff=0.75)
    return f"{word[:40]!r} ({close[0]!r}?)" if close else repr(word[:40])


def article(noun: str) -> str:
    """``a dog``, ``an apple``."""
    return ("an " if noun[0] in "aeiou" else "a ") + noun
