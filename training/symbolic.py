"""Stage 2: the language model learns to answer from symbols built from ground truth, without pixels.

This stands for the pretraining of a language model: what a question asks, how to count, compare and read in order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from gridprune.tiny.draws import Draws
from training.embedded.questions import KINDS, Question, balanced, training
from training.embedded.scenes import GRID, Scene, make_scene
from training.embedded.vocabulary import (
    ANSWER,
    BACKGROUNDS,
    COLORS,
    N_CLASSES,
    N_COLORS,
    N_LABELS,
    TOKEN_ID,
    label_word,
)

from .captions import caption
from .lm import LanguageModel, LMConfig, answer_loss, exact
from .optim import Lengths, descend, length_at, make_optimizers, schedule
from .packing import Packed, pack
from .runs import Run
from .tower import batches
from .truth import MOST, SUBJECTS, UNKNOWN, Cells, cells, facts

PATCHES = GRID * GRID
#: tokens of the markers of text: on a sign, on a page, in a title
MARKS = ("sign", "word", "title")


@dataclass(frozen=True)
class SymbolicConfig:
    """Length and rates of the stage; ``lengths`` as (part of the run, numbers of tokens to cycle through)."""

    steps: int = 6000
    batch: int = 16
    questions: int = 18
    text_length: int = 200
    muon_lr: float = 0.02
    adam_lr: float = 1.5e-3
    noise: float = 0.15
    probe_weight: float = 0.4
    lengths: Lengths = (
        (0.0, (48,)),
        (0.06, (48, 64)),
        (0.12, (64, 96)),
        (0.3, (64, 96, 128)),
        (0.6, (64, 128, 256)),
        (0.85, (64, 128, 256, 576)),
    )
    check_every: int = 250
    check_scenes: int = 60
    save_every: int = 50
    captions_every: int = 8  # one step in so many has captions for answers: the projector is to be taught by them


@dataclass
class CellBatch:
    """Ids of chosen patches, all [B, N], ``index`` (flat patch numbers) ascending; ``ground`` [B] is -1 for a page."""

    label: Tensor
    color: Tensor
    dot: Tensor
    center: Tensor
    title: Tensor
    index: Tensor
    ground: Tensor

    def to(self, device: str) -> CellBatch:
        return CellBatch(*(getattr(self, part.name).to(device) for part in fields(self)))


class Symbols(nn.Module):
    """Ground truth of patches as input embeddings: the words for what is there, and where it is."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.position = nn.Parameter(0.1 * sincos(width))  # [576, D]
        self.center = nn.Parameter(torch.randn(width) * 0.05)
        self.dot = nn.Parameter(torch.randn(width) * 0.05)
        ids = {
            "words": [TOKEN_ID[label_word(i)] for i in range(N_LABELS)],
            "colors": [0] + [TOKEN_ID[c] for c in COLORS],
            "grounds": [TOKEN_ID[b] for b in BACKGROUNDS] + [TOKEN_ID["page"]],  # -1 is the last
            "places": [TOKEN_ID[w] for w in ("top", "bottom", "left", "right", "center")],
            "marks": [TOKEN_ID[w] for w in MARKS],
        }
        for name, values in ids.items():
            self.register_buffer(name, torch.tensor(values), persistent=False)
        self.register_buffer("ramps", ramps(), persistent=False)  # [576, 5]

    def forward(self, embed: Tensor, batch: CellBatch) -> Tensor:
        """Embedding table [V, D] and patches [B, N] -> [B, N, D]."""
        sign, page, title = embed[self.marks]
        text = (batch.label > N_CLASSES)[..., None]
        on_page = (batch.ground < 0)[:, None, None]
        head = (batch.title > 0)[..., None]
        out = embed[self.words[batch.label]] + text * torch.where(on_page, torch.where(head, title, page), sign)
        out = out + (batch.color > 0)[..., None] * embed[self.colors[batch.color]]
        out = out + (batch.dot > 0)[..., None] * (embed[self.colors[batch.dot]] + self.dot)
        out = out + (batch.label == 0)[..., None] * embed[self.grounds[batch.ground]][:, None]
        where = self.ramps @ embed[self.places] + self.position
        return out + batch.center[..., None] * self.center + where[batch.index]


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
    """The language model with its symbols and the heads that only training uses."""

    def __init__(self, cfg: LMConfig) -> None:
        super().__init__()
        self.lm, self.symbols = LanguageModel(cfg), Symbols(cfg.width)
        self.parts = [MOST + 1, N_COLORS, N_COLORS, N_LABELS, 2]  # count, card, spot, partner, place
        self.probe = nn.Linear(cfg.width, sum(self.parts))
        self.answer_probe = nn.Linear(cfg.width, N_LABELS)
        self.register_buffer("subjects", SUBJECTS.clone(), persistent=False)

    def probe_loss(self, after: Sequence[Tensor], text: Packed, known: Tensor, places: Tensor) -> Tensor:
        """Facts at the words that name things, from the states after half of the blocks.

        ``known`` [B, S, 4] and ``places`` [B, S, 2] are :func:`training.truth.facts`. A named thing has to know how
        many of it there are, its card, its spot, what is on it or next to it, and where it is; the end of the
        question, the noun or word that is the answer. Without these, thousands of steps pass until words look at the
        patches that match them.
        """
        middle = after[(len(after) - 1) // 2]
        b, t = (self.subjects[text.ids] > 0).nonzero(as_tuple=True)
        subject = self.subjects[text.ids[b, t]]
        *logits, place = self.probe(middle[b, t]).float().split(self.parts, -1)
        loss = sum(_known_only(part, known[b, subject, i]) for i, part in enumerate(logits))
        target = places[b, subject]
        there = ~target.isnan().any(-1)
        loss = loss + 8.0 * F.mse_loss(place[there], target[there]) if there.any() else loss
        answer = self.subjects[text.target.clamp(min=0)]
        wanted = (text.ids == ANSWER) & (answer > 0) & (answer < N_LABELS)
        return loss + _known_only(self.answer_probe(middle[wanted]).float(), answer[wanted])


def _known_only(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy where the target is known."""
    known = target != UNKNOWN
    return F.cross_entropy(logits[known], target[known]) if known.any() else logits.sum() * 0


def choose_cells(scenes: Sequence[Scene], n: int, rng: np.random.Generator, corrupt: bool) -> CellBatch:
    """``n`` patches of each scene: nearly all centres of things first, then what is on things, then background.

    A part of what is left out, and noise on the labels, keep the model from relying on any one patch. With ``corrupt``
    every eighth scene has its patches chosen at random altogether.
    """
    rows = []
    for scene in scenes:
        truth: Cells = cells(scene)
        label, color, dot, center, title = (getattr(truth, part.name).ravel().copy() for part in fields(truth))
        order = rng.random(PATCHES)
        if not corrupt or rng.random() > 0.125:
            order[(center > 0) | (dot > 0)] -= 1.5 * (rng.random() < 0.95)
            order[label > 0] -= 0.6
        index = np.sort(np.argsort(order, kind="stable")[:n])
        if corrupt:
            u = rng.random((3, PATCHES))
            label[(u[0] < 0.02) & (label > 0)] = 0
            swap = (u[0] > 0.99) & (label > 0)
            label[swap] = rng.integers(1, N_LABELS, int(swap.sum()))
            color[u[1] < 0.02] = 0
            tint = (u[1] > 0.99) & (color > 0)
            color[tint] = rng.integers(1, N_COLORS, int(tint.sum()))
            center[u[2] < 0.05] = 0
        rows.append([part[index] for part in (label, color, dot, center, title)] + [index])
    ground = torch.tensor([scene.background for scene in scenes])
    return CellBatch(*(torch.from_numpy(np.stack(part)) for part in zip(*rows, strict=True)), ground)


def captions(scene: Scene, draws: Draws, n: int) -> list[Question]:
    """Several captions of a scene, as answers."""
    texts = [caption(scene, draws) for _ in range(n)]
    return [Question("caption", "caption", "Give a caption.", text, (), "") for text in texts]


@dataclass(frozen=True)
class Symbolised(Dataset):
    """Batch ``step``: patches, packed questions, facts and places of the scenes."""

    cfg: SymbolicConfig
    seed: int

    def __len__(self) -> int:
        return self.cfg.steps

    def __getitem__(self, step: int) -> tuple[CellBatch, Packed, Tensor, Tensor]:
        cfg, n = self.cfg, length_at(self.cfg.lengths, step, self.cfg.steps)
        size = cfg.batch if n <= 200 else max(1, cfg.batch // 2)
        scenes = [make_scene("train", step * cfg.batch + i, seed=self.seed) for i in range(size)]
        chosen = choose_cells(scenes, n, np.random.default_rng([self.seed, 1, step]), corrupt=True)
        if step % cfg.captions_every == cfg.captions_every - 1:
            asked = [captions(scene, Draws(self.seed, 8, scene.index), 4) for scene in scenes]
        else:
            asked = [training(scene, cfg.questions) for scene in scenes]
        text = pack(asked, cfg.text_length)
        known, places = (torch.stack(part) for part in zip(*map(facts, scenes), strict=True))
        return chosen, text, known, places


def train_symbolic(
    out: Path,
    cfg: SymbolicConfig,
    lm_cfg: LMConfig,
    *,
    seed: int,
    device: str = "cpu",
    workers: int = 0,
    stop: int | None = None,
    report: Callable[[str], None] = print,
) -> SymbolicLM:
    """Train (or resume) the stage under ``out``; ``stop`` ends early at a step, as a kill would."""
    torch.manual_seed(seed)
    model = SymbolicLM(lm_cfg).to(device)
    optimizers = make_optimizers(model, muon_lr=cfg.muon_lr, adam_lr=cfg.adam_lr)
    run = Run(out, model, optimizers, every=cfg.save_every)
    first = run.resume()
    window: list[tuple[float, float]] = []
    steps = range(first, cfg.steps if stop is None else stop)
    for step, batch in zip(steps, batches(Symbolised(cfg, seed), first, cfg.steps, workers), strict=False):
        chosen, text, known, places = (part.to(device) for part in batch)
        torch.manual_seed(seed * 1_000_003 + step)
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            tokens = model.symbols(model.lm.embed.weight, chosen)
            scale = tokens.detach().pow(2).mean().sqrt() * cfg.noise
            logits, after = model.lm.states(tokens + scale * torch.randn_like(tokens), text)
            answer, probe = answer_loss(logits, text.target), model.probe_loss(after, text, known, places)
        descend(model, optimizers, answer + cfg.probe_weight * probe, schedule(step, cfg.steps))
        window.append((answer.item(), probe.item()))
        if (step + 1) % 10 == 0:
            mean = [round(sum(column) / len(window), 4) for column in zip(*window, strict=True)]
            run.log(step, {"loss": mean[0], "probe": mean[1], "tokens": chosen.index.shape[1]})
            report(f"symbolic {step + 1}/{cfg.steps} loss {mean[0]:.4f} probe {mean[1]:.4f} {run.seconds:.0f}s")
            window = []
        if (step + 1) % cfg.check_every == 0 or step + 1 == cfg.steps:
            scores = {str(k): evaluate_symbolic(model, cfg.check_scenes, k, device) for k in (128, 576)}
            run.log(step, {"accuracy": scores})
            report(f"  {scores}")
        run.maybe_save(step + 1, cfg.steps)
    return model


@torch.no_grad()
def evaluate_symbolic(
    model: SymbolicLM, scenes: int, n: int, device: str = "cpu", split: str = "dev"
) -> dict[str, float]:
    """Accuracy by kind from clean symbols of ``n`` patches."""
    hits: dict[str, list[bool]] = {}
    rng = np.random.default_rng(5)
    for start in range(0, scenes, 10):
        batch = [make_scene(split, i) for i in range(start, min(start + 10, scenes))]
        asked = [balanced(scene) for scene in batch]
        text = pack(asked, 256).to(device)
        tokens = model.symbols(model.lm.embed.weight, choose_cells(batch, n, rng, corrupt=False).to(device))
        tally(hits, asked, exact(model.lm(tokens, text), text))
    return by_kind(hits)


def tally(hits: dict[str, list[bool]], asked: Sequence[Sequence], right: Tensor) -> None:
    """Note which questions [B, Q] were answered right, by kind."""
    for row, questions in zip(right.tolist(), asked, strict=True):
        for ok, question in zip(row, questions):
            hits.setdefault(question.kind, []).append(ok)


def by_kind(hits: dict[str, list[bool]]) -> dict[str, float]:
    """Accuracy by kind."""
    return {kind: round(sum(hits[kind]) / len(hits[kind]), 3) for kind in KINDS if kind in hits}
