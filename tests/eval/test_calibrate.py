"""Head weights are found where evidence is, judged on other images, stored only if better, and read back."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from typer import Typer
from typer.testing import CliRunner

from gridprune.cli.calibrate import calibrate_command
from gridprune.cues.first_layer import stored_head_weights
from gridprune.errors import CheckpointError, GridPruneError, SettingError
from gridprune.eval import calibrate, data
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
        stored_head_weights(str(tmp_path), 2)


def test_nothing_is_read_where_nothing_is_stored(tmp_path):
    assert [stored_head_weights(name, 2) for name in ("", "owner/model", str(tmp_path))] == [None, None, None]


def test_stored_weights_are_those_of_none_and_not_of_equal():
    """Head 0 has 3/5 and 4/5 at tokens 0 and 1, head 1 has 1 at token 2: equal ones keep 2, weights (2, 1) keep 1."""
    cues = Cues(head_relevance=torch.tensor([[[3.0, 4.0, 0.0], [0.0, 0.0, 9.0]]]), head_weights=(2.0, 1.0))
    for method in (Hawk(keep=1), FirstLayer(base=Relevance(keep=1), keep=1)):
        assert method.select(cues, None, 1).indices.tolist() == [[1]]
    assert Hawk(keep=1, weights="equal").select(cues, None, 1).indices.tolist() == [[2]]
    assert Hawk(keep=1, weights=(0, 1)).select(cues, None, 1).indices.tolist() == [[2]]
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


def test_a_head_weighs_what_is_lost_without_it():
    """Of four questions all heads answer 3, without head 0 one, without head 1 all four, without head 2 two."""
    right = [[1, 0, 1, 1], [1, 1, 1, 1], [1, 0, 1, 0], [0, 0, 1, 0]]
    assert calibrate._lost(right) == pytest.approx((2 / 3, 0, 1 / 3))
    assert calibrate._lost([[0, 1, 0]]) is None
