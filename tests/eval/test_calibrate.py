"""Head weights are found where evidence is, judged on other images, stored only if better, and read back."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from typer import Typer
from typer.testing import CliRunner

from gridprune.cli.calibrate import _folder, calibrate_command
from gridprune.cues.first_layer import stored_head_weights
from gridprune.cues.notes import note
from gridprune.errors import CheckpointError, GridPruneError, SettingError
from gridprune.eval import calibrate, data, entries, own, store
from gridprune.eval import run as run_module
from gridprune.eval.calibrate import Labelled
from gridprune.methods.base import Cues
from gridprune.methods.hawk import FirstLayer, Hawk
from gridprune.methods.relevance import Relevance
from gridprune.runtime import ask

POINTING = (2, 5)  # of eight heads


def images(count, pointing=POINTING):
    """Two questions each, 6 of 60 tokens are evidence; heads are noise, but for those that also point at it."""
    random, made = torch.Generator().manual_seed(3), []
    for _ in range(count):
        on = torch.zeros(2, 60).scatter(1, torch.rand(2, 60, generator=random).topk(6).indices, 1)
        rows = torch.randn(2, 8, 60, generator=random)
        for head in pointing:
            rows[:, head] += 1.5 * on
        made.append(Labelled(torch.nn.functional.normalize(rows, dim=-1), on))
    return made


@pytest.mark.parametrize("count", [7, 24], ids=["leave-one-out", "five-folds"])
def test_the_heads_that_point_at_evidence_are_found(count):
    table, weights = calibrate.judge(images(count), 6)
    assert set(torch.tensor(weights).topk(2).indices.tolist()) == set(POINTING)
    assert sum(map(abs, weights)) == pytest.approx(1)
    equal, calibrated, chance, asked = table.sum(0)
    assert calibrated > equal + 0.1 * asked
    assert (chance / asked, asked) == (pytest.approx(0.1), 2 * count)


def measured(monkeypatch, made):
    """:func:`calibrate.measure` of images that nobody needs to encode."""
    question = SimpleNamespace(boxes=[(0, 0, 1, 1)])
    scenes = [SimpleNamespace(questions=[question])]
    monkeypatch.setattr(calibrate, "_by_boxes", lambda *_: calibrate.judge(made, 6))
    return calibrate.measure(SimpleNamespace(name="m"), SimpleNamespace(name="d", scenes=lambda: iter(scenes)), 6)


@pytest.mark.parametrize(
    ("count", "pointing", "better"), [(24, POINTING, True), (24, (), False), (5, POINTING, False), (1, POINTING, False)]
)
def test_noise_and_few_images_are_undecided(monkeypatch, count, pointing, better):
    assert measured(monkeypatch, images(count, pointing))["better"] is better


@pytest.mark.parametrize("noted", [[1.0], [0, 0], ["a", "b"], [1, float("nan")], "equal"])
def test_weights_of_another_model_are_refused(tmp_path, noted):
    (tmp_path / "gridprune.json").write_text(json.dumps({"head_weights": noted}))
    with pytest.raises(CheckpointError, match=r"gridprune\.json.*2 query heads.*gridprune calibrate --write"):
        stored_head_weights(SimpleNamespace(_name_or_path=str(tmp_path)), 2)


def test_nothing_is_read_where_nothing_is_stored(tmp_path):
    configs = [SimpleNamespace(_name_or_path=name) for name in ("", "owner/model", str(tmp_path))]
    assert [stored_head_weights(config, 2) for config in (SimpleNamespace(), *configs)] == [None] * 4


def test_stored_weights_are_those_of_none_and_not_of_equal():
    """Head 0 has 3/5 and 4/5 at tokens 0 and 1, head 1 has 1 at token 2: equal ones keep 2, weights (2, 1) keep 1."""
    cues = Cues(head_relevance=torch.tensor([[[3.0, 4.0, 0.0], [0.0, 0.0, 9.0]]]), head_weights=(2.0, 1.0))
    for method in (Hawk(keep=1), FirstLayer(base=Relevance(keep=1), keep=1)):
        assert method.select(cues, None, 1).indices.tolist() == [[1]]
    assert Hawk(keep=1, weights="equal").select(cues, None, 1).indices.tolist() == [[2]]
    for weights in ((0, 1), np.array([0.0, 1.0])):
        assert Hawk(keep=1, weights=weights).select(cues, None, 1).indices.tolist() == [[2]]
    unlike = Cues(head_relevance=cues.head_relevance, head_weights=(-1.0, -1.0))  # which are for rows of length 1
    assert Hawk(keep=1, norm="minmax").select(unlike, None, 1).indices.tolist() == [[1]]
    with pytest.raises(SettingError, match="'equal'"):
        Hawk(keep=1, weights="even")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A checkpoint's folder, in whose name the embedded model is loaded."""

    def load(*_):
        loaded = ask.load("embedded")
        loaded.model.config._name_or_path = str(tmp_path)
        return loaded

    monkeypatch.setattr("gridprune.cli.calibrate.load_model", load)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "gridprune.json").write_text('{"reading": "minus"}')
    return tmp_path


def run(*arguments):
    app = Typer()
    app.command()(calibrate_command)
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False)


def test_what_is_undecided_is_not_stored(folder):
    done = run("--model", str(folder), "-n", "12", "--write", "--json")
    found = json.loads(done.stdout)
    assert "nothing stored" in done.stderr
    assert (found["by"], found["better"], found["difference"]["ci"]) == ("boxes", False, None)
    assert json.loads((folder / "gridprune.json").read_text()) == {"reading": "minus"}


def test_what_is_better_is_stored_beside_what_was_there_and_read_back(folder, monkeypatch):
    real, heads = calibrate.judge, 0

    def better(made, keep):
        nonlocal heads
        table, weights = real(made, keep)
        heads = len(weights)
        table[:, 1] = table[:, 0] + table[:, 3] / 10
        return table.repeat(6, 0), [1.0] + [0.0] * (heads - 1)

    monkeypatch.setattr(calibrate, "judge", better)
    done = run("--model", str(folder), "-n", "24", "--write")
    assert "stored in" in done.stderr
    first = [1.0] + [0.0] * (heads - 1)
    assert json.loads((folder / "gridprune.json").read_text()) == {"reading": "minus", "head_weights": first}
    (scene,) = list(data.generated("dev", 1).scenes())
    kept = []
    for weights in (None, first, "equal"):
        loaded = ask.load("embedded")
        loaded.model.config._name_or_path = str(folder)
        with loaded.pruning(Hawk(keep=64, weights=weights), scene.questions[0].text) as pruning, torch.no_grad():
            loaded.model(**ask.prepare(loaded, scene.image, scene.questions[0].text))
        kept.append(pruning.reports[0].kept_indices.tolist())
    assert kept[0] == kept[1] != kept[2]


def test_weights_lie_where_the_model_that_reads_them_does(folder):
    """Also where `--model` takes a folder that holds a LLaVA and its CLIP, and for the embedded model."""
    (folder / "both" / "llava").mkdir(parents=True)
    (folder / "both" / "llava" / "config.json").write_text("{}")
    assert [_folder(str(folder)), _folder(str(folder / "both"))] == [folder, folder / "both" / "llava"]
    assert _folder("embedded").samefile(ask.load("embedded").model.config._name_or_path)


def test_a_hub_id_has_no_folder_to_write_to():
    with pytest.raises(GridPruneError, match=r"'owner/model'.*hawk\(weights"):
        run("--model", "owner/model", "--write")


def test_answers_without_boxes(folder, tmp_path):
    lines = []
    for number, scene in enumerate(data.generated("dev", 20).scenes()):
        scene.image.save(tmp_path / f"{number}.png")
        lines += [
            {"image": f"{number}.png", "question": question.text, "answer": list(question.answers)}
            for question in scene.questions[:2]
        ]
    (tmp_path / "asked.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = json.loads(run("--data", str(tmp_path / "asked.jsonl"), "--json").stdout)
    assert (found["by"], found["n"], found["better"], found["chance"]) == ("answers", len(lines), False, None)


ANSWER = 4  # tokens


def answered(loaded, image, question, weights):
    inputs = ask.prepare(loaded, image, question)
    with loaded.pruning(Hawk(keep=32, weights=weights), question):
        output = loaded.model.generate(**inputs, max_new_tokens=ANSWER, do_sample=False)
    words = output[0, inputs["input_ids"].shape[1] :]
    return loaded.processor.tokenizer.decode(words, skip_special_tokens=True).strip() or "nothing"


@pytest.fixture
def asked(loaded, tmp_path):
    """Seven images, one of them missing. Right is what equal weights say, in some also what head 1 alone says; once
    nothing is."""
    lines = []
    for number, scene in zip(range(7), data.generated("dev", 70).scenes()):
        scene.image.save(tmp_path / f"{number}.png")
        question = scene.questions[0].text
        heads = {0: [(1, 1), (0, 1)], 1: [(1, 1), (0, 1)], 4: [], 5: [(1, 1), (0, 1)]}.get(number, [(1, 1)])
        right = [answered(loaded, scene.image, question, weights) for weights in heads] or ["no"]
        lines.append({"image": f"{number}.png", "question": question, "answer": right})
    (tmp_path / "2.png").unlink()
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return tmp_path / "q.jsonl"


def test_each_half_is_answered_with_what_the_other_half_lost(loaded, asked, monkeypatch):
    monkeypatch.setattr(calibrate, "PerQuestion", lambda loaded, wanted, _: own.PerQuestion(loaded, wanted, ANSWER))
    found = calibrate.measure(loaded, data.own(asked), 32)
    scenes = [scene for scene in data.own(asked).scenes() if scene.opened]

    def right(weights, scene):
        return scene.questions[0].score(answered(loaded, scene.image, scene.questions[0].text, weights))

    def lost(half):
        equal = sum(right((1, 1), scene) for scene in half)
        return [equal - sum(right(without, scene) for scene in half) for without in ((0, 1), (1, 0))]

    halves = [[scene for scene in scenes if scene.number % 2 == half] for half in (0, 1)]
    assert [lost(half) for half in halves] == [[1, 2], [1, 3]]  # of images 0, 4, 6 and of images 1, 3, 5, by hand
    calibrated = [*(right((1, 3), scene) for scene in halves[0]), *(right((1, 2), scene) for scene in halves[1])]
    equal = [right((1, 1), scene) for scene in scenes]
    assert sum(calibrated) != sum(equal)
    assert (found["by"], found["n"], found["images"]) == ("answers", 6, 6)
    assert found["weights"] == pytest.approx([2 / 7, 5 / 7], abs=1e-5)
    assert found["equal"]["share"] == pytest.approx(5 / 6, abs=1e-4)
    assert found["calibrated"]["share"] == pytest.approx(sum(calibrated) / 6, abs=1e-4)


def test_a_run_is_not_continued_with_other_weights(loaded, asked, tmp_path, monkeypatch):
    monkeypatch.setattr(loaded.model.config, "_name_or_path", str(tmp_path))
    evaluation = run_module.Evaluation(entries.parse_list("hawk"), [16], data.own(asked))
    rows = store.RunFolder(tmp_path / "run")
    rows.open(evaluation.config(loaded), fresh=False)
    rows.open(evaluation.config(loaded), fresh=False)
    note(tmp_path, head_weights=[1, 0])
    with pytest.raises(SettingError, match="another head_weights"):
        rows.open(evaluation.config(loaded), fresh=False)


def test_a_head_weighs_what_is_lost_without_it():
    """Of four questions all heads answer 3, without head 0 one, without head 1 all four, without head 2 two."""
    right = [[1, 0, 1, 1], [1, 1, 1, 1], [1, 0, 1, 0], [0, 0, 1, 0]]
    assert calibrate._lost(right) == pytest.approx((2 / 3, 0, 1 / 3))
    assert calibrate._lost([[0, 1, 0]]) is None
