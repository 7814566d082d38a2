"""Numbers of the model card: gates and ladders on the test split, sizes, times per stage."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gridprune.tiny.data import text_prior
from gridprune.tiny.forms import NEXT
from gridprune.tiny.loading import has_form, load
from gridprune.tiny.vocabulary import VOCABULARY

from .evaluate import evaluate
from .export import CHECKPOINTS


def stage_times(training: Path) -> dict[str, dict[str, float]]:
    """Steps and seconds of every stage, from its log."""
    out = {}
    for stage in ("symbolic", "tower", "joint", "next"):
        log = training / stage / "log.jsonl"
        if log.exists():
            last = json.loads(log.read_text().splitlines()[-1])
            out[stage] = {"steps": last["step"] + 1, "seconds": last["seconds"]}
    return out


def notes(training: Path) -> list[str]:
    """Remarks on how this training went, one paragraph a line of ``notes.txt``."""
    path = training / "notes.txt"
    return [line for line in path.read_text().splitlines() if line] if path.exists() else []


def measure(
    weights: Path,
    training: Path,
    *,
    seed: int,
    n: int,
    n_next: int = 300,
    split: str = "test",
    scene_seed: int = 0,
    report: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Everything ``MODEL_CARD.md`` needs."""
    tiny = load(weights)
    result = evaluate(tiny, split, n, scene_seed=scene_seed, report=report)
    files = [path for name in CHECKPOINTS for path in (weights / name).glob("*.safetensors")]
    return {
        "seed": seed,
        "parameters": sum(p.numel() for p in tiny.model.parameters()),
        "bytes": sum(path.stat().st_size for path in files),
        "vocabulary": len(VOCABULARY),
        "stages": stage_times(training),
        "notes": notes(training),
        "text_prior": text_prior(split, seed=scene_seed),
        **result,
        **({"next": measure_next(weights, split, n_next, scene_seed, report)} if has_form(weights, NEXT) else {}),
    }


def measure_next(weights: Path, split: str, n: int, scene_seed: int, report: Callable[[str], None]) -> dict[str, Any]:
    """Gates and ladder of LLaVA-NeXT's form."""
    result = evaluate(load(weights, form=NEXT.name), split, n, scene_seed=scene_seed, report=report)
    return {"text_prior": text_prior(split, seed=scene_seed, form=NEXT.name), **result}
