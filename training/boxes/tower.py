"""Stage 2: the vision tower and the text tower, trained from scratch with dense training-only heads.

Box supervision enters here: patch classes, card colours, centres, and the patch-question loss on exactly
the path the relevance cue takes. [CLS] is shaped by captions and by what is in the scene as a bag; its
attention is never supervised.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gridprune.tiny.questions import balanced, training
from gridprune.tiny.scenes import GRID, Scene, make_scene
from gridprune.tiny.vocabulary import BOS, COLORS, EOS, N_CLASSES, N_COLORS, N_LABELS, PAD, encode, label_word

from ..optim import descend, make_optimizers, schedule
from ..runs import Run
from .cells import cells, evidence_mask
from .clip import TinyCLIP, TowerConfig, patchify

PATCHES = GRID * GRID
PAIRS = N_CLASSES * N_COLORS


@dataclass(frozen=True)
class TowerTraining:
    steps: int = 2600
    batch: int = 16
    full_batch: int = 8
    questions: int = 8
    patches: int = 160  # of 576 in most steps: all occupied ones, some around them, some background
    full_every: int = 6
    full_from: float = 0.76
    muon_lr: float = 0.012
    adam_lr: float = 2e-3


class TowerModel(nn.Module):
    """The towers with their training-only heads on the penultimate states."""

    def __init__(self, cfg: TowerConfig) -> None:
        super().__init__()
        self.clip = TinyCLIP(cfg)
        d = cfg.width
        self.dense = nn.Linear(d, N_LABELS + N_COLORS + 1 + 2 + 2)  # label, colour, centre, offset, place
        self.bag = nn.Linear(d, N_LABELS - 1 + PAIRS)
        self.relevance_scale = nn.Parameter(torch.tensor(2.3))
        self.relevance_bias = nn.Parameter(torch.tensor(-3.0))
        nn.init.zeros_(self.bag.weight)
        nn.init.constant_(self.bag.bias, -2.5)

    def heads(self, states: Tensor) -> tuple[Tensor, ...]:
        return self.dense(states).split([N_LABELS, N_COLORS, 1, 2, 2], -1)


def caption(scene: Scene) -> str:
    """Everything in the scene, as a sentence."""
    parts = []
    for item in scene.items:
        color = COLORS[item.color - 1] + " " if item.color else ""
        parts.append(f"{color}{'sign ' if item.is_sign else ''}{label_word(item.label)}")
    return " and ".join(parts)


def tokenize(texts: Sequence[str], limit: int) -> Tensor:
    """Ids with <s> and </s>, padded, [B, T]."""
    rows = [[BOS, *encode(text)[: limit - 2], EOS] for text in texts]
    out = torch.full((len(rows), max(map(len, rows))), PAD)
    for i, row in enumerate(rows):
        out[i, : len(row)] = torch.tensor(row)
    return out


@dataclass
class TowerBatch:
    """Rendered scenes with truth on the chosen patches; P of them per image, Q questions."""

    patches: Tensor  # [B, P, 192]
    index: Tensor  # [B, P]
    label: Tensor
    color: Tensor
    center: Tensor
    offset: Tensor  # [B, P, 2]
    questions: Tensor  # [B * Q, T]
    evidence: Tensor  # [B, Q, P]
    captions: Tensor  # [B, T]
    bag: Tensor  # [B, N_LABELS - 1 + PAIRS]


def choose(occupied: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Flat numbers of ``n`` patches, ascending: occupied first, then half around them, half anywhere."""
    if n >= PATCHES:
        return np.arange(PATCHES)
    ring = np.zeros((GRID + 2, GRID + 2), bool)
    for dy in range(3):
        for dx in range(3):
            ring[dy : dy + GRID, dx : dx + GRID] |= occupied
    order = rng.random((GRID, GRID))
    order = np.where(
        occupied, order - 2 * (rng.random((GRID, GRID)) < 0.95), np.where(ring[1:-1, 1:-1], order * 0.8, order)
    )
    return np.sort(np.argsort(order.ravel(), kind="stable")[:n])


def bag_of(scene: Scene) -> np.ndarray:
    """Which labels, and which (class, colour) pairs, are in the scene."""
    out = np.zeros(N_LABELS - 1 + PAIRS, np.float32)
    for item in scene.items:
        out[item.label - 1] = 1
        if not item.is_sign:
            out[N_LABELS - 1 + (item.label - 1) * N_COLORS + item.color] = 1
    return out


def make_batch(
    scenes: Sequence[Scene], n: int, questions: int, rng: np.random.Generator, text_length: int
) -> TowerBatch:
    rows, texts, captions, bags = [], [], [], []
    for scene in scenes:
        truth = cells(scene)
        index = choose((truth.label > 0) | (truth.color > 0), n, rng)
        asked = training(scene, questions) if scene.split == "train" else balanced(scene)[:questions]
        masks = np.stack([evidence_mask(q.boxes).ravel()[index] for q in asked])
        rows.append(
            (
                index,
                truth.label.ravel()[index],
                truth.color.ravel()[index],
                truth.center.ravel()[index].astype(np.float32),
                truth.offset.reshape(-1, 2)[index],
                masks,
            )
        )
        texts += [q.text for q in asked]
        captions.append(caption(scene))
        bags.append(bag_of(scene))
    index, label, color, center, offset, masks = (torch.from_numpy(np.stack(p)) for p in zip(*rows, strict=True))
    pixels = torch.from_numpy(np.stack([scene.pixels for scene in scenes]))
    patches = patchify(pixels)
    if n < PATCHES:
        patches = patches.gather(1, index[..., None].expand(-1, -1, patches.shape[-1]))
    ids, names = tokenize(texts, text_length), tokenize(captions, text_length)
    bag = torch.from_numpy(np.stack(bags))
    return TowerBatch(patches, index, label, color, center, offset, ids, masks, names, bag)


def relevance_loss(logits: Tensor, evidence: Tensor) -> Tensor:
    """Sigmoid loss of patches against questions [B, Q, P], per question scaled by its evidence."""
    positive = evidence.float()
    loss = F.softplus(-logits) * positive + F.softplus(logits) * (1 - positive)
    return (loss.sum(-1) / (positive.sum(-1) + 4)).mean()


def losses(model: TowerModel, batch: TowerBatch) -> dict[str, Tensor]:
    """All terms, already weighted."""
    clip = model.clip
    states = clip.vision(batch.patches, batch.index)
    label, color, center, offset, place = model.heads(states[:, 1:])
    target = torch.stack([batch.index // GRID, batch.index % GRID], -1).float().add(0.5) / GRID
    on = (batch.label > 0).float()[..., None]
    text = clip.text_embeds(batch.questions).view(len(states), -1, clip.cfg.projection)  # [B, Q, D]
    cosine = text @ clip.project(states[:, 1:]).mT
    names, images = clip.text_embeds(batch.captions), clip.image_embeds(states)
    pairs = clip.logit_scale.exp().clamp(max=100) * images @ names.mT
    same = torch.arange(len(pairs))
    bag = F.binary_cross_entropy_with_logits(model.bag(states[:, 0]), batch.bag, reduction="none")
    return {
        "label": F.cross_entropy(label.flatten(0, 1), batch.label.flatten()),
        "color": 0.5 * F.cross_entropy(color.flatten(0, 1), batch.color.flatten()),
        "center": F.binary_cross_entropy_with_logits(center[..., 0], batch.center),
        "offset": 0.2 * ((offset - batch.offset).abs() * on).sum() / on.sum(),
        "place": 2.0 * F.mse_loss(place, target) + 0.1 * F.l1_loss(place, target),
        "relevance": 0.4 * relevance_loss(model.relevance_scale.exp() * cosine + model.relevance_bias, batch.evidence),
        "bag": 2.0 * bag[:, : N_LABELS - 1].mean() + 3.0 * bag[:, N_LABELS - 1 :].mean(),
        "caption": 0.1 * (F.cross_entropy(pairs, same) + F.cross_entropy(pairs.T, same)),
    }


def train_tower(
    out: Path,
    cfg: TowerTraining,
    tower: TowerConfig,
    *,
    seed: int,
    stop: int | None = None,
    report: Callable[[str], None] = print,
) -> TowerModel:
    """Train (or resume) the stage under ``out``; ``stop`` ends early at a step, as a kill would."""
    torch.manual_seed(seed)
    model = TowerModel(tower)
    optimizers = make_optimizers(model, muon_lr=cfg.muon_lr, adam_lr=cfg.adam_lr)
    run = Run(out, model, optimizers, every=200)
    sums: dict[str, float] = {}
    for step in range(run.resume(), cfg.steps):
        if step == stop:
            break
        full = step >= cfg.full_from * cfg.steps or step % cfg.full_every == cfg.full_every - 1
        size = cfg.full_batch if full else cfg.batch
        rng = np.random.default_rng([seed, 2, step])
        scenes = [make_scene("train", step * cfg.batch + i, seed=seed + 500) for i in range(size)]
        batch = make_batch(scenes, PATCHES if full else cfg.patches, cfg.questions, rng, tower.text_length)
        terms = losses(model, batch)
        loss = torch.stack(list(terms.values())).sum()
        descend(model, optimizers, loss, schedule(step, cfg.steps, warmup=100), clip=2.0)
        for name, value in terms.items():
            sums[name] = sums.get(name, 0.0) + value.item()
        if (step + 1) % 50 == 0:
            row = {name: round(value / 50, 4) for name, value in sums.items()}
            run.log(step, row)
            report(f"tower {step + 1}/{cfg.steps} {row} {run.seconds:.0f}s")
            sums = {}
        if (step + 1) % 300 == 0 or step + 1 == cfg.steps:
            scores = evaluate_tower(model, 24)
            run.log(step, {"scores": scores})
            report(f"  {scores}")
        run.maybe_save(step + 1, cfg.steps)
    return model


@torch.no_grad()
def evaluate_tower(model: TowerModel, scenes: int, split: str = "dev", keep: int = 64) -> dict[str, float]:
    """Patch accuracy by kind, place error, and evidence recall of both cues at ``keep`` of 576."""
    rng = np.random.default_rng(0)
    sums: dict[str, list[float]] = {}

    def add(name: str, values: Tensor) -> None:
        sums.setdefault(name, []).extend(values.float().flatten().tolist())

    for start in range(0, scenes, 8):
        batch = make_batch([make_scene(split, i) for i in range(start, start + 8)], PATCHES, 9, rng, 77)
        states = model.clip.vision(batch.patches, batch.index)
        label, color, center, _, place = model.heads(states[:, 1:])
        right = label.argmax(-1) == batch.label
        kinds = {"object": (batch.label > 0) & (batch.label <= N_CLASSES), "sign": batch.label > N_CLASSES}
        kinds["background"] = batch.label == 0
        for name, mask in kinds.items():
            add(name, right[mask])
        add("middle", right[batch.center > 0])
        add("color", (color.argmax(-1) == batch.color)[batch.color > 0])
        add("center", ((center[..., 0] > 0) == (batch.center > 0))[batch.label > 0])
        target = torch.stack([batch.index // GRID, batch.index % GRID], -1).float().add(0.5) / GRID
        add("place_error", (place - target).abs() * GRID)
        text = model.clip.text_embeds(batch.questions).view(len(states), -1, states.shape[-1])
        cosine = text @ model.clip.project(states[:, 1:]).mT
        saliency = model.clip.vision.saliency(batch.patches, batch.index)[:, None].expand_as(cosine)
        some = batch.evidence.any(-1)
        for name, score in (("recall_relevance", cosine), ("recall_cls", saliency)):
            kept = torch.zeros_like(batch.evidence).scatter(-1, score.topk(keep).indices, True)
            recall = (kept & batch.evidence).sum(-1) / batch.evidence.sum(-1).clamp(min=1)
            add(name, recall[some])
    return {name: round(sum(values) / len(values), 3) for name, values in sums.items()}
