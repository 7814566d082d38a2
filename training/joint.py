"""Stages 3 to 5, as LLaVA is made: the projector on captions, then projector and language model on questions.

The towers stay frozen. Every image of a batch keeps a number of visual tokens of its own, from 8 to all, in places
that chance decides: the question never chooses them, so that fewer tokens hurt by what is lost alone. The last stage
has more images with all of their tokens: without it, some kinds of question were answered better from fewer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from gridprune.tiny.draws import Draws
from training.embedded.questions import balanced, training
from training.embedded.scenes import GRID, Scene, make_scene

from .clip import CLIP, normalise, patchify
from .lm import LanguageModel, answer_loss, exact
from .optim import descend, make_optimizers, schedule
from .packing import Packed, pack
from .runs import Run
from .symbolic import SymbolicLM, by_kind, captions, tally
from .tower import batches
from .truth import facts

PATCHES = GRID * GRID
#: stages in order: the seed of their scenes and the stream of their draws
IMAGED = {"projector": (600, 4), "joint": (700, 3), "full": (800, 5)}
FEWEST = 8  # visual tokens of the shortest prompt


@dataclass(frozen=True)
class JointConfig:
    """Length and rates of a stage; ``all_tokens`` percent of the batches have an image with all visual tokens, and of
    their other images ``whole`` percent are such as well."""

    steps: int = 6000
    batch: int = 8
    questions: int = 20
    text_length: int = 224
    muon_lr: float = 0.006
    adam_lr: float = 5e-4
    probe_weight: float = 0.2
    all_tokens: int = 50
    whole: int = 0
    check_every: int = 500
    check_scenes: int = 60
    save_every: int = 50


@dataclass(frozen=True)
class ProjectorConfig(JointConfig):
    """The same numbers for the projector's stage."""

    steps: int = 1200
    adam_lr: float = 2e-3
    check_every: int = 400


@dataclass(frozen=True)
class FullConfig(JointConfig):
    """The same numbers for the last stage."""

    steps: int = 3000
    whole: int = 40


class Projector(nn.Module):
    """LLaVA's projector on standardised features; :meth:`folded` gives the plain two linear layers."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))
        self.linear_1, self.linear_2 = nn.Linear(width, out), nn.Linear(out, out)

    def forward(self, features: Tensor) -> Tensor:
        return self.linear_2(F.gelu(self.linear_1((features - self.mean) / self.std)))

    @torch.no_grad()
    def folded(self) -> tuple[nn.Linear, nn.Linear]:
        """The two layers on plain features."""
        first = nn.Linear(self.linear_1.in_features, self.linear_1.out_features)
        weight = self.linear_1.weight / self.std
        first.weight.copy_(weight)
        first.bias.copy_(self.linear_1.bias - weight @ self.mean)
        return first, self.linear_2

    @torch.no_grad()
    def standardise(self, features: Tensor, scale: float) -> None:
        """Take the statistics of features [N, D]; outputs start about as large as the symbols they stand for."""
        self.mean.copy_(features.mean(0))
        self.std.copy_(features.std(0) + 1e-4)
        self.linear_2.weight.mul_(scale / self(features).pow(2).mean().sqrt())


class JointModel(nn.Module):
    """Projector and language model (with the symbolic stage's heads)."""

    def __init__(self, projector: Projector, symbolic: SymbolicLM) -> None:
        super().__init__()
        self.projector, self.symbolic = projector, symbolic

    @property
    def lm(self) -> LanguageModel:
        return self.symbolic.lm


@torch.no_grad()
def features(clip: CLIP, pixels: Tensor) -> Tensor:
    """Penultimate states of all patches of uint8 images [B, S, S, 3], [B, 576, D]."""
    index = torch.arange(PATCHES, device=pixels.device).expand(len(pixels), -1)
    return clip.vision(normalise(patchify(pixels)), index)[:, 1:]


def lengths_of(batch: int, all_tokens: int, whole: int, rng: np.random.Generator) -> np.ndarray:
    """Numbers of visual tokens [B]: log-uniform from 8 to a bound of the batch; the first one reaches the bound, and
    ``whole`` percent of the others where the bound is all tokens."""
    bound = PATCHES if rng.random() * 100 < all_tokens else np.exp(rng.uniform(np.log(FEWEST), np.log(PATCHES)))
    some = np.exp(rng.uniform(np.log(FEWEST), np.log(max(FEWEST + 1, bound)), batch))
    some[0] = bound
    if bound == PATCHES and whole:
        some[rng.random(batch) * 100 < whole] = bound
    return np.clip(some.round(), FEWEST, PATCHES).astype(np.int64)


def places_of(n: int, rng: np.random.Generator) -> np.ndarray:
    """``n`` ascending patches: scattered, or in clumps."""
    order = rng.random((GRID, GRID))
    if rng.random() < 0.5:
        coarse = rng.random((rng.integers(2, 9),) * 2)
        rows = np.arange(GRID) * len(coarse) // GRID
        order = 0.25 * order + coarse[rows][:, rows]
    return np.sort(np.argsort(order.ravel(), kind="stable")[:n])


@dataclass(frozen=True)
class Imaged(Dataset):
    """Batch ``step``: pixels, kept patches [B, N], how many of them [B], packed text, facts, and places."""

    cfg: JointConfig
    seed: int
    stage: str

    def __len__(self) -> int:
        return self.cfg.steps

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor, Tensor, Packed, Tensor, Tensor]:
        captioned, (salt, stream) = self.stage == "projector", IMAGED[self.stage]
        cfg, rng, seed = self.cfg, np.random.default_rng([self.seed, stream, step]), self.seed + salt
        scenes = [make_scene("train", step * cfg.batch + i, seed=seed) for i in range(cfg.batch)]
        lengths = np.full(cfg.batch, PATCHES) if captioned else lengths_of(cfg.batch, cfg.all_tokens, cfg.whole, rng)
        index = np.zeros((cfg.batch, lengths.max()), np.int64)
        for row, n in zip(index, lengths, strict=True):
            row[:n] = places_of(n, rng)
        if captioned:
            asked = [captions(scene, Draws(seed, 8, scene.index), 4) for scene in scenes]
        else:
            asked = [training(scene, cfg.questions) for scene in scenes]
        known, places = (torch.stack(part) for part in zip(*map(facts, scenes), strict=True))
        pixels = torch.from_numpy(np.stack([scene.pixels for scene in scenes]))
        text = pack(asked, cfg.text_length)
        return pixels, torch.from_numpy(index), torch.from_numpy(lengths), text, known, places


def train_imaged(
    out: Path,
    cfg: JointConfig,
    clip: CLIP,
    model: JointModel,
    *,
    seed: int,
    name: str,
    device: str = "cpu",
    workers: int = 0,
    stop: int | None = None,
    report: Callable[[str], None] = print,
) -> JointModel:
    """Train (or resume) under ``out``: stage ``"projector"`` (captions, LM frozen), ``"joint"`` or ``"full"``."""
    only = name == "projector"
    clip.to(device).eval().requires_grad_(False)
    model.to(device).symbolic.requires_grad_(not only)
    optimizers = make_optimizers(model, muon_lr=cfg.muon_lr, adam_lr=cfg.adam_lr)
    run = Run(out, model, optimizers, every=cfg.save_every)
    data = Imaged(cfg, seed, name)
    first = run.resume()
    if only and first == 0:
        seen = features(clip, torch.cat([data[step][0] for step in range(4)]).to(device)).flatten(0, 1)
        model.projector.standardise(seen, scale=model.lm.embed.weight.pow(2).mean().sqrt().item())
    window: list[float] = []
    steps = range(first, cfg.steps if stop is None else stop)
    for step, batch in zip(steps, batches(data, first, cfg.steps, workers), strict=False):
        pixels, index, lengths, text, known, places = (part.to(device) for part in batch)
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            states = features(clip, pixels)
            states = states.gather(1, index[..., None].expand(-1, -1, states.shape[-1]))
            logits, after = model.lm.states(model.projector(states), text, lengths)
            loss = answer = answer_loss(logits, text.target)
            if not only:
                loss = answer + cfg.probe_weight * model.symbolic.probe_loss(after, text, known, places)
        descend(model, optimizers, loss, schedule(step, cfg.steps, cooldown=0.6))
        window.append(answer.item())
        if (step + 1) % 10 == 0:
            row = {"loss": round(sum(window) / len(window), 4)}
            run.log(step, row)
            report(f"{name} {step + 1}/{cfg.steps} {row} {run.seconds:.0f}s")
            window = []
        if (step + 1) % cfg.check_every == 0 or step + 1 == cfg.steps:
            scores = evaluate_joint(model, clip, range(cfg.check_scenes), device=device)
            run.log(step, {"accuracy": scores})
            report(f"  {scores}")
        run.maybe_save(step + 1, cfg.steps)
    return model


@torch.no_grad()
def evaluate_joint(
    model: JointModel,
    clip: CLIP,
    indices: Iterable[int],
    *,
    split: str = "dev",
    seed: int = 0,
    device: str = "cpu",
    keep: Callable[[Tensor, list[Scene]], Tensor] | None = None,
) -> dict[str, float]:
    """Accuracy by kind; ``keep`` takes images and scenes and gives kept patches [B, N] (None: all of them)."""
    hits: dict[str, list[bool]] = {}
    indices = list(indices)
    for start in range(0, len(indices), 10):
        scenes = [make_scene(split, i, seed=seed) for i in indices[start : start + 10]]
        asked = [balanced(scene) for scene in scenes]
        text = pack(asked, 256).to(device)
        pixels = torch.from_numpy(np.stack([scene.pixels for scene in scenes])).to(device)
        states = features(clip, pixels)
        if keep is not None:
            states = states.gather(1, keep(pixels, scenes)[..., None].expand(-1, -1, states.shape[-1]))
        tally(hits, asked, exact(model.lm(model.projector(states), text), text))
    return by_kind(hits)
