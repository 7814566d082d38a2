"""The command line as a person and as a program would use it."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from gridprune import runtime
from gridprune.cli.main import app

SAMPLE = Path(__file__).parents[2] / "examples" / "scene.png"
QUESTION = (Path(__file__).parents[2] / "examples" / "scene.txt").read_text().strip()


@pytest.fixture(scope="module")
def run():
    runner = CliRunner()
    return lambda *arguments: runner.invoke(app, [str(a) for a in arguments])


def test_ask_json_is_one_object_and_nothing_else(run):
    result = run("ask", SAMPLE, QUESTION, "--keep", "64", "--json", "--compare")
    assert result.exit_code == 0, result.stderr
    answer = json.loads(result.stdout)
    assert answer["question"] == QUESTION
    assert answer["model"] == "embedded"
    assert answer["method"] == "gridprune"
    assert answer["visual_tokens"] == {"total": 576, "kept": 64}
    (image,) = answer["images"]
    assert image["grid"] == [24, 24]
    assert len(image["kept_indices"]) == 64
    assert image["kept_indices"] == sorted(set(image["kept_indices"]))
    assert sum(image["zone_budgets"]) == 64
    assert answer["seconds"] > 0
    assert answer["kv_bytes"] < answer["full"]["kv_bytes"]


def test_ask_prints_the_answer_and_writes_the_overlay(run, tmp_path):
    overlay = tmp_path / "deep" / "kept.png"
    result = run("ask", SAMPLE, QUESTION, "--keep", "11.1%", "-o", overlay)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.strip()
    with Image.open(overlay) as image:
        assert min(image.size) >= 480


def test_explain_draws_a_figure(run, tmp_path):
    target = tmp_path / "figure.png"
    result = run("explain", SAMPLE, QUESTION, "-o", target, "--json")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert len(report["relevance"]) == len(report["saliency"]) == 576
    with Image.open(target) as image:
        assert image.width > 3 * image.height  # four panels side by side


def test_the_sample_is_that_of_the_examples_and_takes_a_question_or_none(run, tmp_path):
    assert (runtime.SAMPLE.read_bytes(), runtime.SAMPLE_QUESTION) == (SAMPLE.read_bytes(), QUESTION)
    given = json.loads(run("ask", SAMPLE, QUESTION, "--json").stdout)
    found = json.loads(run("ask", "--sample", "--json").stdout)
    assert (found["answer"], found["question"]) == (given["answer"], QUESTION)
    asked = json.loads(run("ask", "How many dogs are there?", "--sample", "--json").stdout)
    assert asked["question"] == "How many dogs are there?"
    assert run("explain", "--sample", "-o", tmp_path / "kept.png").exit_code == 0
    assert (tmp_path / "kept.png").is_file()


def test_methods_json(run):
    rows = json.loads(run("methods", "--json").stdout)
    assert {"name", "stage", "fixed_count", "uses_text", "needs", "paper"} <= set(rows[0])
    by_name = {row["name"]: row for row in rows}
    assert by_name["gridprune"]["uses_text"]
    assert not by_name["uniform"]["uses_text"]
    assert "gridprune" in run("methods").stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ask", "missing.png", "q"], "no file"),
        (["ask", SAMPLE], "with --sample"),
        (["explain"], "with --sample"),
        (["ask", SAMPLE, "q", "--sample"], "with --sample"),
        (["ask", SAMPLE, "   "], "empty"),
        (["ask", SAMPLE, "q", "--keep", "0"], "at least one"),
        (["ask", SAMPLE, QUESTION, "--keep", "577"], "only 576"),
        (["ask", SAMPLE, "q", "--keep", "150%"], "(0, 1]"),
        (["ask", SAMPLE, "q", "--keep", "many"], "Cannot read"),
        (["ask", SAMPLE, "q", "--method", "gridprun"], "Did you mean 'gridprune'"),
        (["ask", SAMPLE, "count the frogs, what colour?"], "'count', 'colour' ('color'?)"),
        (["ask", SAMPLE, "q", "--model", "no-such/model-at-all"], "leave --model out"),
    ],
)
def test_bad_input_is_one_clear_message(run, arguments, words, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # as without a network, but at once
    result = run(*arguments)
    assert result.exit_code == 2
    assert words in " ".join(result.stderr.split())
    assert result.stdout == ""
    assert "Traceback" not in result.stderr


def test_very_long_question(run):
    result = run("ask", SAMPLE, "what is there " * 700, "--keep", "64", "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["visual_tokens"]["kept"] == 64


def test_help_costs_no_heavy_import():
    code = "import sys, gridprune.cli; sys.exit(bool({'torch', 'transformers', 'gradio', 'vllm'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_package_is_a_command():
    done = subprocess.run([sys.executable, "-m", "gridprune", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == version("gridprune")
