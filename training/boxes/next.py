"""Stage 5: projector and language model in LLaVA-NeXT's form, from the joint stage's weights.

The tower stays frozen and sees each view alone, so nothing in a patch says which tile it is from, and this language
model did not learn to tell tiles apart from the order of the tokens: scenes of this form ask nothing about places.
Prompts are those of the pruned stock model: tokens in their order, counted without gaps, a newline where a row keeps a
token. Which tokens are kept in training never depends on the question.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from gridprune.tiny.forms import NEXT
from gridprune.tiny.questions import KINDS, balanced, training
from gridprune.tiny.scenes import Scene, make_scene

from ..optim import Lengths, descend, length_at, make_optimizers, schedule
from ..runs import Run
from .clip import TinyCLIP
from .joint import JointModel
from .lm import answer_loss, exact
from .packing import pack
from .views import count, occupied, view_features, with_newlines

TOKENS = count(NEXT)


@dataclass(frozen=True)
class NextConfig:
    steps: int = 1800
    batch: int = 3
    #: scenes of a step that takes all tokens
    full_batch: int = 1
    questions: int = 26
    text_length: int = 300
    muon_lr: float = 0.004
    adam_lr: float = 4e-4
    probe_weight: float = 0.1
    #: (fraction of the run at which it starts, token counts to cycle through): all tokens are learned last
    lengths: Lengths = (
        (0.0, (320, 640, 160, 320, 2880, 640, 320, 160, 640, 320)),
        (0.7, (2880, 320, 2880, 640, 2880, 160)),
    )
    #: scenes to draw a batch from; the window moves by one a step, so that a scene's features serve ``batch`` steps
    window: int = 256
    check_scenes: int = 24


class NextModel(nn.Module):
    """The joint stage's model and the newline token."""

    def __init__(self, joint: JointModel) -> None:
        super().__init__()
        self.joint = joint
        width = joint.lm.cfg.width
        self.newline = nn.Parameter(0.3 * torch.randn(width))

    def prompt(self, states: Sequence[Tensor], index: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        """Visual tokens and newlines [B, P, D], padded on the right, and their lengths [B].

        Args:
            states: per scene the tower's states in the order of the visual tokens, [N, D].
            index: per scene the kept tokens, ascending.
        """
        rows = [torch.from_numpy(with_newlines(kept, NEXT)) for kept in index]
        number = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1)
        patches = torch.stack([part[row.clamp(min=0)] for part, row in zip(states, number, strict=True)])
        tokens = torch.where(number[..., None] < 0, self.newline, self.joint.projector(patches))
        return tokens, torch.tensor([len(row) for row in rows])


def choose_tokens(scene: Scene, n: int, rng: np.random.Generator) -> np.ndarray:
    """``n`` ascending visual tokens, between uniformly random and occupied-first; overview and tiles in any ratio."""
    if n >= TOKENS:
        return np.arange(TOKENS)
    order = rng.random(TOKENS)
    if rng.random() < 0.8:
        order -= rng.uniform(0.3, 1.0) * occupied(scene)
    order[: TOKENS // 5] -= rng.choice((0.0, 0.0, 0.15, 0.4))
    return np.sort(np.argsort(order, kind="stable")[:n])


def train_next(
    out: Path,
    cfg: NextConfig,
    clip: TinyCLIP,
    joint: JointModel,
    *,
    seed: int,
    stop: int | None = None,
    report: Callable[[str], None] = print,
) -> NextModel:
    """Train (or resume) under ``out``; ``joint`` holds the weights to start from."""
    torch.manual_seed(seed)
    clip.eval().requires_grad_(False)
    model = NextModel(joint)
    optimizers = make_optimizers(model, muon_lr=cfg.muon_lr, adam_lr=cfg.adam_lr)
    run = Run(out, model, optimizers, every=50)

    @lru_cache(maxsize=cfg.window)
    def looked_at(number: int) -> tuple[Scene, Tensor]:
        scene = make_scene("train", number, seed=seed + 800, form=NEXT)
        return scene, view_features(clip, scene).half()

    window: list[float] = []
    for step in range(run.resume(), cfg.steps):
        if step == stop:
            break
        n = length_at(cfg.lengths, step, cfg.steps)
        rng = np.random.default_rng([seed, 4, step])
        batch = cfg.full_batch if n >= TOKENS else cfg.batch
        numbers = step + rng.choice(cfg.window, batch, replace=False)
        scenes, states = zip(*map(looked_at, numbers.tolist()), strict=True)
        tokens, lengths = model.prompt(
            [part.float() for part in states], [choose_tokens(scene, n, rng) for scene in scenes]
        )
        text = pack([training(scene, cfg.questions, phase="detail") for scene in scenes], cfg.text_length)
        logits, after = joint.lm.states(tokens, text, lengths)
        answer = answer_loss(logits, text.target)
        loss = answer + cfg.probe_weight * joint.symbolic.probe_loss(after, text, scenes)
        descend(model, optimizers, loss, schedule(step, cfg.steps, cooldown=0.9))
        window.append(answer.item())
        if (step + 1) % 20 == 0:
            run.log(step, {"loss": sum(window) / len(window)})
            report(f"next {step + 1}/{cfg.steps} loss {sum(window) / len(window):.4f} {run.seconds:.0f}s")
            window = []
        if (step + 1) % 500 == 0 or step + 1 == cfg.steps:
            scores = {str(keep): evaluate_next(model, clip, cfg.check_scenes, keep=keep) for keep in (320, TOKENS)}
            run.log(step, {"accuracy": scores})
            report(f"  {scores}")
        run.maybe_save(step + 1, cfg.steps)
    return model


@torch.no_grad()
def evaluate_next(
    model: NextModel, clip: TinyCLIP, scenes: int, split: str = "dev", keep: int = TOKENS
) -> dict[str, float]:
    """Accuracy by family on all 2880 tokens, or on ``keep`` of them chosen without a look at the question."""
    hits: dict[str, list[bool]] = {}
    rng = np.random.default_rng(6)
    for number in range(scenes):
        scene = make_scene(split, number, form=NEXT)
        asked = balanced(scene)
        text = pack([asked], 256)
        tokens, lengths = model.prompt([view_features(clip, scene)], [choose_tokens(scene, keep, rng)])
        right = exact(model.joint.lm.states(tokens, text, lengths)[0], text)[0]
        for question, hit in zip(asked, right.tolist(), strict=True):
            hits.setdefault(question.kind, []).append(hit)
    return {family: round(sum(hits[family]) / len(hits[family]), 3) for family in KINDS if family in hits}
