"""The retention table from lmms-eval's output files.

`results/` is what lmms-eval 0.7.3 wrote for `keeps=32 limit=60 batch=6 launch=--cpu recipes/scenes.sh`, less its
command line and task configuration, which hold paths and addresses of functions.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gridprune.errors import SettingError
from gridprune.lmms import retention

FIXTURES = Path(__file__).parent / "results"
RECIPES = Path(__file__).parents[2] / "recipes"


def test_real_runs_of_the_embedded_model():
    runs = retention.read(FIXTURES.rglob("*_results.json"))
    by_name = {(run.method, run.keep): run for run in runs}
    full, pruned = by_name["all", "all"], by_name["fastervlm", "32"]
    assert (full.checkpoint, full.tokens, pruned.tokens) == ("embedded", 576, 32)
    for run in (full, pruned):  # the score is the mean over families that lmms-eval itself wrote down
        (file,) = FIXTURES.glob(f"{'all' if run is full else 'fastervlm-32'}/**/*_results.json")
        written = json.loads(file.read_text())["results"]["gridprune_scenes"]["mean_accuracy,none"]
        assert run.scores == {"gridprune_scenes": written}
    expected = 100 * pruned.scores["gridprune_scenes"] / full.scores["gridprune_scenes"]
    assert retention.retention(pruned, full) == pytest.approx(expected)
    assert expected < 95
    shown = retention.table(runs)
    assert f"| fastervlm | 32 | 32 | {pruned.scores['gridprune_scenes']:.4g} | {expected:.1f} |" in shown


def results(folder, name, model_args, scores, date="1", documents=100, model="gridprune"):
    """A results file as lmms-eval writes it, as far as it is read."""
    content = {
        "config": {"model": model, "model_args": model_args},
        "date": date,
        "results": {task: {"alias": task, **metrics} for task, metrics in scores.items()},
        "n-samples": {task: {"original": 1000, "effective": documents} for task in scores},
        "throughput": {"avg_visual_tokens_kept": 64.0},
    }
    file = folder / f"{name}_results.json"
    file.write_text(json.dumps(content))
    return file


GQA, POPE = (
    {"exact_match,none": 0.5, "exact_match_stderr,none": 0.1},
    {"pope_f1_score,none": 0.8, "pope_recall,none": 1},
)
MME = {"mme_perception_score,none": 1500.0, "mme_cognition_score,none": 300.0}


def test_mean_over_tasks_by_hand(tmp_path):
    files = [
        results(tmp_path, "a", "pretrained=m,keep=all", {"gqa": GQA, "pope": POPE, "mme": MME}),
        results(tmp_path, "b", "pretrained=m,clip=c,keep=64,zone=3", {"gqa": {"exact_match,none": 0.4}}),
        results(tmp_path, "c", "pretrained=m,clip=c,keep=64,zone=3", {"pope": {"pope_f1_score,none": 0.8}}),
        results(
            tmp_path,
            "d",
            "pretrained=m,clip=c,keep=64,zone=3",
            {"mme": {"mme_perception_score,none": 1350.0, "mme_cognition_score,none": 270.0}},
        ),
    ]
    full, pruned = retention.read(files)
    assert (pruned.method, pruned.keep) == ("gridprune(zone=3)", "64")
    assert full.scores == {"gqa": 0.5, "pope": 0.8, "mme": 1800.0}
    assert retention.retention(full, full) == 100
    assert retention.retention(pruned, full) == pytest.approx(100 * (0.4 / 0.5 + 1 + 0.9) / 3)


def test_the_younger_file_counts(tmp_path):
    files = [
        results(tmp_path, "a", "keep=64", {"gqa": GQA}, date="20260102"),
        results(tmp_path, "b", "keep=64", {"gqa": {"exact_match,none": 0.1}}, date="20260101"),
    ]
    (run,) = retention.read(files)
    assert run.scores == {"gqa": 0.5}


def test_setups_are_kept_apart(tmp_path):
    files = [
        results(tmp_path, "a", "pretrained=m,keep=all,resize=672x672", {"gqa": GQA}),
        results(tmp_path, "b", "pretrained=m,keep=64", {"gqa": GQA}),
    ]
    with pytest.raises(SettingError, match="no unpruned run of m"):
        retention.table(retention.read(files))


def test_literature_stands_beside_its_run(tmp_path):
    name = "llava-hf/llava-v1.6-vicuna-7b-hf"
    files = [
        results(tmp_path, "a", f"pretrained={name},keep=all", {"gqa": GQA}),
        results(
            tmp_path,
            "b",
            f"pretrained={name},method=cdpruner,reading=minus,keep=320",
            {"gqa": {"exact_match,none": 0.49}},
        ),
    ]
    figures = json.loads((RECIPES / "expected.json").read_text())["figures"]
    shown = retention.table(retention.read(files), figures)
    assert "| cdpruner(reading=minus) | 320 | 64 | 0.49 | 98.0 | 97.3 [1] |" in shown
    assert "[1] Peers' own tables" in shown


def test_figures_belong_to_runs_of_the_recipes():
    """A figure whose checkpoint, method or budget no recipe runs would never be shown."""
    recipes = {file.name: file.read_text() for file in RECIPES.glob("*-7b.sh")}
    for one in json.loads((RECIPES / "expected.json").read_text())["figures"]:
        (text,) = [text for text in recipes.values() if f"pretrained={one['pretrained']}" in text]
        method = one["method"].replace("(", ",").removesuffix(")")
        assert f" {method} " in text.replace('"', " "), one
        assert f" {one['keep']} " in text.replace("-", " ").replace("}", " "), one
        assert one["source"]


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ([("keep=all", {"gqa": GQA}, {}), ("keep=64", {"gqa": GQA}, {"documents": 8})], "different questions"),
        ([("keep=all", {"gqa": {"exact_match,none": 0.0}}, {})], "scores 0 in gqa"),
        ([("keep=all", {"new": {"a,none": 1.0, "b,none": 1.0}}, {})], "Which metric"),
        ([("keep=all", {"gqa": {"accuracy,none": 1.0}}, {})], "Which metric"),
        ([("keep=all", {"gqa": GQA}, {"model": "llava_hf"})], "llava_hf"),
    ],
)
def test_what_cannot_be_compared_is_refused(tmp_path, runs, message):
    for number, (model_args, scores, more) in enumerate(runs):
        results(tmp_path, str(number), model_args, scores, **more)
    app = retention.app
    done = CliRunner().invoke(app, [str(tmp_path)])
    assert done.exit_code == 2
    assert message in done.stderr


def test_the_command(tmp_path):
    done = CliRunner().invoke(retention.app, [str(FIXTURES), "--expected", str(RECIPES / "expected.json")])
    assert done.exit_code == 0
    assert done.stdout.startswith("**embedded**")
    assert CliRunner().invoke(retention.app, [str(tmp_path)]).exit_code == 2
