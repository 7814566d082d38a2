"""Starting in less time changes nothing."""

from __future__ import annotations

import gc
import json
import subprocess
import sys

import pytest

from gridprune.start import uncollected

# In a process of its own: after transformers itself, its folder of models must not be read again, and what is said to
# lie in it must be what reading it would have found.
_ONE_SCAN = """
import json, sys
import transformers
from transformers.utils import import_utils
from gridprune.start import import_transformers

read, seen = import_utils.create_import_structure_from_path, []
def counted(path):
    seen.append(str(path))
    return read(path)
import_utils.create_import_structure_from_path = counted
import_transformers()
again = list(seen)
models = sys.modules["transformers.models"]
fresh = type(models)(models.__name__, models.__file__, import_utils.define_import_structure(models.__file__))
parts = ("_modules", "_class_to_module", "_object_missing_backend", "_import_structure")
same = [part for part in parts if getattr(models, part) == getattr(fresh, part)]
print(json.dumps({"again": again, "parts": parts, "same": same, "models": len(models._modules)}))
"""

_LIGHT = """
import sys
import gridprune.cli, gridprune.demo.opening
print([name for name in ("torch", "transformers", "gradio", "numpy", "matplotlib", "PIL") if name in sys.modules])
"""


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_transformers_reads_its_models_once_and_knows_the_same():
    found = json.loads(run(_ONE_SCAN))
    assert found["again"] == []
    assert found["same"] == found["parts"]
    assert found["models"] > 100


def test_the_loading_page_comes_before_anything_heavy():
    assert run(_LIGHT).strip() == "[]"


def test_garbage_is_collected_again_afterwards():
    def fail() -> None:
        with uncollected():
            assert not gc.isenabled()
            raise ZeroDivisionError

    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError):
        fail()
    assert gc.isenabled()


def test_who_collects_no_garbage_still_does_not():
    gc.disable()
    try:
        with uncollected():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
