"""What stands behind the page, without a browser: looking once, turns, and what is taken along."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import replace

import pytest
import torch

from gridprune.demo.choice import KNOBS, Choice, chosen, preset
from gridprune.demo.engine import Engine
from gridprune.demo.export import as_python, save
from gridprune.demo.limits import MAX_IMAGES, MAX_QUESTION, MAX_SESSIONS
from gridprune.demo.samples import samples
from gridprune.demo.session import Conversation, Session, Sessions
from gridprune.demo.view import answers_html, found_html, maps_html, problem_html
from gridprune.errors import QuestionError, SettingError
from gridprune.methods import create
from gridprune.runtime import answer, find_keep
from gridprune.tiny.scenes import make_scene

QUESTION = "What does the sign say?"


@pytest.fixture(scope="module")
def engine(loaded) -> Engine:
    return Engine(loaded)


@pytest.fixture
def session() -> Session:
    return Session(samples())


@pytest.mark.parametrize("name", ["gridprune", "gridprune-literal", "random", "cdpruner", "visionzip"])
def test_the_page_answers_as_an_application_does(engine, loaded, name):
    image, method = make_scene("dev", 2).image, create(name, keep=64)
    there, here = engine.answer([image], QUESTION, method), answer(loaded, image, QUESTION, method)
    assert there.text == here.text
    assert there.kv_bytes == here.kv_bytes
    assert torch.equal(there.report.kept_indices, here.report.kept_indices)


def test_an_image_is_looked_at_once(engine, loaded):
    looks = []
    hook = loaded.model.model.vision_tower.register_forward_hook(lambda *_: looks.append(1))
    try:
        visitor = Session([Conversation(["one"], [make_scene("dev", 11).image])])
        visitor.ask(engine, QUESTION, Choice(keep=64, compare="fastervlm"), False)
        for keep in range(32, 40):
            visitor.again(engine, Choice(keep=keep, compare="cdpruner"))
        visitor.ask(engine, "Where is the mushroom?", Choice(keep=64), False)
    finally:
        hook.remove()
    assert len(looks) == 1


def test_another_k_leaves_the_answer_of_all_tokens_alone(engine, session):
    session.ask(engine, QUESTION, Choice(keep=64), False)
    before = session.conversation.turn
    session.again(engine, Choice(keep=32, compare="random"))
    after = session.conversation.turn
    assert after.columns[0] is before.columns[0]
    assert [column.answer.visual_tokens for column in after.columns] == [576, 32, 32]
    assert not session.conversation.past


def test_words_that_the_model_does_not_know_are_named(engine, session):
    with pytest.raises(QuestionError, match=r"'colour' \('color'\?\)"):
        session.ask(engine, "What colour is the card?", Choice(keep=64), False)
    assert session.conversation.turn is None


@pytest.mark.parametrize("question", ["???", "What is the meaning of life?", "asdf qwer"])
def test_nonsense_is_refused_by_the_embedded_model_only(engine, session, question):
    with pytest.raises(QuestionError):
        session.ask(engine, question, Choice(keep=64), False)
    other = Engine(replace(engine.loaded, name="other", check=None))
    session.ask(other, question, Choice(keep=64), False)
    assert session.conversation.turn.question == question


def test_on_the_first_sample_methods_differ(engine, session):
    session.ask(engine, session.conversation.suggestions[0], Choice(keep=64, compare="random"), False)
    full, kept, blind = (column.text for column in session.conversation.turn.columns)
    assert full == kept == "stop"  # what is painted there
    assert blind != "stop"


def test_the_smallest_k_is_that_of_the_command_line(engine, loaded, session):
    choice = Choice(keep=64, knobs=(("zone", 3),))
    assert session.smallest(engine, choice) is None  # nothing was asked yet
    session.ask(engine, QUESTION, choice, False)
    found = session.smallest(engine, choice)
    assert found == find_keep(loaded, session.conversation.images[0], QUESTION, "gridprune(zone=3)")
    assert f"k = {found.smallest}" in found_html(found)
    with pytest.raises(SettingError):
        session.smallest(engine, Choice(keep=64, method="fastv"))


def test_other_checkpoints_begin_with_photographs(engine):
    for each in samples(embedded=False):
        for image, source in zip(each.images, each.sources, strict=True):
            scope = {}
            exec("\n".join([source[0], f"image = {source[1]}"]), scope)
            assert scope["image"].tobytes() == image.tobytes()
            assert min(image.size) >= 300
        assert each.suggestions


def test_more_tokens_than_there_are_means_all(engine, session):
    session.ask(engine, QUESTION, Choice(keep=9999), False)
    assert [column.answer.visual_tokens for column in session.conversation.turn.columns] == [576, 576]


def test_follow_ups_hold_the_column_s_own_answers(engine, session):
    session.ask(engine, QUESTION, Choice(keep=64), False)
    first = session.conversation.turn
    session.ask(engine, "Where is the key?", Choice(keep=64), True)
    second = session.conversation.turn
    assert second.history(0) == [(QUESTION, first.columns[0].text)]
    assert second.history(1) == [(QUESTION, first.columns[1].text)]
    session.ask(engine, "Where is the cat?", Choice(keep=64), False)
    assert session.conversation.turn.history(1) == []
    assert [past.question for past in session.conversation.past] == [QUESTION, "Where is the key?"]
    session.clear()
    assert session.conversation.turn is None
    assert not session.conversation.past


def test_a_method_that_cannot_says_so_in_its_column(engine, session):
    session.ask(engine, QUESTION, Choice(keep=64, compare="fastv"), False)
    full, kept, problem = session.conversation.turn.columns
    assert full.answer.text
    assert kept.answer.text
    assert "keep at least" in problem.problem
    assert "keep at least" in answers_html(session.conversation.turn)
    maps_html(session.conversation, session.conversation.turn)


@pytest.mark.parametrize("question", ["", "  \n ", "word " * MAX_QUESTION])
def test_questions_that_are_none(engine, session, question):
    with pytest.raises(QuestionError):
        session.ask(engine, question, Choice(keep=64), False)
    assert session.conversation.turn is None


def test_words_of_visitors_are_escaped(engine, session):
    session.ask(engine, "<B>Is there a dog?</B>", Choice(keep=64), False)
    for html in (answers_html(session.conversation.turn), save(engine, session.conversation, "html")[0].decode()):
        assert "<B>" not in html
        assert "&lt;B&gt;Is there" in html
    assert problem_html("<script>alert(1)</script>").count("<script") == 0


def test_knobs_count_only_when_turned():
    recommended, printed = preset(False), preset(True)
    assert set(recommended) == set(printed) == set(KNOBS)
    assert chosen(64, "gridprune", "", False, **recommended) == Choice(keep=64)
    assert chosen(64, "gridprune", "", True, **printed) == Choice(keep=64, method="gridprune-literal")
    turned = chosen(64, "gridprune", "", False, **{**recommended, "zone": 4})
    assert turned.knobs == (("zone", 4),)
    assert turned.methods(576)[0].zone == 4
    assert chosen(64, "random", "", False, **{**recommended, "zone": 4}).knobs == ()


@pytest.mark.parametrize("own", [False, True])
def test_copied_python_gives_the_same_answer(engine, session, own, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if own:
        session.add(Conversation(['it\'s "mine".png'], [make_scene("dev", 5).image]))
        session.conversation.images[0].save(session.conversation.name)
    session.ask(engine, QUESTION, Choice(keep=48), False)
    session.ask(engine, "Where is the dog?", Choice(keep=48, knobs=(("zone", 3),)), True)
    code, printed = as_python(engine, session.conversation, session.conversation.turn), io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "copied.py", "exec"), {})
    assert printed.getvalue().strip() == session.conversation.turn.columns[1].text
    assert (tmp_path / "kept.png").is_file()


def test_downloads(engine, session):
    assert save(engine, session.conversation, "json") is None  # nothing was asked yet
    session.ask(engine, QUESTION, Choice(keep=64, compare="fastv"), False)
    content, kind = save(engine, session.conversation, "json")
    told = json.loads(content)
    assert kind == "application/json"
    assert told["question"] == QUESTION
    assert told["answers"][1]["visual_tokens"] == {"total": 576, "kept": 64}
    assert "keep at least" in told["answers"][2]["problem"]
    assert save(engine, session.conversation, "png")[0].startswith(b"\x89PNG")
    html = save(engine, session.conversation, "html")[0].decode()
    assert QUESTION in html
    assert "http" not in html.replace("http://www.w3.org", "").replace("https://arxiv.org", "")
    assert save(engine, session.conversation, "exe") is None


def test_of_a_checkpoint_folder_only_the_name_is_told(loaded, tmp_path):
    folder = tmp_path / "my-llava"
    folder.mkdir()
    engine = Engine(replace(loaded, name=str(folder)))
    visitor = Session(samples())
    visitor.ask(engine, QUESTION, Choice(keep=64), False)
    asked = visitor.conversation
    told = as_python(engine, asked, asked.turn) + save(engine, asked, "json")[0].decode()
    assert "my-llava" in told
    assert str(tmp_path) not in told


def test_visitors_and_their_images_are_bounded():
    visitors = Sessions(lambda: Session(samples()))
    first = visitors.of("first")
    for number in range(MAX_IMAGES + 3):
        first.add(Conversation([f"{number}"], [make_scene("dev", number).image]))
    own = [each.name for each in first.conversations if not each.sources]
    assert own == [str(number) for number in range(3, MAX_IMAGES + 3)]
    assert first.conversation.name == own[-1]
    assert visitors.by_key(first.key) is first
    assert visitors.by_key("") is None
    for number in range(MAX_SESSIONS):
        visitors.of(f"visitor {number}")
    assert len(visitors) == MAX_SESSIONS
    assert visitors.by_key(first.key) is None
    visitors.forget("visitor 3")
    assert len(visitors) == MAX_SESSIONS - 1
