"""Runs: the same answers as `prune` and `generate`, resumed runs equal to uninterrupted ones, the JSON contract."""

from __future__ import annotations

import functools
import json

import pytest
from rich.console import Console
from typer import Typer
from typer.testing import CliRunner

from gridprune import runtime
from gridprune.cli import eval as cli
from gridprune.cli.sign import sign_command
from gridprune.errors import BusyError, SettingError
from gridprune.eval import data, entries, own, run, shared, show, store
from gridprune.eval import sign as measured
from gridprune.files import sole_writer

METHODS = "random,pooling,gridprune,oracle,shuffled-question(relevance),uniform-budgets(gridprune)"
KEEPS = [48]


@pytest.fixture(scope="module")
def scenes():
    return list(data.generated("dev", 16).scenes())


@pytest.fixture(scope="module")
def cells():
    return shared.cells(entries.parse_list(METHODS + ",downsample,keep-all"), KEEPS)


@pytest.fixture(scope="module")
def answered(loaded, cells, scenes):
    return shared.Shared(loaded, cells).run(scenes)


def test_shared_answers_equal_prune_and_generate(loaded, cells, scenes, answered):
    by_hand = own.PerQuestion(loaded, cells, max_new_tokens=4)
    by_hand.remember(scenes[0])
    picked = data.Scene(scenes[1].number, scenes[1].image, scenes[1].questions[:3])
    expected = by_hand.run([picked])[0]
    result = answered[1]
    assert len({text for texts in result.answers.values() for text in texts}) > 3  # the answers do depend on the tokens
    for cell, texts in expected.answers.items():
        assert result.answers[cell][:3] == texts, cell
        assert result.recall[cell][:3] == expected.recall[cell], cell
        assert result.tokens[cell][:3] == expected.tokens[cell], cell


def test_keep_all_is_full(answered):
    for result in answered:
        assert result.answers["keep-all|100%"] == result.answers["full"]


def test_a_method_is_blind_to_its_company(loaded, scenes, answered):
    alone = shared.Shared(loaded, shared.cells(entries.parse_list("gridprune"), KEEPS)).run(scenes[:1])
    assert alone[0].answers["gridprune|48"] == answered[0].answers["gridprune|48"]


def test_oracle_keeps_the_evidence(answered):
    recalls = [share for result in answered for share in result.recall["oracle|48"] if share is not None]
    assert set(recalls) == {1.0}


def evaluation(questions=16):
    return run.Evaluation(
        entries.parse_list("random,gridprune"), [16], data.generated("dev", questions), "gridprune eval"
    )


@pytest.fixture(scope="module")
def finished(loaded, tmp_path_factory):
    folder = store.RunFolder(tmp_path_factory.mktemp("whole"))
    store.GROUP, before = 1, store.GROUP
    run.GROUP = 1
    metrics = run.evaluate(loaded, evaluation(), folder, time_rounds=1)
    yield folder, metrics
    store.GROUP = run.GROUP = before


def test_resumed_equals_uninterrupted(loaded, tmp_path, finished, monkeypatch):
    whole, expected = finished
    folder = store.RunFolder(tmp_path)
    append = store.RunFolder.append

    def killed(self, rows):
        append(self, rows)
        self.rows_file.open("ab").write(b'{"scene":1,"quest')  # a torn line
        raise KeyboardInterrupt

    monkeypatch.setattr(store.RunFolder, "append", killed)
    with pytest.raises(KeyboardInterrupt):
        run.evaluate(loaded, evaluation(), folder, time_rounds=0)
    monkeypatch.setattr(store.RunFolder, "append", append)
    seen = []
    assert run.evaluate(loaded, evaluation(), folder, progress=seen.append, time_rounds=0) == expected
    assert seen[0] > 0
    assert folder.packed_file.read_bytes() == whole.packed_file.read_bytes()
    again = run.evaluate(loaded, evaluation(), folder, time_rounds=0)  # complete: nothing is answered again
    assert again == expected


def test_another_run_is_not_continued(loaded, finished):
    folder, _ = finished
    with pytest.raises(SettingError, match="questions"):
        run.evaluate(loaded, evaluation(17), folder, time_rounds=0)


def test_two_runs_do_not_write_to_one_folder(loaded, tmp_path):
    with sole_writer(tmp_path), pytest.raises(BusyError, match="Another process is writing"):
        run.evaluate(loaded, evaluation(), store.RunFolder(tmp_path), time_rounds=0)
    assert list(tmp_path.iterdir()) == []


def test_a_scene_that_stands_there_twice_is_refused(tmp_path):
    folder = store.RunFolder(tmp_path)
    folder.append([{"scene": number} for number in (0, 1, 2, 3, 4, 5, 6, 6)])
    with pytest.raises(SettingError, match="scenes twice"):
        folder.rows()


def test_who_is_a_peer():
    def peer(text):
        return run.describe(entries.parse(text), [64])["peer"]

    assert [peer(text) for text in ("random", "pooling", "fastervlm", "downsample")] == [True] * 4
    ours = ("gridprune(zone=3)", "gridprune-literal", "oracle", "global-topk(random)", "merge-rest(gridprune)")
    assert [peer(text) for text in (*ours, "keep-all", "prumerge")] == [False] * 7


def test_timing_lies_apart(finished):
    folder, metrics = finished
    timing = json.loads((folder.path / "timing.json").read_text())
    assert {"random|16", "gridprune|16"} == set(timing["decide"])
    assert {"16", "576"} == set(timing["prefill"])
    assert "seconds" not in json.dumps(metrics)


@pytest.fixture
def runner(loaded, monkeypatch):
    for module in ("eval", "sign"):
        monkeypatch.setattr(f"gridprune.cli.{module}.load_model", lambda *arguments: loaded)
    app = Typer()
    app.command("eval")(cli.eval_command)
    app.command("sign")(sign_command)
    return lambda *arguments: CliRunner().invoke(app, list(arguments), catch_exceptions=False)


@pytest.mark.slow
def test_workers_write_the_rows_of_one_process(loaded, tmp_path):
    """A question that is borrowed from the scene before comes from another worker's scene where a group begins."""
    asked = run.Evaluation(entries.parse_list("random,shuffled-question(relevance)"), [16], data.generated("dev", 110))
    folders = [store.RunFolder(tmp_path / str(workers)) for workers in (1, 2)]
    model = runtime.load("embedded")
    run.evaluate(model, asked, folders[0], time_rounds=0)
    seen = []
    settings = {"workers": 2, "load": functools.partial(runtime.load, "embedded"), "progress": seen.append}
    run.evaluate(model, asked, folders[1], time_rounds=0, **settings)
    assert len(folders[0].rows()) > store.GROUP
    assert folders[1].packed_file.read_bytes() == folders[0].packed_file.read_bytes()
    assert seen == sorted(seen)


def test_workers_without_a_model_of_their_own_are_refused(loaded, tmp_path):
    with pytest.raises(SettingError, match="give `load`"):
        run.evaluate(loaded, evaluation(), store.RunFolder(tmp_path), workers=2)
    assert list(tmp_path.iterdir()) == []


def test_json_is_one_object(runner, tmp_path):
    arguments = ["--methods", "random", "--keep", "16", "-n", "3", "--out", str(tmp_path / "r"), "--json"]
    done = runner("eval", *arguments)
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    assert (found["model"], found["split"], found["n"]) == ("random", "dev", 3)
    assert {"accuracy", "kinds"} <= set(found["full"])
    row = found["rows"][0]
    assert {"method", "keep", "accuracy", "retention", "ci", "evidence_recall", "kinds"} <= set(row)
    assert (row["method"], row["keep"]) == ("random", 16)


def test_own_questions_from_the_command_line(runner, tmp_path, scenes):
    scenes[0].image.save(tmp_path / "scene.png")
    line = {"image": "scene.png", "question": scenes[0].questions[0].text, "answer": "x", "boxes": [[0, 0, 48, 48]]}
    (tmp_path / "q.jsonl").write_text(json.dumps(line))
    arguments = ["--methods", "gridprune,oracle", "--keep", "32", "--data", str(tmp_path / "q.jsonl"), "--json"]
    found = json.loads(runner("eval", *arguments, "--out", str(tmp_path / "r")).stdout)
    assert [row["evidence_recall"] is not None for row in found["rows"]] == [True, True]
    assert found["rows"][1]["evidence_recall"] == 1.0
    assert str(tmp_path) not in (tmp_path / "r" / "config.json").read_text()


def test_sign(runner):
    found = json.loads(runner("sign", "-n", "12", "--json").stdout)
    assert found["in_use"] == "plus"
    assert found["better"] is None
    assert found["best"] in found["readings"]
    assert 0 < found["chance"] < 0.2


@pytest.mark.parametrize(("images", "better", "ci"), [(1, None, None), (5, None, None), (6, "minus", [0.8, 0.8])])
def test_a_reading_is_decided_by_images_and_not_by_one(loaded, monkeypatch, images, better, ci):
    """Plus is in use, every image says minus, with eight questions each; of five, chance does that in more than 5 %."""
    monkeypatch.setattr(measured, "_questions", lambda *_: [(0.1, 0.9, 0.3, 0.1, 0.2)] * 8)
    asked = data.generated("dev", 16 * images)
    scenes = list(asked.scenes())[:images]
    monkeypatch.setattr(type(asked), "scenes", lambda self: iter(scenes))
    found = measured.measure(loaded, asked)
    assert len(scenes) == found["images"] == images
    assert (found["better"], found["difference"]["ci"]) == (better, ci)
    console = Console(width=200, record=True)
    show.sign(found, console)
    assert ("undecided" in console.export_text()) == (better is None)


def test_an_undecided_reading_is_not_stored(runner, tmp_path):
    (tmp_path / "clip").mkdir()
    done = runner("sign", "-n", "3", "--clip", str(tmp_path / "clip"), "--write")
    assert "undecided" in done.stdout
    assert "nothing stored" in done.stderr
    assert list((tmp_path / "clip").iterdir()) == []


def test_lines_about_one_image_are_one_scene_wherever_they_stand(tmp_path, scenes):
    for name in ("a.png", "b.png"):
        scenes[0].image.save(tmp_path / name)
    lines = [{"image": name, "question": f"{n}?", "answer": "x"} for n, name in enumerate(("a.png", "b.png", "a.png"))]
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = list(data.own(tmp_path / "q.jsonl").scenes())
    assert [[question.text for question in scene.questions] for scene in found] == [["0?", "2?"], ["1?"]]
