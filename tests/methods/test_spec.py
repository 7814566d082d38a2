"""One way to write a method: read by every command, by lmms-eval's arguments, vLLM's settings and the page alike."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from gridprune.cli.main import app
from gridprune.demo.choice import Choice
from gridprune.errors import SettingError, UnknownNameError
from gridprune.eval import ablations, entries
from gridprune.lmms.arguments import build_method
from gridprune.methods import create, spec
from gridprune.vllm.settings import Settings

READERS = {
    "spec": lambda text: spec.parse(text).method(64),
    "eval": lambda text: entries.parse(text).method(64),
    "lmms": lambda text: build_method(text, 64, {}),
    "vllm": lambda text: Settings.read({"method": text, "keep": 64}).build(),
    "page": lambda text: Choice(keep=64, method=text).methods(576)[0],
    "page, second": lambda text: Choice(keep=64, compare=text).methods(576)[1],
}
COMMANDS = (["ask", "x.png", "q"], ["explain", "x.png", "q"], ["batch", "x", "q"], ["serve", "embedded", "--dry-run"])


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_everything_reads_the_same(read):
    assert read("GridPrune( zone=2 , alpha=0.25)") == create("gridprune", keep=64, zone=2, alpha=0.25)
    assert read("relevance-weighted(divprune)").label == "relevance-weighted(divprune)"


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("gridprun", UnknownNameError),
        ("gridprune(zones=2)", SettingError),
        ("gridprune(zone=0)", SettingError),
        ("gridprune(keep=3)", SettingError),
        ("gridprune(zone=", SettingError),
        ("(" * 500, SettingError),
        (" ", SettingError),
    ],
)
def test_everything_refuses_the_same_in_the_same_words(read, text, error):
    with pytest.raises(error) as expected:
        spec.parse(text)
    with pytest.raises(error) as caught:
        read(text)
    assert str(caught.value).split(" Here also")[0] == str(expected.value)


RUNS_ONLY = ("oracle", "Oracle", "global-topk(gridprune)", "relevance-weighted(oracle)")


@pytest.mark.parametrize(
    ("reader", "text"),
    [(name, text) for name in READERS if name != "eval" for text in RUNS_ONLY]
    + [(name, "downsample") for name in READERS if name not in ("eval", "lmms")],  # the control of both
)
def test_what_exists_in_runs_only_is_refused_by_name(reader, text):
    with pytest.raises(UnknownNameError, match=r"'(oracle|global-topk|downsample)' exists in `gridprune eval` only"):
        READERS[reader](text)


def test_names_of_runs_are_those_of_the_ablations():
    assert set(ablations.BENCH_ONLY) == set(spec.EVAL_ONLY)
    assert entries.parse("oracle").method(5) == ablations.Oracle(keep=5)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_commands_take_settings_and_refuse_the_oracle(command):
    def error(method):
        result = CliRunner().invoke(app, [*command, "--method", method])
        return " ".join(result.stderr.split()) if result.exit_code == 2 else ""

    assert "exists in `gridprune eval` only" in error("oracle")
    assert "does not take these settings" in error("gridprune(zones=2)")
    assert "method" not in error("gridprune(zone=2)")  # the image, which is not there, is what is wrong now


def test_settings_given_as_values_are_checked_like_written_ones():
    written = spec.parse("gridprune(zone=2)")
    assert written.with_settings({"alpha": 0.25}) == spec.parse("gridprune(zone=2, alpha=0.25)")
    for wrong in ({"zone": 3}, {"keep": 3}, {"zones": 3}, {"alpha": 7}, {"name": 1}, {"kind": 1}):
        with pytest.raises(SettingError):
            written.with_settings(wrong)


@pytest.mark.parametrize(
    "text", ["gridprune(temperature=0.001)", "gridprune(reading='minus')", "dart-input", "merge-rest(divprune)"]
)
def test_labels_read_back(text):
    assert spec.parse(text).label == text
    assert spec.parse("gridprune(temperature=1e-3)").label == "gridprune(temperature=0.001)"
