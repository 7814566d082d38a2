"""How much of a question's evidence a cue finds, on the towers alone: reported, never trained for.

``python -m training.recall runs/judge-0`` prints it for the tower's last state.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from training.embedded.cells import evidence_mask
from training.embedded.questions import balanced
from training.embedded.scenes import GRID, make_scene

from .captions import tokenize
from .clip import CLIP, TowerConfig, normalise, patchify

CUES = ("cls", "relevance_plus", "relevance_minus", "relevance_tails", "random")


@torch.no_grad()
def evidence_recall(
    clip: CLIP, scenes: int, *, keep: int = 64, split: str = "dev", seed: int = 0, device: str = "cpu"
) -> dict[str, dict[str, float]]:
    """By cue: by kind, and over all questions but those about the background, whose evidence is nearly everywhere."""
    clip.eval()
    index = torch.arange(GRID * GRID, device=device)[None]
    noise = torch.Generator(device).manual_seed(0)
    found: dict[str, dict[str, list[float]]] = {cue: {} for cue in CUES}
    for number in range(scenes):
        scene = make_scene(split, number, seed=seed)
        asked = [question for question in balanced(scene) if question.boxes]
        patches = normalise(patchify(torch.from_numpy(scene.pixels).to(device)[None]))
        places = clip.project(clip.vision(patches, index)[:, 1:])[0]  # [576, P]
        cosine = clip.text_embeds(tokenize([q.text for q in asked]).to(device)) @ places.mT
        z = (cosine - cosine.mean(-1, keepdim=True)) / cosine.std(-1, keepdim=True)
        saliency = clip.vision.saliency(patches, index).expand_as(z)
        scores = (saliency, z, -z, z.abs(), torch.rand(z.shape, generator=noise, device=device))
        evidence = torch.from_numpy(np.stack([evidence_mask(q.boxes).ravel() for q in asked])).to(device)
        for cue, score in zip(CUES, scores, strict=True):
            for question, value in zip(asked, recall(score, evidence, keep).tolist(), strict=True):
                found[cue].setdefault(question.kind, []).append(value)
    out = {}
    for cue, kinds in found.items():
        mean = {kind: round(float(np.mean(values)), 3) for kind, values in kinds.items()}
        local = [value for kind, values in kinds.items() if kind != "background" for value in values]
        out[cue] = {"all": round(float(np.mean(local)), 3), **mean}
    return out


def recall(score: Tensor, evidence: Tensor, keep: int) -> Tensor:
    """Share of the evidence [B, N] among the ``keep`` highest scores, of what as many tokens could hold."""
    kept = torch.zeros_like(evidence).scatter(-1, score.topk(keep).indices, True)
    return (kept & evidence).sum(-1) / evidence.sum(-1).clamp(min=1, max=keep)


def load_tower(out: Path, cfg: TowerConfig) -> tuple[CLIP, int]:
    """The towers of the last state under ``out``, and after how many steps."""
    state = torch.load(out / "tower" / "state.pt", weights_only=True, map_location="cpu")
    clip = CLIP(cfg)
    clip.load_state_dict(state["model"])
    return clip.eval(), state["step"]


if __name__ == "__main__":
    torch.set_num_threads(1)
    towers, after = load_tower(Path(sys.argv[1]), TowerConfig())
    print(json.dumps({"step": after, **evidence_recall(towers, scenes=40)}, indent=1))
