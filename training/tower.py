"""Stage 1: the vision and the text tower, trained from scratch by captions alone.

The loss is CLIP's: the right caption of every image of a batch, and the right image of every caption. No boxes, no
labels of patches, no classes come near it. Most steps see a random part of the patches (FLIP, arXiv 2212.00794), the
last ones all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from gridprune.tiny.draws import Draws
from training.embedded.scenes import GRID, make_scene

from .captions import caption, tokenize
from .clip import CLIP, TowerConfig, normalise, patchify
from .optim import Lengths, descend, length_at, make_optimizers, schedule
from .runs import Run

PATCHES = GRID * GRID


@dataclass(frozen=True)
class TowerTraining:
    """Length and rates of the stage; ``patches`` as (part of the run, numbers of patches to cycle through)."""

    steps: int = 3600
    batch: int = 128
    muon_lr: float = 0.02
    adam_lr: float = 2e-3
    patches: Lengths = ((0.0, (96,)), (0.3, (144,)), (0.94, (288,)), (0.98, (576,)))
    check_every: int = 200
    check_scenes: int = 96
    save_every: int = 20


@dataclass(frozen=True)
class Captioned(Dataset):
    """Batch ``step`` of images and captions: patches as bytes [B, P, 192], their numbers [B, P], ids [B, T]."""

    cfg: TowerTraining
    seed: int

    def __len__(self) -> int:
        return self.cfg.steps

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        n = length_at(self.cfg.patches, step, self.cfg.steps)
        rng = np.random.default_rng([self.seed, 2, step])
        patches, numbers, texts = [], [], []
        for i in range(step * self.cfg.batch, (step + 1) * self.cfg.batch):
            scene = make_scene("train", i, seed=self.seed + 500)
            texts.append(caption(scene, Draws(self.seed, 7, i)))
            index = np.sort(rng.permutation(PATCHES)[:n])
            patches.append(patchify(torch.from_numpy(scene.pixels)[None])[0][index])
            numbers.append(torch.from_numpy(index))
        return torch.stack(patches), torch.stack(numbers), tokenize(texts)


def batches(data: Dataset, first: int, steps: int, workers: int) -> Iterator:
    """Batches ``first`` to ``steps`` in order; made by ``workers`` processes, or here."""
    loader = DataLoader(data, batch_size=None, sampler=range(first, steps), num_workers=workers)  # type: ignore[arg-type]
    return iter(loader)


def contrastive(clip: CLIP, patches: Tensor, index: Tensor, ids: Tensor) -> Tensor:
    """CLIP's symmetric loss over a batch."""
    images = clip.image_embeds(clip.vision(patches, index)).float()
    texts = clip.text_embeds(ids).float()
    pairs = clip.logit_scale.exp().clamp(max=100) * images @ texts.mT
    same = torch.arange(len(pairs), device=pairs.device)
    return (F.cross_entropy(pairs, same) + F.cross_entropy(pairs.T, same)) / 2


def train_tower(
    out: Path,
    cfg: TowerTraining,
    tower: TowerConfig,
    *,
    seed: int,
    device: str = "cpu",
    workers: int = 0,
    stop: int | None = None,
    report: Callable[[str], None] = print,
) -> CLIP:
    """Train (or resume) the stage under ``out``; ``stop`` ends early at a step, as a kill would."""
    torch.manual_seed(seed)
    clip = CLIP(tower).to(device)
    optimizers = make_optimizers(clip, muon_lr=cfg.muon_lr, adam_lr=cfg.adam_lr)
    run = Run(out, clip, optimizers, every=cfg.save_every)
    first = run.resume()
    window: list[float] = []
    steps = range(first, cfg.steps if stop is None else stop)
    for step, batch in zip(steps, batches(Captioned(cfg, seed), first, cfg.steps, workers), strict=False):
        patches, index, ids = (part.to(device, non_blocking=True) for part in batch)
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            loss = contrastive(clip, normalise(patches), index, ids)
        descend(clip, optimizers, loss, schedule(step, cfg.steps, warmup=100), clip=2.0)
        window.append(loss.item())
        if (step + 1) % 10 == 0:
            row = {"loss": round(sum(window) / len(window), 4), "patches": index.shape[1]}
            run.log(step, row | {"scale": round(clip.logit_scale.exp().item(), 1)})
            report(f"tower {step + 1}/{cfg.steps} {row} {run.seconds:.0f}s")
            window = []
        if (step + 1) % cfg.check_every == 0 or step + 1 == cfg.steps:
            scores = retrieval(clip, cfg.check_scenes, device)
            run.log(step, {"scores": scores})
            report(f"  {scores}")
        run.maybe_save(step + 1, cfg.steps)
    return clip


@torch.no_grad()
def retrieval(clip: nn.Module, scenes: int, device: str = "cpu", split: str = "dev") -> dict[str, float]:
    """Share of development images whose caption is found among all, and of captions whose image is."""
    images, texts = [], []
    for start in range(0, scenes, 16):
        batch = [make_scene(split, i) for i in range(start, min(start + 16, scenes))]
        pixels = torch.from_numpy(np.stack([scene.pixels for scene in batch])).to(device)
        index = torch.arange(PATCHES, device=device).expand(len(batch), -1)
        images.append(clip.image_embeds(clip.vision(normalise(patchify(pixels)), index)))
        texts.append(clip.text_embeds(tokenize([caption(s, Draws(3, s.index)) for s in batch]).to(device)))
    pairs = torch.cat(images) @ torch.cat(texts).mT
    right = torch.arange(scenes, device=pairs.device)
    found = [(pairs.argmax(axis) == right).float().mean().item() for axis in (1, 0)]
    return {"caption_of_image": round(found[0], 3), "image_of_caption": round(found[1], 3)}
