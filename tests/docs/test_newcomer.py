"""The first ten minutes: what CONTRIBUTING lists is there, and what no other test holds."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from gridprune import GridPrune, prune
from gridprune.cli.main import app
from gridprune.runtime import load, prepare
from gridprune.tiny.loading import weights_folder

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "examples" / "scene.png"
QUESTION = "What does the blue sign say?"


def test_what_is_listed_is_there():
    text, makefile, ci = ((ROOT / name).read_text() for name in ("CONTRIBUTING.md", "Makefile", ".ci/run"))
    table = text.split("## The first ten minutes")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (.+?) \| (.+?) \|$", table, re.MULTILINE)[1:]
    assert len(rows) >= 20
    for action, held in rows:
        names = re.findall(r"`([^`]+)`", held)
        assert names, action
        for name in names:
            if name.startswith("make "):
                assert f"\n{name.removeprefix('make ')}:" in makefile
                assert name in ci or name == "make install"  # which all others begin with
            else:
                file, _, test = name.partition("::")
                assert f"def {test}" in (ROOT / file).read_text(encoding="utf-8"), name


def test_a_forgotten_clip(tmp_path):
    shutil.copytree(weights_folder() / "llava", tmp_path / "llava")
    told = CliRunner().invoke(app, ["ask", str(SAMPLE), QUESTION, "--model", str(tmp_path / "llava")])
    assert told.exit_code == 2
    assert "gridprune export-clip" in told.stderr
    assert "Traceback" not in told.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_a_gpu_that_is_not_there():
    told = CliRunner().invoke(app, ["ask", str(SAMPLE), QUESTION, "--device", "cuda"])
    assert told.exit_code == 2
    assert "cpu" in told.stderr
    assert "Traceback" not in told.stderr


def test_the_stock_answer_comes_back():
    loaded = load()
    inputs = prepare(loaded, Image.open(SAMPLE), QUESTION)
    before = loaded.model.generate(**inputs, max_new_tokens=5)
    with prune(loaded.model, GridPrune(keep=1), processor=loaded.processor, clip=loaded.clip) as pruning:
        loaded.model.generate(**inputs, max_new_tokens=5)
    assert pruning.report.kept == 1
    assert torch.equal(loaded.model.generate(**inputs, max_new_tokens=5), before)


def test_the_method_of_readme():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {"__name__": __name__}
    exec(text.split("## Add a method")[1].split("```python\n")[1].split("```")[0], names)
    loaded = load()
    inputs = prepare(loaded, Image.open(SAMPLE), QUESTION)
    with prune(loaded.model, names["LargestNorm"](keep=64), processor=loaded.processor) as pruning:
        loaded.model.generate(**inputs, max_new_tokens=1)
    features = loaded.model.get_image_features(pixel_values=inputs["pixel_values"]).pooler_output[0]
    largest = features.float().norm(dim=-1).topk(64).indices.sort().values.tolist()
    assert list(pruning.report.kept_indices) == largest
