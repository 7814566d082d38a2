"""`gridprune batch`: folder or JSONL in, JSONL out; resumed, with bad files reported and left out."""

from __future__ import annotations

import json

import pytest
from PIL import Image
from typer.testing import CliRunner

from gridprune.batch import Output, tasks_of
from gridprune.cli import app
from gridprune.errors import SettingError


@pytest.fixture
def folder(tmp_path):
    pictures = tmp_path / "in"
    (pictures / "sub").mkdir(parents=True)
    for number, name in enumerate(("b.png", "a.jpg", "sub/c.webp")):
        Image.new("RGB", (64, 48), (40 * number, 90, 10)).save(pictures / name)
    (pictures / "broken.png").write_bytes(b"not a picture")
    (pictures / "notes.txt").write_text("left alone")
    return pictures


def batch(*arguments):
    result = CliRunner().invoke(app, ["batch", *map(str, arguments)])
    return result


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_folder_is_answered_and_resumed(folder, tmp_path):
    out = tmp_path / "out.jsonl"
    common = (folder, "what is this?", "-o", out, "--max-new-tokens", 2, "--keep", 16, "--json")
    first = batch(*common, "--compare")
    assert first.exit_code == 0, first.output
    summary = json.loads(first.stdout)
    assert (summary["answered"], summary["skipped"], len(summary["failed"])) == (3, 0, 1)
    assert summary["failed"][0]["image"] == "broken.png"
    assert summary["speedup"] == pytest.approx(summary["full_seconds"] / summary["seconds"], abs=1e-3)
    assert [row["image"] for row in rows(out)] == ["a.jpg", "b.png", "sub/c.webp"]
    assert all(row["visual_tokens"] == {"total": 576, "kept": 16} for row in rows(out))

    kept = out.read_text().splitlines(keepends=True)
    out.write_text("".join(kept[:2]) + kept[2][:20])  # a crash in the middle of a row
    again = json.loads(batch(*common, "--compare").stdout)
    assert (again["answered"], again["skipped"]) == (1, 2)
    assert [row["answer"] for row in rows(out)] == [json.loads(line)["answer"] for line in kept]

    refused = batch(*common)
    assert refused.exit_code == 2
    assert "other settings" in refused.output


def test_lines_of_a_file(tmp_path):
    lines = [{"image": "x.png", "question": "one?"}, {"image": "y.png"}]
    file = tmp_path / "q.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    tasks = tasks_of(file, "default?")
    assert [(t.image, t.question, t.path) for t in tasks] == [
        ("x.png", "one?", tmp_path / "x.png"),
        ("y.png", "default?", tmp_path / "y.png"),
    ]
    with pytest.raises(SettingError, match="line 2"):
        tasks_of(file, None)
    file.write_text("[1]\n")
    with pytest.raises(SettingError, match="line 1"):
        tasks_of(file, "q")


def test_what_cannot_be_run(tmp_path):
    with pytest.raises(SettingError, match="no pictures"):
        tasks_of(tmp_path, "q")
    with pytest.raises(SettingError, match="question"):
        tasks_of(tmp_path, None)
    with pytest.raises(SettingError, match="no folder and no file"):
        tasks_of(tmp_path / "nowhere", "q")
    (tmp_path / "other.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(SettingError, match="not an answer"):
        Output(tmp_path / "other.jsonl", {})
