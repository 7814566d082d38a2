"""Stages 3 and 4: the projector by regression onto symbols, then projector and language model together.

The towers stay frozen. Visual tokens are 64 to 576 patches of a scene, so that a pruned prompt is in
distribution; which patches are kept in training never depends on the question.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from gridprune.tiny.questions import KINDS, balanced, training
from gridprune.tiny.scenes import GRID, Scene, make_scene

from ..optim import Lengths, descend, length_at, make_optimizers, schedule
from ..runs import Run
from .cells import cells
from .clip import TinyCLIP, patchify
from .lm import TinyLM, answer_loss, exact
from .packing import pack
from .symbolic import SymbolicLM

PATCHES = GRID * GRID


@dataclass(frozen=True)
class JointConfig:
    regression_scenes: int = 192
    regression_steps: int = 300
    steps: int = 2100
    batch: int = 4  # per process
    questions: int = 26
    text_length: int = 300
    muon_lr: float = 0.005
    adam_lr: float = 5e-4
    probe_weight: float = 0.2
    #: part of the run after which most questions are counts and regions, learned last
    slow_from: float = 0.5
    #: token counts of successive steps; at the end all tokens, among which things are harder to find
    lengths: Lengths = ((0.0, (576, 96, 576, 192, 576, 64, 128, 256)), (0.85, (576,)))
    check_scenes: int = 32


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
        first = nn.Linear(self.linear_1.in_features, self.linear_1.out_features)
        weight = self.linear_1.weight / self.std
        first.weight.copy_(weight)
        first.bias.copy_(self.linear_1.bias - weight @ self.mean)
        return first, self.linear_2


@torch.no_grad()
def features(clip: TinyCLIP, scenes: list[Scene]) -> Tensor:
    """Penultimate patch states, [B, 576, D]."""
    pixels = torch.from_numpy(np.stack([scene.pixels for scene in scenes]))
    index = torch.arange(PATCHES).expand(len(scenes), -1)
    return clip.vision(patchify(pixels), index)[:, 1:]


def fit_projector(
    projector: Projector,
    clip: TinyCLIP,
    symbolic: SymbolicLM,
    cfg: JointConfig,
    *,
    seed: int,
    report: Callable[[str], None],
) -> None:
    """Regress projected features onto the symbols of the same patches."""
    torch.manual_seed(seed)
    inputs, outputs, weights = [], [], []
    index = torch.arange(PATCHES)[None]
    for start in range(0, cfg.regression_scenes, 8):
        scenes = [make_scene("train", 9_000_000 + start + i, seed=seed + 600) for i in range(8)]
        inputs.append(features(clip, scenes).flatten(0, 1))
        for scene in scenes:
            truth = cells(scene)
            label, color, center = (
                torch.from_numpy(a.reshape(1, -1)) for a in (truth.label, truth.color, truth.center)
            )
            with torch.no_grad():
                outputs.append(symbolic.symbols(symbolic.lm.embed.weight, label, color, center, index)[0])
            weights.append(1 + 2.0 * (label[0] > 0) + 3.0 * (center[0] > 0))
    x, y, w = torch.cat(inputs), torch.cat(outputs), torch.cat(weights)
    projector.mean.copy_(x.mean(0))
    projector.std.copy_(x.std(0) + 1e-4)
    optimizer = torch.optim.AdamW(projector.parameters(), 3e-3, weight_decay=0.0)
    scale = y.pow(2).mean()
    for step in range(cfg.regression_steps):
        rows = torch.randint(len(x), (2048,))
        rows = torch.cat([rows, torch.multinomial(w - 1 + 1e-6, 1024, replacement=True)])
        loss = ((projector(x[rows]) - y[rows]).pow(2)).mean() / scale
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * schedule(step, cfg.regression_steps, cooldown=0.6)
        optimizer.step()
        if (step + 1) % 200 == 0:
            report(f"projector {step + 1} relative error {loss.item():.4f}")


def choose_subset(scene: Scene, n: int, rng: np.random.Generator) -> np.ndarray:
    """``n`` ascending patches, between uniformly random and occupied-first."""
    if n >= PATCHES:
        return np.arange(PATCHES)
    order = rng.random(PATCHES)
    if rng.random() < 0.75:
        truth = cells(scene)
        order -= rng.uniform(0.3, 1.0) * (truth.label.ravel() > 0)
    return np.sort(np.argsort(order, kind="stable")[:n])


class JointModel(nn.Module):
    """What the joint stage trains: projector and language model (with the symbolic stage's probes)."""

    def __init__(self, projector: Projector, symbolic: SymbolicLM) -> None:
        super().__init__()
        self.projector, self.symbolic = projector, symbolic

    @property
    def lm(self) -> TinyLM:
        return self.symbolic.lm


def average_gradients(module: nn.Module, world: int) -> None:
    """Mean gradient over processes in one flat all-reduce; nothing to do for a single one."""
    if world == 1:
        return
    grads = [p.grad for p in module.parameters() if p.grad is not None]
    flat = torch.cat([g.flatten() for g in grads])
    dist.all_reduce(flat)
    flat /= world
    for grad, part in zip(grads, flat.split([g.numel() for g in grads]), strict=True):
        grad.copy_(part.view_as(grad))


def train_joint(
    out: Path,
    cfg: JointConfig,
    clip: TinyCLIP,
    symbolic: SymbolicLM,
    *,
    seed: int,
    rank: int = 0,
    world: int = 1,
    stop: int | None = None,
    report: Callable[[str], None] = print,
) -> JointModel:
    """Train (or resume) under ``out``; with ``world`` > 1 every process of an initialised group calls this."""
    clip.eval().requires_grad_(False)
    projector = Projector(clip.cfg.width, symbolic.lm.cfg.width)
    model = JointModel(projector, symbolic)
    optimizers = make_optimizers(model, muon_lr=cfg.muon_lr, adam_lr=cfg.adam_lr)
    run = Run(out, model, optimizers, every=100)
    first = run.resume()
    if first == 0:
        fit_projector(projector, clip, symbolic, cfg, seed=seed, report=report)
        if rank == 0:
            report(f"untouched: {evaluate_joint(model, clip, cfg.check_scenes)}")
    window: list[float] = []
    for step in range(first, cfg.steps):
        if step == stop:
            break
        n = length_at(cfg.lengths, step, cfg.steps)
        start = (step * world + rank) * cfg.batch
        scenes = [make_scene("train", start + i, seed=seed + 700) for i in range(cfg.batch)]
        rng = np.random.default_rng([seed, 3, step, rank])
        index = torch.from_numpy(np.stack([choose_subset(scene, n, rng) for scene in scenes]))
        states = features(clip, scenes)
        states = states.gather(1, index[..., None].expand(-1, -1, states.shape[-1]))
        phase = "last" if step < cfg.slow_from * cfg.steps else "slow"
        text = pack([training(scene, cfg.questions, phase=phase) for scene in scenes], cfg.text_length)
        logits, after = model.lm.states(model.projector(states), text)
        answer = answer_loss(logits, text.target)
        loss = answer + cfg.probe_weight * symbolic.probe_loss(after, text, scenes)
        combine = partial(average_gradients, world=world)
        descend(model, optimizers, loss, schedule(step, cfg.steps, cooldown=0.9), combine=combine)
        window.append(answer.item())
        if rank == 0:
            if (step + 1) % 50 == 0:
                run.log(step, {"loss": sum(window) / len(window)})
                report(f"joint {step + 1}/{cfg.steps} loss {sum(window) / len(window):.4f} {run.seconds:.0f}s")
                window = []
            if (step + 1) % 500 == 0 or step + 1 == cfg.steps:
                scores = evaluate_joint(model, clip, cfg.check_scenes)
                run.log(step, {"accuracy": scores})
                report(f"  {scores}")
            run.maybe_save(step + 1, cfg.steps)
    return model


@torch.no_grad()
def evaluate_joint(model: JointModel, clip: TinyCLIP, scenes: int, split: str = "dev") -> dict[str, float]:
    """Accuracy by family on all 576 tokens."""
    hits: dict[str, list[bool]] = {}
    for start in range(0, scenes, 8):
        batch = [make_scene(split, i) for i in range(start, min(start + 8, scenes))]
        asked = [balanced(scene) for scene in batch]
        text = pack(asked, 256)
        right = exact(model.lm(model.projector(features(clip, batch)), text), text)
        for b, questions in enumerate(asked):
            for q, question in enumerate(questions):
                hits.setdefault(question.kind, []).append(bool(right[b, q]))
    return {family: round(sum(hits[family]) / len(hits[family]), 3) for family in KINDS}
