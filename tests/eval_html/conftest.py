"""A run written by hand: two images, a few questions, two methods that differ where the tests look."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from gridprune.core.token_map import TokenMap
from gridprune.eval import data, entries, kept
from gridprune.eval.run import describe
from gridprune.eval.store import RunFolder

KEEPS = [16, 4]
METHODS = ["gridprune", "pooling"]
MAP = TokenMap.from_grid(24, 24)


def config(asked: data.DataSet) -> dict:
    chosen = [entries.parse(name) for name in METHODS]
    return {
        "identity": {
            "model": "by hand",
            "data": asked.name,
            "data_seed": asked.seed,
            "questions": asked.total,
            "data_sha256": hashlib.sha256(asked.file.read_bytes()).hexdigest() if asked.file else None,
            "matching": "exact",
            "unscored": ["describe"],
            "methods": [describe(entry, KEEPS) for entry in chosen],
            "keeps": KEEPS,
        },
        "text_prior": None,
        "language_model": {"layers": 2, "hidden": 8, "mlp": 16},
        "command": "gridprune eval </script>",
        "commit": None,
        "versions": {"gridprune": "0"},
        "machine": {"processor": "none", "threads": 1, "accelerator": None},
    }


def row(scene: data.Scene, *, with_kept: bool = True) -> dict:
    """gridprune is right on even questions, pooling on the first half; at 4 tokens nothing is right."""
    number = len(scene.questions)
    answers = {
        "full": [1] * number,
        "gridprune|16": [1 if i % 2 == 0 else "<b>no</b>" for i in range(number)],
        "pooling|16": [1 if i < number // 2 else "no" for i in range(number)],
        "gridprune|4": ["no"] * number,
        "pooling|4": ["no"] * number,
    }
    found = {
        "scene": scene.number,
        "questions": [[q.id, q.kind, q.text, q.answers[0]] for q in scene.questions],
        "answers": answers,
        "recall": {cell: None if cell == "full" else 0.5 for cell in answers},
        "tokens": {"full": 576} | {f"{method}|{keep}": keep for method in METHODS for keep in KEEPS},
    }
    if with_kept:
        blind = {f"pooling|{keep}": kept.pack(torch.arange(keep), 576) for keep in KEEPS}
        guided = {f"gridprune|{k}": [kept.pack(torch.arange(k) + i, 576) for i in range(number)] for k in KEEPS}
        found |= {"places": kept.places_of(MAP), "seen": [0, 0, 1, 1], "kept": {**guided, **blind}}
    return found


def write(folder: Path, asked: data.DataSet, **options: bool) -> RunFolder:
    run = RunFolder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    run.config_file.write_text(json.dumps(config(asked)))
    run.append([row(scene, **options) for scene in asked.scenes()])
    run.finish()
    (folder / "timing.json").write_text(
        json.dumps({"decide": {f"{m}|{k}": 0.001 for m in METHODS for k in KEEPS}, "prefill": {"576": 0.1, "16": 0.02}})
    )
    return run


@pytest.fixture(scope="session")
def asked() -> data.DataSet:
    return data.generated("dev", 22)


@pytest.fixture(scope="session")
def run(asked, tmp_path_factory) -> RunFolder:
    return write(tmp_path_factory.mktemp("runs") / "run", asked)


@pytest.fixture(scope="session")
def own_file(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    Image.new("RGB", (640, 320), "navy").save(folder / "photo.png")
    line = {"image": "photo.png", "question": "What colour?", "answer": "blue", "boxes": [[160, 0, 320, 160]]}
    (folder / "questions.jsonl").write_text(json.dumps(line) + "\n" + json.dumps({**line, "question": "How many?"}))
    return folder / "questions.jsonl"
