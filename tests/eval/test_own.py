"""A user's own questions: what a line may hold, which metric scores it, and rows that fail alone."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image

from gridprune.errors import GridPruneError, QuestionError, SettingError
from gridprune.eval import data, entries, metrics, own, run, shared, store


@pytest.fixture
def written(tmp_path):
    """Writes a file of questions beside an image."""
    Image.new("RGB", (40, 20), "gray").save(tmp_path / "a.png")

    def write(*lines, start="", end="\n"):
        file = tmp_path / "q.jsonl"
        file.write_bytes((start + end.join(json.dumps(line, ensure_ascii=False) for line in lines)).encode())
        return file

    return write


def line(**more):
    return {"image": "a.png", "question": "Is there a dog?", "answer": "yes", **more}


def test_what_a_line_may_hold(written):
    lines = [line(answer=["cat", "a kitten"], boxes=[[0, 0, 20, 20]]), line(answer="left", kind="place")]
    found = data.own(written(*lines))
    (scene,) = found.scenes()
    assert (found.total, len(scene.questions), scene.questions[1].kind) == (2, 2, "place")
    assert scene.questions[0].boxes == ((0.0, 0.0, 0.5, 1.0),)
    assert scene.questions[0].score("A kitten.") == 1
    assert data.own(found.file, 1).total == 1


def test_files_as_other_tools_write_them(written):
    lines = [line(answer=0), line(question="One\u2028two\u0085three?", answer=[1.5, "x"])]
    (scene,) = data.own(written(*lines, start="\ufeff", end="\r\n")).scenes()
    assert [question.answers for question in scene.questions] == [("0",), ("1.5", "x")]
    assert scene.questions[1].text == "One\u2028two\u0085three?"


@pytest.mark.parametrize(
    "bad",
    [
        "{",
        "[]",
        {"image": "a.png"},
        line(image="b.png"),
        line(image="iVBORw0KGgo" * 400),
        line(answer=""),
        line(answer=[]),
        line(answer=True),
        line(question=3),
        line(boxes=[3]),
        line(boxes=[[5, 0, 5, 9]]),
        line(metric="bleu"),
        '{"image": "a.png", "question": "half a pair: \\ud83d", "answer": "x"}',
        line(metric="vqa"),
    ],
)
def test_files_that_cannot_be_asked_are_refused(written, bad):
    file = written(bad)
    if isinstance(bad, str):
        file.write_text(bad)
    with pytest.raises(QuestionError, match=r"q\.jsonl") as caught:
        data.own(file)
    assert len(str(caught.value)) < 400


def test_a_file_of_another_encoding(written, tmp_path):
    written().write_bytes(json.dumps(line(answer="größe"), ensure_ascii=False).encode("latin-1"))
    with pytest.raises(GridPruneError, match="UTF-8"):
        data.own(tmp_path / "q.jsonl")
    with pytest.raises(QuestionError, match="no file"):
        data.own(tmp_path / "none.jsonl")


def test_a_row_or_the_data_set_chooses_the_metric(written):
    file = written(line(answer="hello"), line(answer="B", metric="choice"), line(answer=["x"] * 10, metric="vqa"))
    found = data.own(file, metric="anls")
    (scene,) = found.scenes()
    assert [question.metric for question in scene.questions] == ["anls", "choice", "vqa"]
    assert scene.questions[0].score("hallo") == pytest.approx(0.8)
    assert found.matching == "anls, choice, vqa"
    assert next(data.own(written(line())).scenes()).questions[0].metric == "exact"


def test_answers_right_in_part_count_in_part(written):
    (scene,) = data.own(written(line(answer="hello", metric="anls"), line(answer="yes"))).scenes()
    result = shared.Result(scene, {"full": ["hello", "yes"], "m|4": ["hallo", "no"]})
    row = store.row_of(result)
    assert row["answers"] == {"full": [1, 1], "m|4": [[0.8, "hallo"], "no"]}
    table = metrics.Table.of([row])
    assert table.accuracy("m|4") == pytest.approx(0.4)
    assert float(table.retention("m|4")) == pytest.approx(0.4)


ONE = "random"
PROBLEMS = {
    "ValueError": ValueError("absolute aspect ratio must be smaller than 200"),
    "not enough memory": MemoryError(),
    "enough memory for this row": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"),
    "PermissionError": PermissionError(13, "Permission denied"),
    "TypeError": TypeError("an error of our own"),
}


def failing(loaded, monkeypatch, problem):
    """Makes every question that contains "bus" fail in the model."""
    prepare = own.prepare

    def broken(loaded, image, question):
        if "bus" in question:
            raise problem
        return prepare(loaded, image, question)

    monkeypatch.setattr(own, "prepare", broken)
    return own.PerQuestion(loaded, shared.cells(entries.parse_list(ONE), [16]), 2)


@pytest.mark.parametrize("words", PROBLEMS)
def test_a_row_fails_alone_whatever_the_error(loaded, written, monkeypatch, words, caplog):
    file = written(line(question="Is there a bus?", id="bad"), line(), line(question="Is there a cat?"))
    (scene,) = data.own(file).scenes()
    result = failing(loaded, monkeypatch, PROBLEMS[words]).run([scene])[0]
    row = store.row_of(result, with_kept=True)
    assert list(row["failed"]) == ["bad"]
    assert words in row["failed"]["bad"]
    assert [text for _, _, text, _ in row["questions"]] == ["Is there a dog?", "Is there a cat?"]
    assert {len(answers) for answers in row["answers"].values()} == {2}
    assert ("Traceback" in caplog.text) == (words == "TypeError")


def test_a_key_press_and_a_lost_device_end_the_run(loaded, written, monkeypatch):
    (scene,) = data.own(written(line(question="Is there a bus?"))).scenes()
    for problem in (KeyboardInterrupt(), torch.AcceleratorError("device-side assert")):
        with pytest.raises(type(problem)):
            failing(loaded, monkeypatch, problem).run([scene])


def evaluated(loaded, file, folder):
    evaluation = run.Evaluation(entries.parse_list(ONE), [16], data.own(file), max_new_tokens=2)
    return run.evaluate(loaded, evaluation, store.RunFolder(folder), time_rounds=0)


def test_a_run_goes_on_and_says_what_failed(loaded, written, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"not an image")
    Image.new("RGB", (30_000, 1)).save(tmp_path / "line.png")
    bad = [line(image=name, id=name[:9]) for name in ("broken.png", "line.png", "missing.png", "iVBORw0KGgo" * 400)]
    file = written(*bad, line(), line(question="Where?"))
    found = evaluated(loaded, file, tmp_path / "run")
    assert list(found["failed"]) == ["broken.pn", "line.png", "missing.p", "iVBORw0KG"]
    assert (found["n"], found["scenes"]) == (2, 1)
    seen = [scene["questions"] for scene in store.RunFolder(tmp_path / "run").rows()]
    assert [len(questions) for questions in seen] == [0, 0, 0, 0, 2]
    assert evaluated(loaded, file, tmp_path / "run") == found  # complete: nothing is asked again


def test_a_run_in_which_everything_fails_is_an_error(loaded, written, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"not an image")
    with pytest.raises(SettingError, match=r"No question could be answered.*not an image"):
        evaluated(loaded, written(line(image="broken.png")), tmp_path / "run")
    assert not store.RunFolder(tmp_path / "run").complete


def test_a_report_shows_the_questions_that_were_answered(loaded, written, tmp_path):
    from gridprune.eval.html import questions

    file = written(line(image="missing.png"), line(), line(question="Is there a cat?"))
    evaluated(loaded, file, tmp_path / "run")
    rows = store.RunFolder(tmp_path / "run").rows()
    shown = questions.gather(rows, data.own(file), [f"{ONE}|16"])
    assert [scene["image"] is not None for scene in shown["scenes"]] == [False, True]
    assert [question["text"] for question in shown["questions"]] == ["Is there a dog?", "Is there a cat?"]
