"""Text that comes from outside is printed and drawn as it is; mistakes are found before a model is loaded; lists."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import version

import pytest
import typer
from huggingface_hub.utils import are_progress_bars_disabled
from PIL import Image
from transformers.utils import logging
from typer.testing import CliRunner

from gridprune import families
from gridprune.cli.main import app
from gridprune.methods import registry
from gridprune.tiny import make_scene
from gridprune.tiny.loading import weights_folder

WORDS = r"[/b] [red]who[/red] :smile: pays $5 or $\frac{1}$?"


@pytest.fixture
def checkpoint(tmp_path):
    """A checkpoint that takes any question, with an image beside it."""
    for name in ("llava", "clip"):
        shutil.copytree(weights_folder() / name, tmp_path / "model" / name)
    make_scene("dev", 0).image.save(tmp_path / "a.png")
    return tmp_path


def run(*arguments):
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(a) for a in arguments])


def test_nothing_from_outside_is_markup(checkpoint):
    common = (checkpoint / "a.png", WORDS, "--model", checkpoint / "model")
    compared = run("ask", *common, "--max-new-tokens", 2, "--compare")
    assert compared.exit_code == 0, compared.output
    assert WORDS in compared.stdout
    searched = run("ask", *common, "--max-new-tokens", 2, "--find-keep", "--method", "random")
    assert searched.exit_code == 0, searched.output
    assert WORDS in " ".join(searched.stdout.split())
    drawn = run("explain", *common, "-o", checkpoint / "why.svg")
    assert drawn.exit_code == 0, drawn.output
    for arguments in (["ask", "[/b].png", "?"], ["ask", "a.png", "?", "--method", "[/b]"], ["batch", "[/b]", "?"]):
        refused = run(*arguments)
        assert (refused.exit_code, type(refused.exception)) == (2, SystemExit)
        assert "[/b]" in refused.stderr


def test_dollars_in_a_figure_are_dollars():
    from matplotlib.text import Text

    from gridprune import prune
    from gridprune.report import figure
    from gridprune.runtime import load, prepare, respond

    loaded = load()
    inputs = prepare(loaded, make_scene("dev", 0).image, "What is red?")
    report = respond(loaded, inputs, prune(loaded.model, "uniform", keep=8, question=WORDS), 1).report
    drawn = figure.draw(report, report.image())
    drawn.canvas.draw()  # mathtext that cannot be read fails here
    (title,) = (text for text in drawn.findobj(Text) if WORDS in text.get_text())
    assert not title.get_parse_math()


def test_the_answer_is_said_if_its_image_cannot_be_saved(checkpoint, monkeypatch):
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    told = run("ask", checkpoint / "a.png", "What is red?", "-o", checkpoint / "kept.png")
    assert told.stdout.strip()
    assert told.exit_code == 2
    assert "kept.png cannot be written: No space left on device." in told.stderr
    assert not (checkpoint / "kept.png").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ask", "a.png", "What is red?", "-o", "a"], "must end in"),
        (["ask", "a.png", "What is red?", "-o", "."], "is a folder"),
        (["explain", "a.png", "What is red?", "-o", "a.xyz"], "must end in"),
        (["batch", ".", "What is red?", "-o", "."], "is a folder"),
        (["batch", "a.png", "What is red?"], "gridprune ask"),
        (["batch", "rows.parquet"], "to_json"),
        (["batch", ".", "What is red?", "--retry"], "Nothing to retry"),
        (["eval", "--out", "a.png"], "cannot be written"),
        (["export-clip", "nothing", "-o", "a.png"], "cannot be written"),
        (["export-clip", ".", "-o", "clip"], "Give a folder with a CLIP"),
        (["ask", "a.png", "What is red?", "--find-keep", "--compare"], "leave --compare"),
        (["ask", "a.png", "What is red?", "--find-keep", "--method", "fastv"], "fastv"),
    ],
)
def test_what_is_wrong_is_found_before_a_model_is_loaded(tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    if "fastv" not in arguments:  # what it can do is asked of the loaded model's methods
        monkeypatch.setattr("gridprune.runtime.ask.load", lambda *a, **k: pytest.fail("a model was loaded"))
    Image.new("RGB", (64, 48)).save("a.png")
    (tmp_path / "rows.parquet").write_bytes(b"PAR1")
    told = run(*arguments)
    assert (told.exit_code, told.stdout) == (2, "")
    assert {each.name for each in tmp_path.iterdir() if each.name[0] != "."} == {"a.png", "rows.parquet"}
    assert words in told.stderr


def test_lists_are_those_of_the_code():
    for kind, described in (("methods", registry.describe()), ("families", families.registry.describe())):
        listed = json.loads(run(kind, "--json").stdout)
        assert listed == json.loads(json.dumps(described)), f"run python -m scripts.{kind}_page"
        assert all(row["summary"] for row in listed)


def test_lists_are_read_without_torch_and_fit_a_terminal():
    code = "import sys; from gridprune.cli import app; app([sys.argv[1]], standalone_mode=False)"
    code += "; print('torch' in sys.modules)"
    for kind in ("methods", "families"):
        done = subprocess.run(
            [sys.executable, "-c", code, kind],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "COLUMNS": "80"},
        )
        *lines, heavy = done.stdout.splitlines()
        assert heavy == "False"
        assert max(map(len, lines)) <= 80
        assert not any("\u2026" in line for line in lines)


def test_lists_are_filtered():
    def names(*arguments):
        return {row["name"] for row in json.loads(run(*arguments, "--json").stdout)}

    assert names("methods", "--stage", "in-llm") == {"fastv", "pyramiddrop", "sparsevlm", "dart-inside"}
    assert names("methods", "--no-text", "CLS", "saliency") >= {"fastervlm"}
    assert not names("methods", "--no-text") & names("methods", "--text")
    assert names("families", "qwen", "deepstack") == {"qwen3-vl", "qwen3.5"}
    assert names("families", "--video") & {"qwen-vl", "gemma4"} == {"qwen-vl"}
    assert run("methods", "xyzzy").exit_code == 2


@pytest.mark.parametrize("given", ["embedded", "checkpoint"])
def test_downloads_and_weights_show_their_bars(checkpoint, given):
    logging.enable_progress_bar()
    model = "embedded" if given == "embedded" else checkpoint / "model"
    told = run("ask", checkpoint / "a.png", "What is red?", "--model", model, "--max-new-tokens", "1")
    assert told.exit_code == 0, told.stderr
    hub, weights = not are_progress_bars_disabled(), logging.is_progress_bar_enabled()
    assert (hub, weights) == ((True, True) if given == "checkpoint" else (False, False))


COMMANDS = sorted(typer.main.get_command(app).commands)
WRITING = {"ask", "batch", "bench", "eval", "explain", "export-clip", "report"}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_h_and_every_output_is_o(command):
    assert run(command, "-h").stdout == run(command, "--help").stdout != ""
    named = [option.opts for option in typer.main.get_command(app).commands[command].params]
    written = [set(names) for names in named if {"-o", "--output", "--out"} & set(names)]
    assert [names >= {"-o", "--output"} for names in written] == [True] * (command in WRITING)


def test_the_whole_has_h_a_version_and_completion():
    assert run("-h").stdout == run("--help").stdout
    assert "--install-completion" in run("-h").stdout
    assert run("--version").stdout.strip() == version("gridprune")
