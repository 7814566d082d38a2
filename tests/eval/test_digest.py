"""Which files decide a run: all of the package but those that are named, and none of these is used by a run."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import gridprune
from gridprune.eval import entries, store

PACKAGE = Path(gridprune.__file__).parent


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    ignored = shutil.ignore_patterns("weights", "__pycache__")
    return Path(shutil.copytree(PACKAGE, tmp_path_factory.mktemp("copy") / "gridprune", ignore=ignored))


def test_every_deciding_file_is_covered(copy):
    before = store.code_digest(copy)
    assert before == store.code_digest()
    deciding = ("core/allocate.py", "hf/prompt_pruner.py", "selection/selector.py", "tiny/scenes.py")
    for name in (*deciding, "tiny/assets/sprites.png", "new.py", "new/a.py"):
        file = copy / name
        file.parent.mkdir(exist_ok=True)
        kept = file.read_bytes() if file.exists() else None
        file.write_bytes((kept or b"") + b"\n")
        assert store.code_digest(copy) != before, name
        file.unlink() if kept is None else file.write_bytes(kept)
    assert store.code_digest(copy) == before


def test_reporting_files_are_there_and_do_not_count(copy):
    before = store.code_digest(copy)
    for name in store.REPORTING:
        path = copy / name
        file = path if path.is_file() else path / "__init__.py"
        assert file.is_file(), name
        file.write_bytes(file.read_bytes() + b"\n")
    assert store.code_digest(copy) == before


def test_no_run_uses_a_file_that_does_not_count():
    """Answers questions in a fresh Python, both ways, and looks at what was imported on the way."""
    code = """
import sys
from gridprune.eval import data, entries, own, shared, store
from gridprune.runtime import load
loaded, cells = load(), shared.cells(entries.parse_list("gridprune"), [64])
scene = next(data.generated("dev", 2).scenes())
for engine in (shared.Shared(loaded, cells), own.PerQuestion(loaded, cells, 2)):
    store.row_of(engine.run([scene])[0], with_kept=True)
print(*[module.__file__ for name, module in sys.modules.items() if name.split(".")[0] == "gridprune"], sep="\\n")
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    used = {Path(line) for line in done.stdout.splitlines() if line.startswith(str(PACKAGE))}
    assert PACKAGE / "core" / "allocate.py" in used
    uncounted = used - set(store.deciding_files())
    assert uncounted <= {PACKAGE / "eval" / "metrics.py"}, uncounted  # metrics are computed from rows, after a run


def test_what_decides_a_run_is_in_its_identity(loaded, monkeypatch):
    from gridprune.cues.clip_text import ClipText
    from gridprune.eval import data, run

    monkeypatch.setattr(data.DataSet, "prior", lambda self: None)  # takes seconds, and is no part of it

    def identity(**more):
        asked = run.Evaluation(entries.parse_list("random"), [16], data.generated("dev", 1), **more)
        return asked.config(loaded)["identity"]

    assert identity() == identity()
    assert identity(max_new_tokens=3) != identity()
    before, clip = identity(), loaded.clip
    assert isinstance(clip, ClipText)
    clip.reading = "minus"
    try:
        assert identity()["clip"] != before["clip"]
    finally:
        clip.reading = "plus"
    assert {"torch", "transformers"} == set(before["libraries"])
