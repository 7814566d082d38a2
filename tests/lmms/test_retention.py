"""The retention table from lmms-eval's output files.

`results/` is what lmms-eval 0.7.3 wrote for `keeps=32 limit=30 batch=6 launch=--cpu recipes/scenes.sh`, two of
its runs, less their command line and task configuration, which hold paths and addresses of functions.
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
    full, pruned = by_name["all", "all"], by_name["gridprune", "32"]
    assert (full.checkpoint, full.tokens, pruned.tokens) == ("embedded", 576, 32)
    shown = retention.table(runs)
    for folder, run in (("all", full), ("gridprune-32", pruned)):
        (file,) = FIXTURES.glob(f"{folder}/**/*_results.json")
        written = json.loads(file.read_text())["results"]
        tasks = ["gridprune_vqa", "gridprune_text", "gridprune_grounding"]  # lmms-eval lists their group as well
        assert run.scores == {task: written[task]["mean_accuracy,none"] for task in tasks}
    for group, task in zip(retention.GROUPS, tasks):
        table = shown.split(f"*{group}*")[1].split("Documents")[0]
        kept = 100 * pruned.scores[task] / full.scores[task]
        assert f"| gridprune | 32 | 32 | {pruned.scores[task]:.4g} | {kept:.1f} |" in table
        assert not [other for other in tasks if other != task and other in table]


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


def test_means_by_group_by_hand(tmp_path):
    """VQA and grounding are averaged apart; a run without a group's tasks is not in its table."""
    box = {"refcoco_ACC@0.5,none": 0.6, "refcoco_IoU,none": 0.5}
    files = [
        results(
            tmp_path, "a", "pretrained=m,keep=all", {"gqa": GQA, "pope": POPE, "mme": MME, "refcoco_bbox_rec_val": box}
        ),
        results(tmp_path, "b", "pretrained=m,clip=c,keep=64,zone=3", {"gqa": {"exact_match,none": 0.4}}),
        results(tmp_path, "c", "pretrained=m,clip=c,keep=64,zone=3", {"pope": {"pope_f1_score,none": 0.8}}),
        results(
            tmp_path,
            "d",
            "pretrained=m,clip=c,keep=64,zone=3",
            {"mme": {"mme_perception_score,none": 1350.0, "mme_cognition_score,none": 270.0}},
        ),
        results(
            tmp_path,
            "e",
            "pretrained=m,method=random,keep=64",
            {"refcoco_bbox_rec_val": {"refcoco_ACC@0.5,none": 0.15}},
        ),
    ]
    full, pruned, drawn = retention.read(files)
    assert (pruned.method, pruned.keep) == ("gridprune(zone=3)", "64")
    assert full.scores == {"gqa": 0.5, "pope": 0.8, "mme": 1800.0, "refcoco_bbox_rec_val": 0.6}
    assert retention.retention(full, full, ["gqa", "pope"]) == 100
    assert retention.retention(pruned, full, ["gqa", "pope", "mme"]) == pytest.approx(100 * (0.4 / 0.5 + 1 + 0.9) / 3)
    assert retention.retention(drawn, full, ["refcoco_bbox_rec_val"]) == pytest.approx(25)
    vqa, grounding = retention.table([full, pruned, drawn]).split("*grounding*")
    assert "*VQA*" in vqa
    assert "*text-dense*" not in vqa
    assert "| gridprune(zone=3) | 64 | 64 | 0.4 | 0.8 | 1620 | 90.0 |" in vqa
    assert "random" not in vqa
    assert "| random | 64 | 64 | 0.15 | 25.0 |" in grounding
    assert "zone" not in grounding


def test_what_the_unpruned_model_cannot_do_is_in_no_mean(tmp_path):
    none = {"pope_f1_score,none": 0.0}
    files = [
        results(tmp_path, "a", "keep=all", {"gqa": GQA, "pope": none, "ocrbench": {"ocrbench_accuracy,none": 0}}),
        results(
            tmp_path,
            "b",
            "keep=64",
            {"gqa": {"exact_match,none": 0.4}, "pope": none, "ocrbench": {"ocrbench_accuracy,none": 0}},
        ),
    ]
    shown = retention.table(retention.read(files))
    assert "| gridprune | 64 | 64 | 0.4 | 0 | 80.0 |" in shown
    assert "since the unpruned run scores 0: pope." in shown
    assert "| gridprune | 64 | 64 | 0 | - |" in shown


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
    """A mean over a paper's own benchmarks stands apart; a figure of one task beside that task's group."""
    name = "Qwen/Qwen2.5-VL-7B-Instruct"
    scores = {"gqa": GQA, "docvqa_val": {"anls,none": 0.5}}
    files = [
        results(tmp_path, "a", f"pretrained={name},keep=all", scores),
        results(tmp_path, "b", f"pretrained={name},method=divprune,keep=10%", scores),
    ]
    figures = json.loads((RECIPES / "expected.json").read_text())["figures"]
    shown = retention.table(retention.read(files), figures)
    vqa, text = shown.split("*text-dense*")
    text, means = text.split("*Published means")
    assert "| divprune | 10% | 64 | 0.5 | 100.0 |  |" in vqa
    assert "| divprune | 10% | 64 | 0.5 | 100.0 | docvqa_val 69.8 [1] |" in text
    assert "ANLS 66.20" in text
    assert "| divprune | 10% | 76.09 | [1] |" in means


def test_figures_belong_to_runs_of_the_recipes():
    """A figure whose checkpoint, method, budget or task no recipe runs would never be shown."""
    tasks = (RECIPES / "run.sh").read_text()
    recipes = {file.name: file.read_text() for file in RECIPES.glob("*-7b.sh")}
    for one in json.loads((RECIPES / "expected.json").read_text())["figures"]:
        (text,) = [text for text in recipes.values() if f"checkpoint={one['pretrained']}\n" in text]
        method = one["method"].replace("(", ",").removesuffix(")")
        assert f" {method} " in text.replace('"', " "), one
        assert f" {one['keep']} " in text.replace("-", " ").replace("}", " ").replace('"', " "), one
        assert one.get("task", "gqa") in tasks
        assert one["source"]


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ([("keep=all", {"gqa": GQA}, {}), ("keep=64", {"gqa": GQA}, {"documents": 8})], "different questions"),
        ([("keep=all", {"gqa": GQA, "pope": POPE}, {}), ("keep=64", {"gqa": GQA}, {})], "different questions"),
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
