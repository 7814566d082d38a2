"""Scenes and questions: the same on every machine, balanced, unambiguous."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict

import numpy as np
import pytest

from gridprune.tiny.data import iter_examples, text_prior
from gridprune.tiny.forms import FORMS, LLAVA, NEXT, Form
from gridprune.tiny.questions import KINDS, PLACES, balanced, training
from gridprune.tiny.scenes import SIDE, make_scene
from gridprune.tiny.vocabulary import REGIONS, UNK, encode
from training.boxes.cells import cells, evidence_mask

SPLITS = ("train", "dev", "test")
SCENES = 420  # a multiple of 4 counts, 7 places, 10 words
CHECKSUMS = {
    "train": "9dd942014bf860f9",
    "dev": "284fd0619677c3ef",
    "test": "bd971803cc6eea7b",
}
NEXT_CHECKSUMS = {
    "train": "6d1d56768fd76a40",
    "dev": "5c81f2545ca2827b",
    "test": "51bd719ce08f7685",
}


def checksum(split: str, form: Form = LLAVA) -> str:
    state = hashlib.sha256()
    for index in range(6):
        scene = make_scene(split, index, form=form)
        state.update(scene.pixels.tobytes())
        for question in balanced(scene):
            state.update(repr((question.text, question.answer, question.boxes)).encode())
    return state.hexdigest()[:16]


@pytest.mark.parametrize("split", SPLITS)
def test_scenes_are_identical_on_every_machine(split: str) -> None:
    assert checksum(split) == CHECKSUMS[split]
    assert checksum(split, NEXT) == NEXT_CHECKSUMS[split]


def test_seeds_and_splits_differ() -> None:
    images = {make_scene(split, 0, seed=seed).pixels.tobytes() for split in SPLITS for seed in (0, 1)}
    assert len(images) == 6


@pytest.mark.parametrize("form", FORMS.values(), ids=list(FORMS))
@pytest.mark.parametrize("split", SPLITS)
def test_layout_keeps_its_margins(split: str, form: Form) -> None:
    for index in range(60):
        scene = make_scene(split, index, form=form)
        for number, item in enumerate(scene.items):
            assert 0 <= item.card[0] < item.card[2] <= form.side
            assert 0 <= item.card[1] < item.card[3] <= form.side
            for other in scene.items[number + 1 :]:
                apart_x = item.card[2] <= other.card[0] or other.card[2] <= item.card[0]
                apart_y = item.card[3] <= other.card[1] or other.card[3] <= item.card[1]
                assert apart_x or apart_y
        assert scene.counts[scene.targets.counted] == scene.targets.count


@pytest.mark.parametrize("form", FORMS.values(), ids=list(FORMS))
@pytest.mark.parametrize("split", SPLITS)
def test_answers_follow_from_the_scene(split: str, form: Form) -> None:
    for index in range(60):
        scene = make_scene(split, index, form=form)
        asked = balanced(scene) + training(scene, 14)
        for question in asked:
            assert UNK not in encode(question.text) + encode(question.answer)
            if question.kind == "count":
                assert question.answer == str(len(question.evidence))
            elif question.kind == "position":
                (item,) = question.evidence
                assert scene.counts[item.label] == 1
                assert question.answer == REGIONS[form.region_of(*item.center, form.margin)]
            elif question.kind == "region":
                number = REGIONS.index(question.text.removeprefix("What object is in the ").rstrip("?"))
                assert sum(form.near_region(*i.center, number, form.margin) for i in scene.objects) == 1
            elif question.kind == "relation":
                a, b = question.evidence
                axis = 0 if "to the" in question.text else 1
                gap = b.center[axis] - a.center[axis]
                assert abs(gap) >= form.relation_margin
                forward = "left" in question.text or "above" in question.text
                assert (question.answer == "yes") == ((gap > 0) == forward)


@pytest.mark.parametrize("split", SPLITS)
def test_held_out_objects_are_small(split: str) -> None:
    sides = {item.sprite.longest for index in range(40) for item in make_scene(split, index).objects}
    assert min(sides) == 14
    assert max(sides) == (26 if split == "train" else LLAVA.largest)


@pytest.mark.parametrize("form", FORMS.values(), ids=list(FORMS))
@pytest.mark.parametrize("split", ["dev", "test"])
def test_answers_are_balanced(split: str, form: Form) -> None:
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    regions: Counter[str] = Counter()
    for index in range(SCENES):
        for question in balanced(make_scene(split, index, form=form)):
            answers[question.template][question.answer] += 1
            regions[question.text] += question.kind == "region"
    assert answers["exist"]["yes"] == answers["exist"]["no"]
    assert set(answers["count"].values()) == {SCENES // 4}
    assert set(answers["reading"].values()) == {SCENES // 10}
    prior = text_prior(split, form=form.name)
    assert prior["exist"] == 0.5
    if form.asks_places:
        places = set(REGIONS) - form.unasked
        assert answers["position"] == dict.fromkeys(places, SCENES // len(places))
        asked = {f"What object is in the {place}?": SCENES // len(places) for place in places}
        assert {text: number for text, number in regions.items() if number} == asked
        assert max(answers["region"].values()) - min(answers["region"].values()) <= 1
        assert prior["relation"] <= 0.51
    else:
        assert not {"position", "region", "relation"} & set(answers)
    assert prior["choice"] <= 0.3
    assert prior["attribute"] <= 0.15


def test_cells_and_evidence() -> None:
    for index in range(30):
        scene = make_scene("train", index)
        truth = cells(scene)
        assert truth.center.sum() == len(scene.items)
        for item in scene.items:
            mask = evidence_mask([item.box])
            x, y = item.center
            assert mask[y // 8, x // 8]
            assert truth.label[y // 8, x // 8] == item.label
            assert truth.color[y // 8, x // 8] == item.color


def test_examples_share_scenes_and_repeat() -> None:
    first = list(iter_examples("dev", 40))
    again = list(iter_examples("dev", 40))
    assert [e.id for e in first] == [e.id for e in again]
    assert len({e.id for e in first}) == 40
    assert {e.kind for e in first} == set(KINDS)
    numbers = [e.scene for e in first]
    assert numbers == sorted(numbers)
    assert len(set(numbers)) < 6
    assert first[0].image.size == (SIDE, SIDE)
    assert np.array_equal(np.asarray(first[0].image), np.asarray(again[0].image))


def test_examples_of_the_larger_form() -> None:
    examples = list(iter_examples("dev", 24, form="next"))
    assert all(e.image.size == (NEXT.side, NEXT.side) for e in examples)
    assert {e.kind for e in examples} == set(KINDS) - PLACES
    assert max(box[3] for e in examples for box in e.boxes) > SIDE
    objects = [len(make_scene("dev", index, form=NEXT).objects) for index in range(40)]
    assert min(objects) >= NEXT.objects[0]


def test_unknown_split_and_form_are_errors() -> None:
    with pytest.raises(ValueError, match="unknown split"):
        next(iter_examples("validation", 1))
    with pytest.raises(ValueError, match="unknown form"):
        next(iter_examples("dev", 1, form="video"))
