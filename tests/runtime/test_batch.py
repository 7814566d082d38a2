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
from gridprune.files import sole_writer
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


def test_a_batch_answers_as_single_calls_do(folder, tmp_path):
    """Images of several sizes, questions of several lengths; one that fails in a batch fails alone."""
    lines = [
        {"id": number, "image": image, "question": question}
        for number, (image, question) in enumerate(
            [
                ("a.jpg", "What is red?"),
                ("broken.png", "What is red?"),
                ("b.png", "How many dogs are there?"),
                ("sub/c.webp", "what colour is it?"),  # a word that the embedded model does not know
                ("sub/c.webp", "What does the blue sign say?"),
            ]
        )
    ]
    Image.effect_noise((90, 64), 80).save(folder / "b.png")
    file = folder / "q.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    found = {}
    for size in (1, 4):
        out = tmp_path / f"{size}.jsonl"
        done = batch(file, "-o", out, "--max-new-tokens", 3, "--keep", 16, "--batch-size", size, "--compare", "--json")
        summary = json.loads(done.stdout)
        assert (summary["answered"], [row["id"] for row in summary["failed"]]) == (3, [1, 3])
        found[size] = {row["id"]: (row["answer"], row["visual_tokens"], row["full"]["answer"]) for row in rows(out)}
    assert sorted(found[1]) == [0, 2, 4]
    assert found[4] == found[1]
    assert found[1][0][1] == {"total": 576, "kept": 16}


def test_rows_of_a_batch_are_one_call(folder, tmp_path, monkeypatch):
    from gridprune.runtime import ask as runtime

    sizes, respond_all = [], runtime.respond_all

    def counted(loaded, inputs, *rest):
        sizes.append(len(inputs["input_ids"]))
        return respond_all(loaded, inputs, *rest)

    monkeypatch.setattr(runtime, "respond_all", counted)
    (folder / "broken.png").unlink()
    done = batch(folder, "What is red?", "-o", tmp_path / "o.jsonl", "--max-new-tokens", 2, "-b", 2)
    assert done.exit_code == 0, done.output
    assert sizes == [2, 2, 1]  # the first is the warm-up


def test_the_same_image_and_question_twice_are_one_task_unless_their_ids_differ(folder, tmp_path):
    line = {"image": "a.jpg", "question": "What is red?"}
    file = folder / "q.jsonl"
    file.write_text("\n".join(json.dumps(one) for one in (line, line, {"id": "x", **line}, {"id": "y", **line})))
    out = tmp_path / "o.jsonl"
    assert batch(file, "-o", out, "--max-new-tokens", 2).exit_code == 0
    assert [row.get("id") for row in rows(out)] == [None, "x", "y"]
    assert batch(file, "-o", out, "--max-new-tokens", 2).exit_code == 0
    assert len(rows(out)) == 3


def test_only_what_failed_is_retried(folder, tmp_path):
    out = tmp_path / "out.jsonl"
    lines = [{"image": "broken.png"}, {"image": "a.jpg"}]
    (folder / "q.jsonl").write_text(json.dumps(lines[0]))
    common = ("What is red?", "-o", out, "--max-new-tokens", 2, "--json")
    assert batch(folder / "q.jsonl", *common).exit_code == 1
    Image.new("RGB", (64, 48)).save(folder / "broken.png")
    (folder / "q.jsonl").write_text("\n".join(map(json.dumps, lines)))
    again = json.loads(batch(folder / "q.jsonl", *common, "--retry").stdout)
    assert (again["answered"], again["failed"]) == (1, [])
    assert [row["image"] for row in rows(out)] == ["broken.png"]


def test_two_batches_into_one_file_are_refused(folder, tmp_path):
    with sole_writer(tmp_path / "out.jsonl"):
        refused = batch(folder, "What is red?", "-o", tmp_path / "out.jsonl")
    assert refused.exit_code == 2
    assert "Another process is writing" in refused.output
    assert not (tmp_path / "out.jsonl").exists()
