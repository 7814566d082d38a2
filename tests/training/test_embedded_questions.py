"""Questions: answers balanced exactly and true of the scene, evidence where it lies, words and spellings known."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache

import numpy as np
import pytest

from training.embedded.cells import evidence_mask
from training.embedded.phrases import FORMS
from training.embedded.questions import KINDS, Question, balanced, template_prior, training
from training.embedded.scenes import Scene, make_scene
from training.embedded.vocabulary import (
    BACKGROUNDS,
    COLOR_RGB,
    COLORS,
    N_CLASSES,
    NOUNS,
    SPELLINGS,
    TOKEN_ID,
    UNK,
    VOCABULARY,
    WORDS,
    encode,
    label_word,
)

BLOCK = (
    300  # 240 photos: a multiple of 40 classes, 10 backgrounds, 8 counts and colours; 60 pages: of 6 numbers of lines
)


@cache
def scenes() -> tuple[Scene, ...]:
    return tuple(make_scene("dev", index, seed=3) for index in range(BLOCK))


@cache
def by_template() -> dict[str, list[Question]]:
    found: dict[str, list[Question]] = {}
    for scene in scenes():
        for question in balanced(scene):
            found.setdefault(question.template, []).append(question)
    return found


@pytest.mark.parametrize(
    ("template", "answers"),
    [
        ("exist", 2), ("relation", 2), ("more", 2), ("more than", 2), ("larger", 2), ("same color", 2), ("occurs", 2),
        ("color of", len(COLORS)), ("detail", len(COLORS)), ("background", len(BACKGROUNDS)), ("count", 8),
        ("lines", 6), ("region", N_CLASSES), ("object on", N_CLASSES), ("sign", len(WORDS)),
    ],
)  # fmt: skip
def test_every_answer_of_a_template_is_as_frequent_as_any_other(template: str, answers: int) -> None:
    counted = Counter(question.key for question in by_template()[template])
    assert len(counted) == answers
    assert max(counted.values()) == min(counted.values())


def test_a_template_alone_answers_no_more_than_its_share() -> None:
    prior = template_prior(question for scene in scenes() for question in balanced(scene))
    assert set(prior) == set(KINDS)
    for kind in ("exist", "relation", "more", "compare"):
        assert prior[kind] == pytest.approx(0.5)
    assert max(prior[kind] for kind in KINDS if kind not in ("exist", "relation", "more", "compare")) < 0.3


def count(scene: Scene, name: str) -> int:
    label = next(i for i, noun in enumerate(NOUNS, start=1) if name in (*noun.names, *map(noun.plural, noun.names)))
    return sum(item.label == label for item in scene.items)


def test_answers_are_true_of_the_scene() -> None:
    seen: Counter[str] = Counter()
    for scene in scenes()[:60]:
        for q in balanced(scene) + training(scene, 24):
            words = q.text.lower().rstrip("?.").split()
            seen[q.template] += 1
            if q.template == "count":
                named = [word for word in words if word in VOCABULARY and TOKEN_ID[word] in NOUN_IDS]
                assert int(q.answer) == count(scene, named[0]) == len(q.boxes)
            elif q.template in ("more", "more than"):
                a, b = (count(scene, word) for word in words if TOKEN_ID.get(word) in NOUN_IDS)
                assert (q.key in ("first", "yes")) == (a > b)
            elif q.template == "occurs":
                (word,) = (word for word in words if word in WORDS)
                there = [item for item in scene.items if label_word(item.label) == word]
                assert (q.answer == "yes") == bool(there)
                assert q.boxes == tuple(item.box for item in there)
            elif q.template == "after":
                named = next(word for word in words if word in WORDS)
                texts = [label_word(item.label) for item in scene.texts]
                assert texts[texts.index(named) + 1] == q.answer
            elif q.template == "exist":
                assert (q.answer == "yes") == bool(q.boxes)
    assert set(seen) >= {"count", "more", "more than", "occurs", "after", "exist"}


NOUN_IDS = {TOKEN_ID[form] for noun in NOUNS for name in noun.names for form in (name, noun.plural(name))}


def test_evidence_of_the_background_touches_no_item_and_the_rest_lies_on_items() -> None:
    for scene in scenes()[:40]:
        occupied = evidence_mask(item.card for item in scene.items)
        for question in balanced(scene):
            evidence = evidence_mask(question.boxes)
            if question.kind == "background":
                drawn = np.zeros((192, 192), bool)
                for x0, y0, x1, y1 in (item.card for item in scene.items):
                    drawn[y0:y1, x0:x1] = True
                touched = drawn.reshape(24, 8, 24, 8).any((1, 3))
                assert (evidence == ~touched).all()
            elif question.boxes:
                assert evidence.any()
                assert not (evidence & ~occupied).any()
            else:
                assert question.template in ("exist", "occurs")
                assert question.answer == "no"


@pytest.mark.parametrize(("template", "inset"), [("color of", 1), ("detail", 5)])
def test_the_image_has_the_answer_in_the_evidence(template: str, inset: int) -> None:
    """The pixel just inside a card's corner, or in a spot's middle, is nearest to the colour that is the answer."""
    palette = np.array(COLOR_RGB)
    for scene in scenes()[:60]:
        for question in balanced(scene):
            if question.template == template:
                x, y = question.boxes[0][:2]
                distance = abs(palette - scene.pixels[y + inset, x + inset].astype(int)).sum(-1)
                assert COLORS[int(distance.argmin())] == question.answer


def test_the_vocabulary_covers_every_form_of_every_question() -> None:
    assert len(VOCABULARY) == len(TOKEN_ID)
    for index in range(40):
        scene = make_scene("train", index)
        for question in balanced(scene) + training(scene, 24):
            assert UNK not in encode(f"{question.text} {question.answer}"), question.text
    for forms in FORMS.values():
        for form in forms:
            assert UNK not in encode(re.sub(r"{\w+}", " ", form)), form


@pytest.mark.parametrize(
    ("typed", "same"),
    [
        ("What COLOUR is the card behind the Dog?", "what color is the card behind the dog?"),
        ("IS THERE A CAT IN THE CENTRE", "is there A cat in the center"),
        ("how many bicycles can you see in this pic", "how many bicycles can you see in this picture"),
        ("Does taxi appear in the document?", "does taxi occur in the page?"),
    ],
)
def test_what_people_type_is_one_text_to_the_model(typed: str, same: str) -> None:
    assert encode(typed) == encode(same)
    assert UNK not in encode(typed)


def test_names_are_words_of_their_own_and_unambiguous() -> None:
    forms = [form for noun in NOUNS for name in noun.names for form in (name, noun.plural(name))]
    assert len(forms) == len(set(forms))
    assert not set(forms) & {*WORDS, *COLORS, *BACKGROUNDS}
    assert not {*SPELLINGS} & {*VOCABULARY}
    assert {*SPELLINGS.values()} <= {*VOCABULARY}
