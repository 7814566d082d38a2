"""How right an answer is, from 0 to 1, by the metrics of the field.

exact     equal to an accepted answer; capitals, blanks and a full stop at the end do not count. Unicode decides what
          a capital is and which characters are equal: nothing else is taken off, so that "-5" is not "5", "C++" not
          "C", and vowel signs and accents stay.
vqa       VQA accuracy (Antol et al. 2015): an answer that three annotators gave counts fully, one that fewer gave
          in part, averaged over all choices of annotators but one. Made for English words: articles, most
          punctuation (signs too) and the difference between "two" and "2" are taken off. Contractions are compared
          without their apostrophe, for which the release has a list.
anls      Average Normalised Levenshtein Similarity (Biten et al. 2019), with capitals and blanks as in `exact`:
          1 - edits / length for the best accepted answer, 0 below one half. For text that is read.
choice    the letter of an option, as "B", "(B)", "B.", "B: a cat" or "The answer is B".
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence

from ..errors import QuestionError

EXACT = "exact"
_STOPS = (".", "。", "।")
_ANNOTATORS = 4  # with fewer, no answer could count fully

_VQA_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_VQA_NUMBERS = {
    word: str(i)
    for i, word in enumerate(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"])
} | {"none": "0"}  # fmt: skip
_VQA_ARTICLES = frozenset({"a", "an", "the"})
_THOUSANDS = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")

_LETTER = re.compile(r"\(?([A-Za-z])\)?[.:]?(?:(?<=[.:)])\s.*)?", re.DOTALL)
_ANSWER_IS = re.compile(r"\b(?i:answer(?: is)?:?)\s*\(?([A-Z])\b")


def score(metric: str, given: str, answers: Sequence[str]) -> float:
    """How right `given` is, from 0 to 1."""
    return METRICS[metric](given, answers)


def check(metric: str, answers: Sequence[str]) -> None:
    """Refuse answers that a metric can do nothing with.

    Raises:
        QuestionError: no such metric, or the answers are not what it compares with.
    """
    if metric not in METRICS:
        raise QuestionError(f"there is no metric {metric!r}; there are {', '.join(METRICS)}")
    if metric == "vqa" and len(answers) < _ANNOTATORS:
        raise QuestionError(
            f"the metric 'vqa' counts annotators who gave an answer and needs at least {_ANNOTATORS} of them, got "
            f"{len(answers)}: list every annotator's answer, or use 'exact'"
        )
    if metric == "choice" and not all(re.fullmatch("[A-Z]", answer.strip().upper()) for answer in answers):
        raise QuestionError(f"the metric 'choice' compares the letters of options, got {', '.join(answers)}")


def exact(given: str, answers: Sequence[str]) -> float:
    """1 for an accepted answer."""
    return float(_plain(given) in {_plain(answer) for answer in answers})


def vqa(given: str, answers: Sequence[str]) -> float:
    """VQA accuracy."""
    words, told = _vqa_words(given), [_vqa_words(answer) for answer in answers]
    same = told.count(words)
    counts = [same - (answer == words) for answer in told]  # among the annotators but one
    return sum(min(1.0, count / 3) for count in counts) / len(counts)


def anls(given: str, answers: Sequence[str]) -> float:
    """Similarity to the closest accepted answer, 0 below one half."""
    best = max(_similarity(_caseless(given), _caseless(answer)) for answer in answers)
    return best if best >= 0.5 else 0.0


def choice(given: str, answers: Sequence[str]) -> float:
    """1 for the letter of the right option."""
    text = unicodedata.normalize("NFKC", given).strip()
    found = _LETTER.fullmatch(text) or _ANSWER_IS.search(text)
    letter = found[1] if found else text
    return float(letter.upper() in {answer.strip().upper() for answer in answers})


METRICS: Mapping[str, Callable[[str, Sequence[str]], float]] = {
    EXACT: exact,
    "vqa": vqa,
    "anls": anls,
    "choice": choice,
}


def _caseless(text: str) -> str:
    """For Unicode's canonical caseless matching, with single blanks."""
    folded = unicodedata.normalize("NFD", text).casefold()
    return " ".join(unicodedata.normalize("NFC", folded).split())


def _plain(text: str) -> str:
    """Caseless, without a full stop at the end."""
    whole = _caseless(text)
    return whole[:-1].rstrip() if len(whole) > 1 and whole.endswith(_STOPS) else whole


def _vqa_words(text: str) -> str:
    """The release's `processPunctuation` and `processDigitArticle`."""
    text = " ".join(unicodedata.normalize("NFC", text).split())
    found, number = text, _THOUSANDS.search(text) is not None
    for mark in _VQA_MARKS:
        at_a_word = f"{mark} " in text or f" {mark}" in text
        found = found.replace(mark, "" if at_a_word or number else " ")
    words = _PERIOD.sub("", found).lower().replace("'", "").split()
    return " ".join(_VQA_NUMBERS.get(word, word) for word in words if word not in _VQA_ARTICLES)


def _similarity(a: str, b: str) -> float:
    longest = max(len(a), len(b))
    return 1 - _edits(a, b) / longest if longest else 1.0


def _edits(a: str, b: str) -> int:
    """Levenshtein distance."""
    row = list(range(len(b) + 1))
    for i, letter in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, other in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (letter != other))
    return row[-1]
