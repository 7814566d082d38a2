"""Answers scored by the metrics of the field; expected values are worked out by hand or are those of the releases."""

from __future__ import annotations

import unicodedata

import pytest

from gridprune.errors import QuestionError
from gridprune.eval import scoring


@pytest.mark.parametrize(
    ("given", "wanted", "right"),
    [
        ("Cat.", "cat", True),
        ("  new\n york ", "New York", True),
        ("STRASSE", "straße", True),
        (unicodedata.normalize("NFD", "café"), "CAFÉ", True),
        ("はい。", "はい", True),
        ("दिन", "दीन", False),
        ("resume", "résumé", False),
        ("-5", "5", False),
        ("C++", "C", False),
        ("3.5", "35", False),
        ("$5", "5", False),
        ("m²", "m2", False),
        ("a dog", "dog", False),
        (".", ".", True),
    ],
)
def test_exact_knows_different_words_from_equal_ones(given, wanted, right):
    assert scoring.score("exact", given, ["something else", wanted]) == right


def test_vqa_counts_annotators():
    ten = ["dog"] * 2 + ["puppy"] + ["The dog!"] + ["cat"] * 6
    # "dog" was given three times: three choices of nine annotators hold it twice, seven hold it three times
    assert scoring.score("vqa", "A Dog", ten) == pytest.approx((3 * 2 / 3 + 7 * 1) / 10)
    assert scoring.score("vqa", "puppy", ten) == pytest.approx((0 + 9 * 1 / 3) / 10)
    assert scoring.score("vqa", "horse", ten) == 0
    assert scoring.score("vqa", "cat", ten) == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1,000", "1000"),
        ("Two dogs, please!", "2 dogs please"),
        ("left-hand", "left hand"),
        ("3.5 m.", "3.5 m"),
        ("don't", "dont"),
        ("none", "0"),
        ("दीन", "दीन"),
    ],
)
def test_vqa_reads_words_as_the_release_does(text, words):
    assert scoring.score("vqa", text, [words] * 10) == 1


def test_anls_by_hand():
    assert scoring.score("anls", "Hello", ["hello"]) == 1
    assert scoring.score("anls", "hallo", ["hello", "other"]) == pytest.approx(0.8)
    assert scoring.score("anls", "kitten", ["sitting"]) == pytest.approx(1 - 3 / 7)
    assert scoring.score("anls", "abcd", ["abxy"]) == 0.5
    assert scoring.score("anls", "abcd", ["axyz"]) == 0  # 0.25, below one half
    assert scoring.score("anls", "", ["a"]) == 0


@pytest.mark.parametrize("given", ["B", "b", "(B)", "B.", "B: a cat", "(B) a cat", "The answer is B", "Answer: (B)."])
def test_the_letter_of_an_option(given):
    assert scoring.score("choice", given, ["B"]) == 1
    assert scoring.score("choice", given, ["A"]) == 0


@pytest.mark.parametrize("given", ["A dog", "Bananas", "AB", "", "the answer is a dog"])
def test_words_are_no_letter(given):
    assert [scoring.score("choice", given, [letter]) for letter in "AB"] == [0, 0]


@pytest.mark.parametrize(
    ("metric", "answers", "words"),
    [("bleu", ["x"], "exact, vqa, anls, choice"), ("vqa", ["x"], "annotators"), ("choice", ["cat"], "letters")],
)
def test_metrics_refuse_what_they_cannot_compare_with(metric, answers, words):
    with pytest.raises(QuestionError, match=words):
        scoring.check(metric, answers)
