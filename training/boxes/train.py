"""The whole pipeline: symbolic language model, tower, projector and joint stage, LLaVA-NeXT's form, export.

Each stage keeps its state under ``out`` and resumes where it was stopped. The first two are independent
of each other and run as two processes when two threads are given; the joint stage averages gradients over
as many one-thread processes (faster here than one process with several threads). The stage of LLaVA-NeXT's form starts
from the joint stage's weights, in one thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from .clip import TinyCLIP, TowerConfig
from .export import to_clip, to_llava, to_llava_next, write
from .joint import JointConfig, JointModel, Projector, train_joint
from .lm import LMConfig
from .next import NextConfig, NextModel, train_next
from .symbolic import SymbolicConfig, SymbolicLM, train_symbolic
from .tower import TowerModel, TowerTraining, train_tower

STAGES = ("symbolic", "tower", "joint", "next", "export")


@dataclass(frozen=True)
class Recipe:
    """Every number of a training."""

    lm: LMConfig = field(default_factory=LMConfig)
    tower: TowerConfig = field(default_factory=TowerConfig)
    symbolic: SymbolicConfig = field(default_factory=SymbolicConfig)
    tower_training: TowerTraining = field(default_factory=TowerTraining)
    joint: JointConfig = field(default_factory=JointConfig)
    next: NextConfig = field(default_factory=NextConfig)


def tiny_recipe() -> Recipe:
    """A recipe that runs in seconds: for tests and for trying the pipeline, not for a useful model."""
    return Recipe(
        lm=LMConfig(width=64, layers=2, heads=2, mlp=96),
        tower=TowerConfig(width=192, layers=3, mlp=192, text_width=32, text_layers=1, text_heads=2, text_mlp=64),
        symbolic=replace(SymbolicConfig(), steps=6, batch=2, questions=4, text_length=64),
        tower_training=replace(TowerTraining(), steps=6, batch=2, full_batch=2, questions=3, patches=144),
        joint=JointConfig(
            regression_scenes=8,
            regression_steps=20,
            steps=6,
            batch=2,
            questions=6,
            lengths=((0.0, (64, 96)),),
            check_scenes=2,
        ),
        next=NextConfig(steps=6, batch=2, questions=6, lengths=((0.0, (48, 96)),), window=3, check_scenes=1),
    )


def load_stage(out: Path, stage: str, module: torch.nn.Module) -> None:
    """Weights of a finished (or interrupted) stage."""
    path = out / stage / "state.pt"
    if not path.exists():
        raise FileNotFoundError(f"stage {stage!r} has not been trained under {out}")
    module.load_state_dict(torch.load(path, weights_only=True)["model"])


def trained_clip(out: Path, recipe: Recipe) -> TinyCLIP:
    tower = TowerModel(recipe.tower)
    load_stage(out, "tower", tower)
    return tower.clip


def trained_joint(out: Path, recipe: Recipe) -> JointModel:
    model = JointModel(Projector(recipe.tower.width, recipe.lm.width), SymbolicLM(recipe.lm))
    load_stage(out, "joint", model)
    return model


def _symbolic(out: Path, recipe: Recipe, seed: int, report: Callable[[str], None]) -> None:
    torch.set_num_threads(1)
    train_symbolic(out / "symbolic", recipe.symbolic, recipe.lm, seed=seed, report=report)


def _tower(out: Path, recipe: Recipe, seed: int, report: Callable[[str], None]) -> None:
    torch.set_num_threads(1)
    train_tower(out / "tower", recipe.tower_training, recipe.tower, seed=seed, report=report)


def _joint(rank: int, world: int, out: Path, recipe: Recipe, seed: int, report: Callable[[str], None]) -> None:
    torch.set_num_threads(1)
    if world > 1:
        meeting = (out / "rendezvous").resolve().as_uri()
        dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world)
    clip, symbolic = trained_clip(out, recipe), SymbolicLM(recipe.lm)
    load_stage(out, "symbolic", symbolic)
    train_joint(out / "joint", recipe.joint, clip, symbolic, seed=seed, rank=rank, world=world, report=report)
    if world > 1:
        dist.barrier()
        dist.destroy_process_group()


def export(out: Path, recipe: Recipe, folder: Path) -> None:
    """Write the packaged form of a finished training to ``folder``; LLaVA-NeXT's if that stage was trained."""
    clip, model = trained_clip(out, recipe), trained_joint(out, recipe)
    llava_next = None
    if (out / "next" / "state.pt").exists():
        trained = NextModel(trained_joint(out, recipe))
        load_stage(out, "next", trained)
        llava_next = to_llava_next(clip, trained)
    write(folder, to_clip(clip), to_llava(clip, model.projector, model.lm), llava_next)


def _next(out: Path, recipe: Recipe, seed: int, report: Callable[[str], None]) -> None:
    torch.set_num_threads(1)
    clip, joint = trained_clip(out, recipe), trained_joint(out, recipe)
    train_next(out / "next", recipe.next, clip, joint, seed=seed, report=report)


def say(line: str) -> None:
    """Print a progress line at once."""
    print(line, flush=True)


def train(
    out: str | Path,
    *,
    seed: int = 0,
    stages: Sequence[str] = STAGES,
    threads: int = 2,
    recipe: Recipe | None = None,
    weights: str | Path | None = None,
    report: Callable[[str], None] = say,
) -> Path:
    """Train (or resume) ``stages`` under ``out``; returns the folder of exported weights."""
    unknown = set(stages) - set(STAGES)
    if unknown:
        raise ValueError(f"unknown stages {sorted(unknown)}; choose from {', '.join(STAGES)}")
    out, recipe = Path(out), recipe or Recipe()
    out.mkdir(parents=True, exist_ok=True)
    first = [job for name, job in (("symbolic", _symbolic), ("tower", _tower)) if name in stages]
    if threads > 1 and len(first) > 1:
        context = mp.get_context("spawn")
        jobs = [context.Process(target=job, args=(out, recipe, seed, report)) for job in first]
        for process in jobs:
            process.start()
        for process in jobs:
            process.join()
        if any(process.exitcode for process in jobs):
            raise RuntimeError("a training stage failed; start again to resume")
    else:
        for job in first:
            job(out, recipe, seed, report)
    if "joint" in stages:
        (out / "rendezvous").unlink(missing_ok=True)
        if threads > 1:
            mp.spawn(_joint, (threads, out, recipe, seed, report), nprocs=threads)
        else:
            _joint(0, 1, out, recipe, seed, report)
    if "next" in stages:
        _next(out, recipe, seed, report)
    folder = Path(weights) if weights is not None else out / "weights"
    if "export" in stages:
        export(out, recipe, folder)
    return folder
