"""`gridprune batch`: folder or JSONL in, JSONL out; resumed, with bad files reported and left out."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from gridprune.cli.main import app
from gridprune.errors import CheckpointError, SettingError
from gridprune.methods.gridprune import GridPrune
from gridprune.runtime import load
from gridprune.runtime.batch import Output, run, tasks_of


@pytest.fixture
def folder(tmp_path):
    images = tmp_path / "in"
    (images / "sub").mkdir(parents=True)
    for number, name in enumerate(("b.png", "a.jpg", "sub/c.webp")):
        Image.new("RGB", (64, 48), (40 * number, 90, 10)).save(images / name)
    (images / "broken.png").write_bytes(b"not an image")
    (images / "notes.txt").write_text("left alone")
    return images


def batch(*arguments):
    result = CliRunner().invoke(app, ["batch", *map(str, arguments)])
    return result


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def failures(out):
    return {row["image"]: row["reason"] for row in rows(out.with_name("out.failed.jsonl"))}


def test_a_folder_is_answered_and_resumed(folder, tmp_path):
    out = tmp_path / "out.jsonl"
    common = (folder, "what is there?", "-o", out, "--max-new-tokens", 2, "--keep", 16, "--json")
    first = batch(*common, "--compare")
    assert first.exit_code == 0, first.output
    summary = json.loads(first.stdout)
    assert (summary["answered"], summary["skipped"], len(summary["failed"])) == (3, 0, 1)
    assert summary["failed"][0]["image"] == "broken.png"
    assert summary["speedup"] == pytest.approx(summary["full_seconds"] / summary["seconds"], abs=1e-3)
    assert [row["image"] for row in rows(out)] == ["a.jpg", "b.png", "sub/c.webp"]
    assert all(row["visual_tokens"] == {"total": 576, "kept": 16} for row in rows(out))
    assert "not an image" in failures(out)["broken.png"]

    kept = out.read_text().splitlines(keepends=True)
    out.write_text("".join(kept[:2]) + kept[2][:20])  # a crash in the middle of a row
    Image.new("RGB", (64, 48)).save(folder / "broken.png")
    again = json.loads(batch(*common, "--compare").stdout)
    assert (again["answered"], again["skipped"], again["failed"]) == (2, 2, [])
    assert [row["image"] for row in rows(out)] == [
        "a.jpg",
        "b.png",
        "sub/c.webp",
        "broken.png",
    ]  # what failed comes last
    assert [row["answer"] for row in rows(out)][:3] == [json.loads(line)["answer"] for line in kept]
    assert not out.with_name("out.failed.jsonl").exists()

    for other in (("--clip", folder), ("--dtype", "float16"), ("--method", "gridprune(zone=2)")):
        refused = batch(*common, "--compare", *other)
        assert refused.exit_code == 2
        assert "other settings" in refused.output


def test_no_row_keeps_the_others_from_being_answered(folder, tmp_path, monkeypatch):
    from gridprune.runtime import ask as runtime

    prepare = runtime.prepare

    def broken(loaded, image, question, history=()):
        if image.getpixel((0, 0))[0] == 0:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return prepare(loaded, image, question, history)

    monkeypatch.setattr(runtime, "prepare", broken)
    Image.new("RGB", (30_000, 1)).save(folder / "line.png")
    lines = [
        {"image": "line.png"},
        {"image": "b.png"},
        {"image": "iVBORw0KGgo" * 400},
        {"image": "sub/c.webp", "question": "what does the <image> say?"},
        {"image": "sub/c.webp", "question": "what colour is it?"},
        {"image": "sub/c.webp"},
    ]
    file = folder / "q.jsonl"
    file.write_text("\ufeff" + "\r\n".join(map(json.dumps, lines)), encoding="utf-8")
    out = tmp_path / "out.jsonl"
    common = (file, "what is\u2028there?", "-o", out, "--max-new-tokens", 2, "--json")
    done = batch(*common)
    assert done.exit_code == 0, done.output
    summary = json.loads(done.stdout)
    assert (summary["answered"], len(summary["failed"])) == (1, 5)
    assert rows(out)[0]["question"] == "what is\u2028there?"
    reasons = [row["reason"] for row in summary["failed"]]
    words = ("200 times", "not enough memory", "cannot be read as a file", "does not know", "'colour' ('color'?)")
    assert all(one in reason for one, reason in zip(words, reasons, strict=True))
    before = failures(out)
    assert json.loads(batch(*common).stdout)["failed"] == summary["failed"]
    assert failures(out) == before
    assert len(rows(out)) == 1


def test_nothing_answered_is_an_error(tmp_path):
    (tmp_path / "in").mkdir()
    for name in (b"broken.png", b"caf\xe9.png"):  # the second is no UTF-8
        (tmp_path / "in" / os.fsdecode(name)).write_bytes(b"not an image")
    out = tmp_path / "out.jsonl"
    done = batch(tmp_path / "in", "what is there?", "-o", out)
    assert done.exit_code == 1
    assert "0 answered" in done.stdout
    assert "out.failed.jsonl" in done.stdout.replace("\n", "")
    assert {row["image"] for row in rows(out.with_name("out.failed.jsonl"))} == {"broken.png", "caf\udce9.png"}


def test_a_clip_that_is_none_is_refused_before_the_first_row(folder, tmp_path):
    output = Output(tmp_path / "out.jsonl", {})
    loaded = replace(load(), clip=tmp_path)
    with pytest.raises(CheckpointError):
        next(run(loaded, tasks_of(folder, "what is there?"), GridPrune(keep=16), output))
    assert not output.failed


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
    with pytest.raises(SettingError, match="no images"):
        tasks_of(tmp_path, "q")
    with pytest.raises(SettingError, match="question"):
        tasks_of(tmp_path, None)
    with pytest.raises(SettingError, match="no folder and no file"):
        tasks_of(tmp_path / "nowhere", "q")
    (tmp_path / "other.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(SettingError, match="line 1 is not of"):
        Output(tmp_path / "other.jsonl", {})
