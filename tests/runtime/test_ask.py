"""What `ask`, `batch` and the page stand on: text halves are read once, models without a cache and missing packages."""

from __future__ import annotations

import importlib
import json
import sys

import pytest
from PIL import Image
from typer.testing import CliRunner

from gridprune import GridPrune
from gridprune.cli.main import app
from gridprune.cues import load_text
from gridprune.cues.text_tower import TextTower
from gridprune.demo.view import _figures
from gridprune.errors import InstallationError
from gridprune.runtime import answer, load
from gridprune.tiny import make_scene
from gridprune.tiny.loading import weights_folder


@pytest.fixture
def reads(monkeypatch):
    """The text halves that were read from disk."""
    made, read = [], load_text.load_text_tower
    monkeypatch.setattr(load_text, "load_text_tower", lambda source: made.append(source) or read(source))
    return made


@pytest.mark.parametrize("given", [True, False], ids=["given", "beside"])
def test_the_text_half_is_read_once(reads, given):
    loaded = load(str(weights_folder() / "llava"), clip=str(weights_folder() / "clip") if given else None)
    scene, method = make_scene("dev", 0).image, GridPrune(keep=32)
    texts = {answer(loaded, scene, "What is red?", method, max_new_tokens=2).text for _ in range(3)}
    assert len(texts) == len(reads) == 1
    assert isinstance(loaded.clip, TextTower)


def test_batch_reads_it_before_it_measures(reads, tmp_path):
    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
    Image.new("RGB", (64, 48), "red").save(tmp_path / "b.png")
    words = [
        "batch",
        tmp_path,
        "What is red?",
        "-o",
        tmp_path / "o.jsonl",
        "--clip",
        weights_folder() / "clip",
        "--compare",
    ]
    result = CliRunner().invoke(app, [*map(str, words), "--max-new-tokens", "2", "--json"])
    assert json.loads(result.stdout)["answered"] == 2
    assert len(reads) == 1


def test_a_model_that_keeps_no_cache_is_compared(monkeypatch, tmp_path):
    loaded = load()
    scene, method = make_scene("dev", 0).image, GridPrune(keep=64)
    cached = [answer(loaded, scene, "What is red?", each, max_new_tokens=4) for each in (None, method)]
    loaded.model.generation_config.use_cache = loaded.model.config.use_cache = False
    without = [answer(loaded, scene, "What is red?", each, max_new_tokens=4) for each in (None, method)]
    assert [one.text for one in without] == [one.text for one in cached]
    assert [one.kv_bytes for one in without] == [0, 0]
    *_, memory = _figures(without[1], without[0], 576)
    assert (memory.share, memory.ratio) == (0.0, "")
    monkeypatch.setattr("gridprune.runtime.ask.load", lambda *args, **kwargs: loaded)
    scene.save(tmp_path / "a.png")
    result = CliRunner().invoke(
        app, ["ask", str(tmp_path / "a.png"), "What is red?", "--compare"], catch_exceptions=False
    )
    assert result.exit_code == 0
    assert "smaller" not in result.stdout


def test_a_missing_package_is_named_in_full_with_its_remedy(monkeypatch):
    from transformers import AutoProcessor

    long = "\nVideos need the Torchvision library but it was not found. Look at\nthe installation page.\n"
    monkeypatch.setattr(AutoProcessor, "from_pretrained", lambda name: (_ for _ in ()).throw(ImportError(long)))
    with pytest.raises(InstallationError, match=r"gridprune\[processors\]") as raised:
        load("somebody/some-vl")
    assert " ".join(long.split()) in str(raised.value)


def test_a_torchvision_that_does_not_fit_torch_is_one_line(monkeypatch, tmp_path):
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')"
    )
    (tmp_path / "torchvision-9.0.dist-info").mkdir()
    (tmp_path / "torchvision-9.0.dist-info" / "METADATA").write_text("Name: torchvision\nVersion: 9.0\n")
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    scene = tmp_path / "a.png"
    Image.new("RGB", (64, 48)).save(scene)
    result = CliRunner().invoke(app, ["ask", str(scene), "What is red?"], catch_exceptions=False)
    assert result.exit_code == 2
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("error: torchvision 9.0 does not fit torch ")
    assert "operator torchvision::nms does not exist" in line
    assert "pip install --force-reinstall torch torchvision" in line


def test_an_error_of_transformers_import_is_put_down_to_torchvision(monkeypatch):
    """Commands that load no model meet it deep inside transformers."""

    def broken():
        raise InstallationError("torchvision 9.0 does not fit")

    monkeypatch.setattr("gridprune.cli.options.check_torchvision", broken)
    monkeypatch.setattr("gridprune.cli.plan.read", lambda *_: [][0])
    result = CliRunner().invoke(app, ["plan", "embedded"])
    assert (result.exit_code, result.stderr) == (2, "error: torchvision 9.0 does not fit\n")
