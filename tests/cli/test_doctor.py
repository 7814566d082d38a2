"""`gridprune doctor`: what it says here, and what it says where something is missing or broken."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from typer.testing import CliRunner

from gridprune import GridPrune
from gridprune.cli.main import app
from gridprune.hf.pruning import Pruning
from gridprune.methods.base import Selection
from gridprune.runtime import doctor
from gridprune.tiny import data

ROOT = Path(__file__).parents[2]


def by_name(checks):
    return {check.name: check for check in checks}


def test_all_is_well_here():
    result = CliRunner().invoke(app, ["doctor", "--model", "embedded", "--json"])
    assert result.exit_code == 0, result.stdout
    report = json.loads(result.stdout)
    assert report["ok"]
    found = {(check["area"], check["name"]): check for check in report["checks"]}
    assert found["versions", "torch"]["found"].startswith(version("torch"))
    assert "float32" in found["hardware", "cpu"]["found"]
    assert found["model", "family"]["found"] == "llava (LlavaForConditionalGeneration)"
    assert found["model", "text half"]["state"] == "ok"
    assert "GridPruneLlavaForConditionalGeneration" in found["model", "vLLM"]["found"]
    assert found["self-test", "undo"]["state"] == found["self-test", "pruned answer"]["state"] == "ok"
    assert all(check["do"] for check in found.values() if check["state"] != "ok")  # each says what to do


def test_something_broken_ends_with_1_and_says_what_to_do(monkeypatch):
    monkeypatch.setattr(doctor, "selftest", lambda: iter(()))
    monkeypatch.setattr(doctor, "version", lambda name: "5.17.0" if name == "transformers" else version(name))
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 1
    assert re.search(r"broken transformers +5\.17\.0, which is outside", result.stdout)
    assert "pip install 'transformers" in result.stdout


def test_options_for_vllm_need_serve():
    result = CliRunner().invoke(app, ["doctor", "--enforce-eager"])
    assert result.exit_code == 2
    assert "--enforce-eager" in result.stderr


def test_the_tested_range_is_that_of_the_constraints():
    for package, (oldest, newest) in doctor.TESTED.items():
        for file, minor in (("constraints-oldest.txt", oldest), ("constraints.txt", newest)):
            assert re.search(rf"^{package}=={re.escape(minor)}\.", (ROOT / file).read_text(), re.M), (package, file)


@pytest.mark.parametrize(
    ("found", "state"), [("5.17.9", "broken"), ("5.18.0", "ok"), ("5.24.4", "ok"), ("5.99.0", "note")]
)
def test_a_version_is_tested_or_only_supported_or_neither(monkeypatch, found, state):
    monkeypatch.setattr(doctor, "version", lambda name: found if name == "transformers" else version(name))
    check = by_name(doctor.versions())["transformers"]
    assert (check.state, bool(check.do)) == (state, state != "ok")


def test_a_package_that_is_missing_is_broken_and_an_extra_is_a_note(monkeypatch):
    def nothing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(doctor, "version", nothing)
    assert by_name(doctor.versions())["torch"].do == "pip install 'torch>=2.6'"
    extras = by_name(doctor.extras())
    assert set(extras) == set(doctor.EXTRAS)
    assert {check.state for check in extras.values()} == {"note"}
    assert "pip install 'gridprune[vllm]'" in extras["vllm"].do


def test_plugins_are_seen_by_entry_point(monkeypatch):
    monkeypatch.setattr(doctor, "version", lambda name: "1")
    assert {check.state for check in doctor.plugins()} == {"ok"}
    monkeypatch.setenv("VLLM_PLUGINS", "other")
    assert "VLLM_PLUGINS" in by_name(doctor.plugins())["vLLM"].do
    monkeypatch.setattr(doctor, "entry_points", lambda group: ())
    assert {check.state for check in doctor.plugins()} == {"broken"}
    entry = SimpleNamespace(name="gridprune", value="gone:gone", load=lambda: __import__("gone_from_here"))
    monkeypatch.setattr(doctor, "entry_points", lambda group: (entry,))
    assert "gone:gone cannot be imported" in by_name(doctor.plugins())["lmms-eval"].found


def test_a_checkpoint_that_is_none_and_one_without_its_text_half(tmp_path):
    (check,) = doctor.checkpoint(str(tmp_path), None)
    assert (check.state, check.name) == ("broken", "family")
    from gridprune.tiny.loading import checkpoint_folder

    alone = tmp_path / "alone" / "llava"
    alone.mkdir(parents=True)
    for file in checkpoint_folder("llava").iterdir():
        if file.suffix != ".safetensors":  # no weights are read
            (alone / file.name).write_bytes(file.read_bytes())
    found = by_name(doctor.checkpoint(str(alone), None))
    assert found["text half"].state == "note"
    assert "gridprune export-clip" in found["text half"].do
    (alone / "tokenizer.json").write_text("{")
    assert by_name(doctor.checkpoint(str(alone), None))["processor"].state == "broken"


def test_a_model_that_is_left_changed_fails_the_self_test(monkeypatch):
    leave = Pruning.__exit__

    def forgetful(self, *error):
        leave(self, *error)
        self.model.get_decoder().register_forward_hook(lambda *call: None)

    monkeypatch.setattr(Pruning, "__exit__", forgetful)
    assert by_name(doctor.selftest())["undo"].state == "broken"


def test_a_method_that_chooses_wrongly_fails_the_self_test(monkeypatch):
    monkeypatch.setattr(GridPrune, "select", lambda self, cues, token_map, k: Selection(torch.zeros(1, k).long()))
    (check,) = doctor.selftest()
    assert (check.state, check.name) == ("broken", "embedded model")


def test_another_answer_than_the_scene_s_fails_the_self_test(monkeypatch):
    scenes = [replace(example, answer="a horse") for example in data.iter_examples("dev", 1)]
    monkeypatch.setattr(data, "iter_examples", lambda split, number: iter(scenes))
    assert by_name(doctor.selftest())["pruned answer"].state == "broken"
