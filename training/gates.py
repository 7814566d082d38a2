"""What the model must show before it may rank methods: the ladder, the priors, no question that fewer tokens help.

Selections here are the plain ones (a score's highest patches); the leaderboard of `gridprune eval` has the methods.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from training.embedded.cells import evidence_mask
from training.embedded.questions import KINDS, Question, balanced, template_prior
from training.embedded.scenes import GRID, make_scene

from .captions import tokenize
from .clip import CLIP, normalise, patchify
from .joint import JointModel, features
from .lm import exact
from .packing import pack
from .recall import evidence_recall
from .symbolic import by_kind

PATCHES = GRID * GRID
SELECTIONS = ("random", "uniform", "cls", "relevance", "tails", "fused", "oracle")
BUDGETS = (192, 64, 32, 16, 8)
#: retention over all tokens at 64 that LLaVA-1.5-7B shows: lowest and highest
LADDER = {"random": (0.83, 0.92), "cls": (0.88, 0.95), "best": (0.94, 0.99)}
RECALL = {"relevance_plus": (0.3, 0.7), "cls": (0.4, 0.8)}
ABOVE_PRIOR = 0.25
SLACK = 0.01  # what a selection may be better than all tokens


@dataclass(frozen=True)
class Gate:
    """A requirement, what was measured, and whether it holds; some are only reported."""

    name: str
    value: float
    low: float
    high: float = float("inf")

    @property
    def holds(self) -> bool:
        return self.low <= self.value <= self.high

    def __str__(self) -> str:
        bound = f"{self.low:.2f} to {self.high:.2f}" if self.high < float("inf") else f"at least {self.low:.2f}"
        return f"{'met   ' if self.holds else 'MISSED'} {self.name}: {self.value:.3f} ({bound})"


@torch.no_grad()
def scores_of(clip: CLIP, pixels: Tensor, asked: Sequence[Question], noise: torch.Generator) -> dict[str, Tensor]:
    """Scores of the patches [Q, 576] by selection, for one image uint8 [1, S, S, 3] and its questions."""
    index = torch.arange(PATCHES, device=pixels.device)[None]
    patches = normalise(patchify(pixels))
    places = clip.project(clip.vision(patches, index)[:, 1:])[0]
    cosine = clip.text_embeds(tokenize([q.text for q in asked]).to(pixels.device)) @ places.mT
    standard = lambda x: (x - x.mean(-1, keepdim=True)) / x.std(-1, keepdim=True).clamp(min=1e-9)  # noqa: E731
    z, cls = standard(cosine), standard(clip.vision.saliency(patches, index)).expand_as(cosine)
    evidence = np.stack([evidence_mask(q.boxes).ravel() for q in asked])
    chance = torch.rand(z.shape, generator=noise, device=pixels.device)
    # every patch's rank in a regular order: the first k of it are spread evenly (a golden-ratio sequence)
    even = (torch.arange(PATCHES, device=pixels.device) * 0.6180339887) % 1
    return {
        "random": chance,
        "uniform": even.expand_as(z),
        "cls": cls,
        "relevance": z,
        "tails": z.abs(),
        "fused": cls + z.abs(),
        "oracle": torch.from_numpy(evidence).to(pixels.device) + 0.5 * chance,
    }


@torch.no_grad()
def ladder(
    model: JointModel,
    clip: CLIP,
    scenes: int,
    *,
    split: str = "dev",
    seed: int = 0,
    budgets: Sequence[int] = BUDGETS,
    device: str = "cpu",
    report: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Accuracy by kind with all tokens and by selection and budget, priors, and evidence recall."""
    model.eval()
    hits: dict[tuple[str, int], dict[str, list[bool]]] = {}
    every: list[Question] = []
    noise = torch.Generator(device).manual_seed(seed)
    for number in range(scenes):
        scene = make_scene(split, number, seed=seed)
        asked = balanced(scene)
        every += asked
        pixels = torch.from_numpy(scene.pixels).to(device)[None]
        tokens = model.projector(features(clip, pixels))  # [1, 576, D]
        text = pack([[question] for question in asked], 32).to(device)
        scores = scores_of(clip, pixels, asked, noise)
        picks = {("all", PATCHES): torch.arange(PATCHES, device=device).expand(len(asked), -1)}
        for name, score in scores.items():
            picks |= {(name, k): score.topk(k).indices.sort().values for k in budgets}
        for cell, kept in picks.items():
            right = exact(model.lm(tokens[0][kept], text), text)[:, 0]
            for question, ok in zip(asked, right.tolist(), strict=True):
                hits.setdefault(cell, {}).setdefault(question.kind, []).append(ok)
        if (number + 1) % 20 == 0:
            report(f"ladder {number + 1}/{scenes}")
    accuracy: dict[str, dict[str, Any]] = {}
    for (name, k), found in hits.items():
        values = [ok for kind in found.values() for ok in kind]
        accuracy.setdefault(name, {})[str(k)] = {"mean": round(float(np.mean(values)), 4), **by_kind(found)}
    return {
        "questions": len(every),
        "split": split,
        "seed": seed,
        "accuracy": accuracy,
        "prior": {kind: round(value, 4) for kind, value in template_prior(every).items()},
        "recall": evidence_recall(clip, scenes, split=split, seed=seed, device=device),
    }


def gates(result: dict[str, Any]) -> list[Gate]:
    """The gates of one ladder."""
    accuracy, prior = result["accuracy"], result["prior"]
    full = accuracy["all"][str(PATCHES)]
    at64 = {name: accuracy[name]["64"]["mean"] / max(full["mean"], 1e-9) for name in SELECTIONS}
    best = max(value for name, value in at64.items() if name != "oracle")
    values = {**at64, "best": best}
    out = [Gate(f"retention at 64 of {PATCHES}: {name}", values[name], *bounds) for name, bounds in LADDER.items()]
    out += [
        Gate(f"evidence recall at 64: {cue}", result["recall"][cue]["all"], *bounds) for cue, bounds in RECALL.items()
    ]
    for kind in KINDS:
        if kind not in full:
            continue
        out.append(Gate(f"{kind}: all tokens above the text prior", full[kind] - prior[kind], ABOVE_PRIOR))
        rival = max(accuracy[name][str(k)][kind] for name in SELECTIONS for k in BUDGETS)
        out.append(Gate(f"{kind}: all tokens above the best selection", full[kind] - rival, -SLACK))
    return out
