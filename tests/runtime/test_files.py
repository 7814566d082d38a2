"""Files that are written: whole or not at all, by one process at a time, and refused before any work is done."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from gridprune.errors import BusyError, OutputError
from gridprune.files import check_folder, check_output, sole_writer, written

CODE = """
import pathlib, sys
from gridprune.files import sole_writer
with sole_writer(pathlib.Path(sys.argv[1])):
    pass
"""


def test_what_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    refused = {
        tmp_path: "is a folder",
        Path("/dev/null"): "no ordinary file",
        tmp_path / "kept.xyz": r"must end in .png or .jpg",
        tmp_path / "file" / "kept.png": "cannot be written",
    }
    for path, words in refused.items():
        with pytest.raises(OutputError, match=words):
            check_output(path, (".png", ".jpg"))
    with pytest.raises(OutputError, match="cannot be written"):
        check_folder(tmp_path / "file")
    check_output(None)
    check_output(tmp_path / "new" / "KEPT.PNG", (".png",))
    check_folder(tmp_path / "new" / "deep")
    assert [each.name for each in tmp_path.iterdir()] == ["file"]  # nothing was made


def _filled_up(path):
    with written(path) as partial:
        partial.write_text("hal")
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_file_is_whole_or_as_before(tmp_path):
    file, link = tmp_path / "a.txt", tmp_path / "link.txt"
    file.write_text("before")
    link.symlink_to(file)
    with pytest.raises(OutputError, match=r"a.txt cannot be written: No space left on device"):
        _filled_up(link)
    assert file.read_text() == "before"
    with written(link) as partial:
        partial.write_text("after")
    assert file.read_text() == "after"
    assert link.is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "link.txt"]


def test_two_processes_do_not_write_to_one_place(tmp_path):
    with sole_writer(tmp_path / "run"):
        other = subprocess.run([sys.executable, "-c", CODE, tmp_path / "run"], capture_output=True, text=True)
        assert other.returncode == 1
        assert "BusyError: Another process is writing to" in other.stderr.splitlines()[-1]
        with pytest.raises(BusyError), sole_writer(tmp_path / "run"):
            pass
    with sole_writer(tmp_path / "run"):  # it is free again
        pass
