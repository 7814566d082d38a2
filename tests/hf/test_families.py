"""The list of families: complete, plain, and lazily loaded."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from gridprune import families, prune
from gridprune.errors import MissingCueError
from gridprune.methods.registry import create

from .cases import CASES
from .kit import model, shuffled
from .models import LLAVA, LLAVA_NEXT, QWEN2_5_VL

ROOT = Path(__file__).parents[2]
#: what `make test` installs: when it moves, the page must follow, and the test of it must not fall asleep
(PINNED,) = re.findall(r"^transformers==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)


def test_every_family_is_described():
    described = families.describe()
    assert json.loads(json.dumps(described)) == described
    keys = {"name", "classes", "saliency", "relevance", "summary", "video", "limits", "transformers"}
    assert keys == set(described[0])
    names = [entry["name"] for entry in described]
    assert len(names) == len(set(names))


def test_the_versions_named_are_those_tested():
    files = [ROOT / "constraints-oldest.txt", ROOT / "constraints.txt"]
    pinned = [re.search(r"transformers==(\d+\.\d+)", file.read_text())[1] for file in files]
    assert {entry["transformers"] for entry in families.describe()} == {", ".join(pinned)}
    assert f"transformers>={pinned[0]}," in (ROOT / "pyproject.toml").read_text()


def test_every_family_is_tested():
    tested = {families.find(model(case)).name for case in CASES}
    assert tested == {family.name for family in families.available()}


def test_no_family_loads_a_model():
    code = "import sys, gridprune.families as f; f.describe(); print([m for m in sys.modules if '.modeling_' in m])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "llava" not in loaded
    assert "qwen" not in loaded


def test_structure_of_the_image():
    """The Laplacian's moments of every token are those of the pixels under it."""
    method = create("s2prune", keep=6)
    for case in (LLAVA, LLAVA_NEXT):
        net = model(case)
        with torch.no_grad(), prune(net, method) as pruning:
            net(**case.call([*shuffled(1), case.image(0)]))
        assert pruning.reports[0].kept == 6
    with pytest.raises(MissingCueError, match="structure"), prune(model(QWEN2_5_VL), method):
        model(QWEN2_5_VL)(**QWEN2_5_VL.call([5, QWEN2_5_VL.image(0)]))


@pytest.mark.skipif(transformers.__version__ != PINNED, reason="the page lists the classes of the pinned version")
def test_every_class_of_transformers_is_on_the_page():
    page = (ROOT / "docs" / "families.md").read_text()
    known = {name for family in families.available() for name in family.classes}
    others = set(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.values()) - known
    listed = re.split(r"[,|\s]+", page[page.index("## Other image-text-to-text classes") :])
    assert sorted(name for name in others if name.removesuffix("ForConditionalGeneration") not in listed) == []
