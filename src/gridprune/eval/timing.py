"""Seconds of the parts of an answer, measured apart from the accuracy run: encoder, decision, reading the prompt.

One image and one question at a time, as an interactive user would have it; the text embedding of the question is part
of the decision. Methods take turns on every scene, so that a machine's slow minutes hit all of them; medians are
reported.
"""

from __future__ import annotations

import itertools
import time
from collections import defaultdict
from statistics import median
from typing import Any

import torch

from ..cues.question import clean
from ..families.base import Encoded
from .ablations import reads_evidence
from .data import DataSet, Scene
from .decode import Prefix, prompt_parts
from .downsample import shrinks_image, smaller
from .shared import RunCell, Shared
from .store import machine


@torch.no_grad()
def measure(engine: Shared, data: DataSet, scenes: int) -> dict[str, Any]:
    """Median seconds: `encode` of one image, `decide` by cell, `prefill` by number of visual tokens."""
    seconds: dict[str, dict[str, list[float]]] = {part: defaultdict(list) for part in ("encode", "decide", "prefill")}
    for number, scene in enumerate(itertools.islice(data.scenes(), scenes + 1)):
        rounds = _one(engine, scene)
        if number:  # the first scene warms up
            for part, key, value in rounds:
                seconds[part][key].append(value)
    return {
        "scenes": scenes,
        "machine": machine(),
        **{part: {key: _figure(values) for key, values in table.items()} for part, table in seconds.items()},
    }


def _one(engine: Shared, scene: Scene) -> list[tuple[str, str, float]]:
    """All parts for the first question of one scene."""
    vision = engine.vision([scene])
    question = clean(scene.questions[0].text)
    out = []
    started = _now()
    encoded = engine.selector.encode(vision)
    out.append(("encode", "full", _now() - started))
    lengths = {len(encoded.maps[0])}
    for cell in engine.cells:
        started = _now()
        if shrinks_image(cell.method):
            small = smaller(engine.loaded, engine.family, scene.image, "?", cell.method.budget)
            started = _now()
            kept = len(small.features(engine.family))
            out.append(("encode", cell.key, _now() - started))
            out.append(("decide", cell.key, 0.0))
        elif reads_evidence(cell.method):
            continue
        else:
            kept = _decide(engine, cell, encoded, question)
            out.append(("decide", cell.key, _now() - started))
        lengths.add(kept)
    head, tail = prompt_parts(engine.loaded.processor, scene.questions[0].text, engine.family.placeholder)
    for length in sorted(lengths):
        features = encoded.embeddings[0][:length]
        ids = torch.tensor([*head, *[engine.family.placeholder] * length, *tail], device="cpu")
        started = _now()
        engine.decoder.read([Prefix(ids, features)], encoded)
        out.append(("prefill", str(length), _now() - started))
    return out


def _decide(engine: Shared, cell: RunCell, encoded: Encoded, question: str) -> int:
    """Cues, selection and merging as `prune` does them, with a cold text embedding; the number of tokens kept."""
    selector = engine.selector
    if selector.text.clip is not None:
        selector.text.clip.forget()
    (choice,) = selector.choose(cell.method, encoded, [question])
    return len(selector.gather(encoded, 0, choice))


def _figure(values: list[float]) -> float:
    return float(f"{median(values):.3g}")


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
