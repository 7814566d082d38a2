"""The smallest budget with the same answer: what is tried, and what is said of it."""

from __future__ import annotations

import pytest

from gridprune import find_keep
from gridprune.errors import SettingError
from gridprune.methods import create
from gridprune.runtime import answer, load
from gridprune.runtime.ladder import FoundKeep, Tried, ladder
from gridprune.tiny import make_scene


def test_budgets_by_hand():
    assert ladder(16) == [1, 2, 3, 4, 6, 8, 11]
    assert ladder(2) == [1]
    assert ladder(1) == []
    assert ladder(576)[-3:] == [256, 362, 512]


@pytest.mark.parametrize(
    ("same", "smallest", "steady"),
    [("--xx", 4, 4), ("-x-x", 2, 8), ("xxxx", 1, 1), ("----", 16, 16), ("xxx-", 1, 16)],
)
def test_luck_is_told_from_what_holds(same, smallest, steady):
    tried = tuple(Tried(keep, "dog", mark == "x") for keep, mark in zip((1, 2, 4, 8), same))
    found = FoundKeep("random", "dog", 16, tried)
    assert (found.smallest, found.steady) == (smallest, steady)
    assert found.to_dict()["smallest"] == smallest


def test_every_answer_is_that_of_a_call_of_its_own():
    loaded, scene = load(), make_scene("dev", 3)
    image, question = scene.image, "How many dogs are there?"
    seen = []
    found = find_keep(loaded, image, question, "random(seed=5)", max_new_tokens=4, progress=lambda *at: seen.append(at))
    assert found.answer == answer(loaded, image, question, max_new_tokens=4).text
    assert [one.keep for one in found.tried] == ladder(576)
    for one in found.tried[::4]:
        alone = answer(loaded, image, question, create("random", keep=one.keep, seed=5), max_new_tokens=4)
        assert one.answer == alone.text
        assert one.same == (one.answer == found.answer)
    assert seen[-1] == (len(found.tried),) * 2


@pytest.mark.parametrize("method", ["fastv", "prumerge"])
def test_methods_without_a_budget_of_your_choice_are_refused(method):
    with pytest.raises(SettingError, match=method):
        find_keep(None, None, "?", method)
