"""`gridprune bench` as a person and as a program would use it."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from gridprune.bench import run as bench_run
from gridprune.cli import bench
from gridprune.cli.main import app
from gridprune.errors import SettingError

QUICK = ("bench", "--rounds", "1", "--batch", "1", "--keep", "320", "--methods", "gridprune,fastv", "--new-tokens", "2")


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_the_embedded_model_is_measured(tmp_path):
    plot = tmp_path / "plots" / "bench.png"
    result = CliRunner().invoke(app, [*QUICK, "--static-cache", "--json", "-o", str(plot)])
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert (found["model"], found["visual_tokens"], found["separators"]) == ("embedded", 576, 0)
    assert (found["dtype"], found["device"]) == ("float32", "cpu")
    assert found["attention"] == {"language": "sdpa", "vision": "sdpa"}
    assert [(row["call"], row["method"], row["question"], row["visual_tokens"]) for row in found["calls"][:-1]] == [
        ("unpruned", None, None, 576),
        ("tower", None, None, 576),
        ("native", None, None, 320),
        ("pruned", "gridprune", "new", 320),
        ("pruned", "gridprune", "cached", 320),
    ]
    assert found["calls"][-1]["method"] == "fastv"  # which prunes inside the model, and lends no prompt
    for row in found["calls"]:
        assert row["batch"] == 1
        assert row["fits"]
        assert row["seconds"][0] > 0
        assert row["peak_bytes"] is row["launch_share"] is None
        answered = row["call"] == "unpruned" or row["question"] == "cached"
        assert ("token_seconds" in row) == ("static_token_seconds" in row) == answered
    assert "largest_batch" not in found
    assert "batch 1: gridprune 320, new question, 1 of 1" in result.stderr
    with Image.open(plot) as image:
        assert image.format == "PNG"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--device", "cuda:77"], "no device 'cuda:77'"),
        (["--device", "meta"], "no device 'meta'"),
        (["--device", "cuda:x"], "no device 'cuda:x'"),
        (["--largest"], "give --device cuda with it"),
        (["--methods", "gridprun"], "Did you mean 'gridprune'"),
        (["--methods", "evs"], "frames of a video"),
        (["--batch", "1,many"], "--batch needs"),
        (["--keep", "64,64"], "--keep needs"),
        (["--image", "missing.png"], "no file"),
        (["-o", "bench.txt"], "must end in .png"),
        (["-o", "/proc/bench.png"], "cannot be written"),
    ],
)
def test_bad_input_is_one_clear_message_before_a_model_is_loaded(arguments, words, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(bench, "load_model", lambda *given: pytest.fail("loaded"))
    result = CliRunner().invoke(app, ["bench", *arguments])
    assert result.exit_code == 2
    assert words in " ".join(result.stderr.split())
    assert result.stdout == ""


def test_a_device_whose_clock_nobody_reads_is_refused(monkeypatch):
    monkeypatch.setattr(bench_run, "find_device", torch.device)
    with pytest.raises(SettingError, match=r"cpu, cuda or cuda:N, not on 'mps'"):
        bench_run.check_device("mps")


def test_a_model_that_is_spread_over_devices_is_refused(monkeypatch):
    spread = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.Linear(1, 1, device="meta"))
    monkeypatch.setattr(bench, "load_model", lambda *given: SimpleNamespace(model=spread, given=given))
    result = CliRunner().invoke(app, ["bench", "--model", "any", "--device-map", "auto"])
    assert result.exit_code == 2
    assert "this model lies on cpu, meta" in " ".join(result.stderr.split())


def test_more_tokens_than_there_are_are_refused_before_anything_is_timed():
    result = CliRunner().invoke(app, ["bench", "--keep", "577"])
    assert result.exit_code == 2
    assert "only 576" in result.stderr
    assert "warming up" not in result.stderr
