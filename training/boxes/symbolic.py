"""Stage 1: the language model learns to answer from symbolic tokens built from ground truth, without pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gridprune.tiny.questions import KINDS, Question, balanced, training
from gridprune.tiny.scenes import GRID, Scene, make_scene
from gridprune.tiny.vocabulary import (
    ANSWER,
    CLASSES,
    COLORS,
    COUNTS,
    N_CLASSES,
    N_COLORS,
    N_LABELS,
    PLURALS,
    TOKEN_ID,
    VOCABULARY,
    label_word,
)

from ..optim import Lengths, descend, length_at, make_optimizers, schedule
from ..runs import Run
from .cells import cells
from .lm import LMConfig, TinyLM, answer_loss, exact
from .packing import Packed, pack


@dataclass(frozen=True)
class SymbolicConfig:
    steps: int = 4000
    batch: int = 16
    questions: int = 16
    text_length: int = 168
    muon_lr: float = 0.02
    adam_lr: float = 1.5e-3
    noise: float = 0.15
    probe_weight: float = 0.4
    hard_from: float = 0.45
    #: (fraction of the run at which it starts, token counts to cycle through)
    lengths: Lengths = (
        (0.0, (32,)),
        (0.06, (32, 48)),
        (0.12, (48, 64)),
        (0.25, (64, 96)),
        (0.6, (64, 96, 192)),
        (0.82, (64, 96, 192, 96, 576)),
    )


class Symbols(nn.Module):
    """Ground truth of patches as input embeddings: words of class, colour and place, and a centre marker."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.position = nn.Parameter(0.1 * sincos(width))  # [576, D]
        self.center = nn.Parameter(torch.randn(width) * 0.05)
        words = torch.tensor([TOKEN_ID[label_word(i)] for i in range(N_LABELS)])
        colors = torch.tensor([0] + [TOKEN_ID[c] for c in COLORS])
        self.register_buffer("words", words, persistent=False)
        self.register_buffer("colors", colors, persistent=False)
        self.register_buffer("ramps", ramps(), persistent=False)  # [576, 5]
        names = torch.tensor([TOKEN_ID[w] for w in ("top", "bottom", "left", "right", "center")])
        self.register_buffer("places", names, persistent=False)

    def where(self, embed: Tensor) -> Tensor:
        """Position code, [576, D]."""
        return self.ramps @ embed[self.places] + self.position

    def forward(self, embed: Tensor, label: Tensor, color: Tensor, center: Tensor, index: Tensor) -> Tensor:
        """All ids [B, N] (``index``: flat patch number) -> [B, N, D]."""
        sign = (label > N_CLASSES).unsqueeze(-1) * embed[TOKEN_ID["sign"]]
        tint = (color > 0).unsqueeze(-1) * embed[self.colors[color]]
        return embed[self.words[label]] + sign + tint + center.unsqueeze(-1) * self.center + self.where(embed)[index]


def sincos(width: int) -> Tensor:
    """2-D sine-cosine table over the patch grid, [576, width]."""
    quarter = width // 4
    speed = 1.0 / (20.0 ** (torch.arange(quarter) / quarter))
    y, x = torch.meshgrid(torch.arange(GRID), torch.arange(GRID), indexing="ij")
    parts = [f(axis.flatten()[:, None] * speed) for axis in (y, x) for f in (torch.sin, torch.cos)]
    return torch.cat(parts, 1)


def ramps() -> Tensor:
    """Weights of top, bottom, left, right, center by patch, [576, 5]: half a ramp, half a step at the thirds."""
    line = (torch.arange(GRID) + 0.5) / GRID
    y, x = torch.meshgrid(line, line, indexing="ij")
    parts = [0.5 * (1 - v) + (0.5 * (v < 1 / 3)) for v in (y, 1 - y, x, 1 - x)]
    middle = ((y - 0.5).abs() < 1 / 6) & ((x - 0.5).abs() < 1 / 6)
    return torch.stack([*parts, middle.float()], -1).flatten(0, 1)


class SymbolicLM(nn.Module):
    """The language model with its symbol embedding."""

    def __init__(self, cfg: LMConfig) -> None:
        super().__init__()
        self.lm, self.symbols = TinyLM(cfg), Symbols(cfg.width)
        self.probe = nn.Linear(cfg.width, len(COUNTS) + 2 + N_COLORS + 2)  # training only: count, colour, place
        self.answer_probe = nn.Linear(cfg.width, N_CLASSES + 1)  # training only: a noun that is the answer
        self.color_probe = nn.Linear(cfg.width, N_LABELS + 1)  # training only: what is on that colour
        self.region_probe = nn.Linear(cfg.width, N_CLASSES + 1)  # training only: what is in that region
        for probe in (self.color_probe, self.region_probe):
            nn.init.zeros_(probe.weight)
        nouns = torch.zeros(len(VOCABULARY), dtype=torch.long)
        for label, names in enumerate(zip(CLASSES, PLURALS, strict=True), start=1):
            nouns[[TOKEN_ID[name] for name in names]] = label
        self.register_buffer("nouns", nouns, persistent=False)

        tints = torch.zeros(len(VOCABULARY), dtype=torch.long)
        tints[[TOKEN_ID[name] for name in COLORS]] = torch.arange(1, N_COLORS)
        self.register_buffer("tints", tints, persistent=False)

    def probe_loss(self, after: Sequence[Tensor], text: Packed, scenes: Sequence[Scene]) -> Tensor:
        """Dense facts at the words that refer to the image, from the states ``after`` each block.

        After half of the blocks, a noun has to know how many of it there are and, for a single one, its colour and
        place; a colour, what is on it; the last word of a region, what is there; and the answer where it is a noun.
        Without these the language model takes thousands of steps to find that a
        word has to look at the patches that match it; with them, binding is a one-hop problem with a dense signal.
        """
        middle = after[(len(after) - 1) // 2]
        ids, answers = text.ids, self.nouns[text.target.clamp(min=0)]
        wanted = answers * (ids == ANSWER)
        loss = _classify(self.answer_probe(middle), wanted)
        place_word = torch.isin(ids, self.symbols.places)
        place_word[:, :-2] &= ids[:, 1:-1] == TOKEN_ID["?"]
        ahead = torch.zeros_like(ids)
        ahead[:, :-2] = wanted[:, 2:]
        loss = loss + _classify(self.region_probe(middle), ahead * place_word)
        b, t = (self.tints[ids] > 0).nonzero(as_tuple=True)
        facts = torch.stack([color_facts(scene) for scene in scenes])[b, self.tints[ids[b, t]]]  # [M, 2]
        guess = self.color_probe(middle[b, t])
        loss = loss + _classify(guess[:, : N_CLASSES + 1], facts[:, 0])
        loss = 0.5 * (loss + _classify(guess[:, N_CLASSES + 1 :], facts[:, 1]))
        b, t = (self.nouns[ids] > 0).nonzero(as_tuple=True)
        facts = torch.stack([noun_facts(scene) for scene in scenes])[b, self.nouns[ids[b, t]]]  # [M, 4]
        count, color, place = self.probe(middle[b, t]).split([len(COUNTS) + 2, N_COLORS, 2], -1)
        one = facts[:, 0] == 1
        loss = loss + F.cross_entropy(count, facts[:, 0].long())
        loss = loss + F.cross_entropy(color[one], facts[one, 1].long())
        return loss + 8.0 * F.mse_loss(place[one], facts[one, 2:])


def _classify(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy where the target is not 0 (unknown)."""
    known = target > 0
    return F.cross_entropy(logits[known], target[known]) if known.any() else logits.sum() * 0


def color_facts(scene: Scene) -> Tensor:
    """Per colour id: class of the only object on it, and the word (1..) of the sign of that colour; 0: unknown."""
    facts = torch.zeros(N_COLORS, 2, dtype=torch.long)
    for color in range(1, N_COLORS):
        labels = [item.label for item in scene.objects if item.color == color]
        if len(labels) == 1:
            facts[color, 0] = labels[0]
    for sign in scene.signs:
        facts[sign.color, 1] = sign.label - N_CLASSES
    return facts


def noun_facts(scene: Scene) -> Tensor:
    """Per class id: number of objects (at most one more than the largest answer), colour, y, x in [0, 1]."""
    facts = torch.zeros(N_CLASSES + 1, 4)
    for item in scene.objects:
        x, y = item.center
        facts[item.label, 0] = min(facts[item.label, 0] + 1, len(COUNTS) + 1)
        facts[item.label, 1:] = torch.tensor([item.color, y / scene.form.side, x / scene.form.side])
    return facts


@dataclass
class CellBatch:
    """Ids of chosen patches, all [B, N] and ascending in ``index``."""

    label: Tensor
    color: Tensor
    center: Tensor
    index: Tensor


def choose_cells(scenes: Sequence[Scene], n: int, rng: np.random.Generator, corrupt: bool) -> CellBatch:
    """``n`` patches of each scene: nearly all occupied ones first, then background; with label noise."""
    rows = []
    for scene in scenes:
        truth = cells(scene)
        label, color, center = truth.label.ravel().copy(), truth.color.ravel().copy(), truth.center.ravel().copy()
        order = rng.random(GRID * GRID)
        order[(label > 0) & (order < 0.92)] -= 1
        order[(center > 0) & (order < 0)] -= 1
        index = np.sort(np.argsort(order, kind="stable")[:n])
        if corrupt:
            u = rng.random((3, GRID * GRID))
            wrong = u[0] < 0.02
            label[wrong & (label > 0)] = 0
            swap = (u[0] > 0.99) & (label > 0)
            label[swap] = rng.integers(1, N_LABELS, int(swap.sum()))
            color[u[1] < 0.02] = 0
            tint = (u[1] > 0.99) & (color > 0)
            color[tint] = rng.integers(1, N_COLORS, int(tint.sum()))
            center[(u[2] < 0.02)] = 0
        rows.append((label[index], color[index], center[index], index))
    return CellBatch(*(torch.from_numpy(np.stack(part)) for part in zip(*rows, strict=True)))


def train_symbolic(
    out: Path,
    cfg: SymbolicConfig,
    lm_cfg: LMConfig,
    *,
    seed: int,
    stop: int | None = None,
    report: Callable[[str], None] = print,
) -> SymbolicLM:
    """Train (or resume) the stage under ``out``; ``stop`` ends early at a step, as a kill would."""
    torch.manual_seed(seed)
    model = SymbolicLM(lm_cfg)
    optimizers = make_optimizers(model, muon_lr=cfg.muon_lr, adam_lr=cfg.adam_lr)
    run = Run(out, model, optimizers, every=200)
    window: list[tuple[float, float]] = []
    for step in range(run.resume(), cfg.steps):
        if step == stop:
            break
        n = length_at(cfg.lengths, step, cfg.steps)
        batch = cfg.batch if n <= 200 else max(1, cfg.batch // 2)
        rng = np.random.default_rng([seed, 1, step])
        torch.manual_seed(seed * 1_000_003 + step)
        scenes = [make_scene("train", step * cfg.batch + i, seed=seed) for i in range(batch)]
        chosen = choose_cells(scenes, n, rng, corrupt=True)
        text = pack(
            [
                training(scene, cfg.questions, phase="hard" if step >= cfg.hard_from * cfg.steps else "mixed")
                for scene in scenes
            ],
            cfg.text_length,
        )
        tokens = model.symbols(model.lm.embed.weight, chosen.label, chosen.color, chosen.center, chosen.index)
        scale = tokens.detach().pow(2).mean().sqrt() * cfg.noise
        logits, after = model.lm.states(tokens + scale * torch.randn_like(tokens), text)
        answer = answer_loss(logits, text.target)
        probe = model.probe_loss(after, text, scenes)
        loss = answer + cfg.probe_weight * probe
        descend(model, optimizers, loss, schedule(step, cfg.steps))
        window.append((answer.item(), probe.item()))
        if (step + 1) % 50 == 0:
            mean = [sum(column) / len(window) for column in zip(*window, strict=True)]
            run.log(step, {"loss": mean[0], "probe": mean[1], "tokens": n})
            report(f"symbolic {step + 1}/{cfg.steps} loss {mean[0]:.4f} probe {mean[1]:.4f} {run.seconds:.0f}s")
            window = []
        if (step + 1) % 400 == 0 or step + 1 == cfg.steps:
            scores = {str(k): evaluate_symbolic(model, 48, k) for k in (96, 576)}
            run.log(step, {"accuracy": scores})
            report(f"  {scores}")
        run.maybe_save(step + 1, cfg.steps)
    return model


@torch.no_grad()
def evaluate_symbolic(model: SymbolicLM, scenes: int, n: int, split: str = "dev") -> dict[str, float]:
    """Accuracy by family from clean symbols of ``n`` patches."""
    hits: dict[str, list[bool]] = {}
    rng = np.random.default_rng(5)
    for start in range(0, scenes, 8):
        batch = [make_scene(split, i) for i in range(start, min(start + 8, scenes))]
        chosen = choose_cells(batch, n, rng, corrupt=False)
        asked: list[list[Question]] = [balanced(scene) for scene in batch]
        text = pack(asked, 256)
        tokens = model.symbols(model.lm.embed.weight, chosen.label, chosen.color, chosen.center, chosen.index)
        right = exact(model.lm(tokens, text), text)
        for b, questions in enumerate(asked):
            for q, question in enumerate(questions):
                hits.setdefault(question.kind, []).append(bool(right[b, q]))
    return {family: round(sum(hits[family]) / len(hits[family]), 3) for family in KINDS}
