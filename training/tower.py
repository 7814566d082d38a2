"""Stage 1: the vision and the text tower, trained from scratch by captions alone.

The loss is CLIP's: the right caption of every image of a batch, and the right image of every caption. No labels of
patches, no classes come near it. It starts with close-ups, small windows of a scene with captions of what is in them:
from whole scenes of which a random part of the patches is seen (FLIP, arXiv 2212.00794), with captions of a dozen
things, two cores learn backgrounds and nothing else in hours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from gridprune.tiny.draws import Draws
from training.embedded.scenes import GRID, PATCH, Box, Scene, make_scene

from .captions import caption, tokenize
from .clip import CLIP, TowerConfig, normalise, patchify
from .optim import descend, make_optimizers, schedule
from .runs import Run

PATCHES = GRID * GRID
CLOSEUPS = 6  # of each scene


@dataclass(frozen=True)
class Leg:
    """A part of the run: views of ``side`` x ``side`` patches, of which ``seen`` (chosen at random) are looked at."""

    steps: int
    batch: int
    side: int
    seen: int


@dataclass(frozen=True)
class TowerTraining:
    """Length and rates of the stage."""

    legs: tuple[Leg, ...] = (
        Leg(1200, 256, 8, 64),
        Leg(350, 128, 12, 144),
        Leg(250, 96, GRID, 192),
        Leg(80, 64, GRID, 576),
    )
    muon_lr: float = 0.02
    adam_lr: float = 2e-3
    check_every: int = 200
    check_scenes: int = 96
    save_every: int = 20

    @property
    def steps(self) -> int:
        return sum(leg.steps for leg in self.legs)

    def leg(self, step: int) -> Leg:
        """The leg that a step belongs to."""
        for leg in self.legs:
            if step < leg.steps:
                return leg
            step -= leg.steps
        raise IndexError(step)


@dataclass(frozen=True)
class Captioned(Dataset):
    """Batch ``step`` of images and captions: patches as bytes [B, P, 192], their numbers [B, P], ids [B, T]."""

    cfg: TowerTraining
    seed: int

    def __len__(self) -> int:
        return self.cfg.steps

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        leg, number = self.cfg.leg(step), step * max(leg.batch for leg in self.cfg.legs)
        patches, numbers, texts = list[Tensor](), list[Tensor](), list[str]()
        while len(texts) < leg.batch:
            scene = make_scene("train", number, seed=self.seed + 500)
            whole = patchify(torch.from_numpy(scene.pixels)[None])[0]
            for view, (window, seen) in enumerate(views(scene, leg, Draws(self.seed, 8, number))):
                rng = np.random.default_rng([self.seed, 2, number, view])
                index = window if leg.seen == len(window) else np.sort(rng.permutation(window)[: leg.seen])
                patches.append(whole[index])
                numbers.append(torch.from_numpy(index))
                texts.append(caption(seen, Draws(self.seed, 7, number, view)))
            number += 1
        patches, numbers, texts = patches[: leg.batch], numbers[: leg.batch], texts[: leg.batch]
        return torch.stack(patches), torch.stack(numbers), tokenize(texts)


def views(scene: Scene, leg: Leg, draws: Draws) -> Iterator[tuple[np.ndarray, Scene]]:
    """Patch numbers of a view, and the scene as far as it can be seen there: the scene, or close-ups of its things."""
    if leg.side == GRID:
        yield np.arange(PATCHES), scene
        return
    for _ in range(CLOSEUPS):
        near = draws.choice(scene.items).center
        x, y = (
            min(max(at // PATCH - draws.between(leg.side // 2 - 2, leg.side // 2 + 1), 0), GRID - leg.side)
            for at in near
        )
        window = (np.arange(y, y + leg.side)[:, None] * GRID + np.arange(x, x + leg.side)).ravel()
        frame = (x * PATCH, y * PATCH, (x + leg.side) * PATCH, (y + leg.side) * PATCH)
        items = tuple(item for item in scene.items if visible(item.box, frame) >= 0.6)
        if items:
            yield window, replace(scene, items=items, cut=True)


def visible(box: Box, frame: Box) -> float:
    """Share of a box that lies inside a frame."""
    width, height = (min(box[axis + 2], frame[axis + 2]) - max(box[axis], frame[axis]) for axis in (0, 1))
    return max(0, width) * max(0, height) / ((box[2] - box[0]) * (box[3] - box[1]))


def batches(data: Dataset, first: int, steps: int, workers: int) -> Iterator:
    """Batches ``first`` to ``steps`` in order; made by ``workers`` processes, or here."""
    order: Any = range(first, steps)
    pinned = torch.cuda.is_available()
    return iter(DataLoader(data, batch_size=None, sampler=order, num_workers=workers, pin_memory=pinned))


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
            row = {"loss": round(sum(window) / len(window), 4), "side": cfg.leg(step).side, "seen": index.shape[1]}
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
