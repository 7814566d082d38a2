"""Every number of a training, and the stages in order."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from .clip import CLIP, TowerConfig
from .export import to_clip, to_llava, write
from .gates import gates, ladder
from .joint import IMAGED, FullConfig, JointConfig, JointModel, Projector, ProjectorConfig, train_imaged
from .lm import LMConfig
from .symbolic import SymbolicConfig, SymbolicLM, train_symbolic
from .tower import Leg, TowerTraining, train_tower

STAGES = ("tower", "symbolic", "projector", "joint", "full", "export", "gates")


@dataclass(frozen=True)
class Recipe:
    """Sizes and lengths of all stages; the defaults are for two CPU cores."""

    tower: TowerConfig = field(default_factory=TowerConfig)
    lm: LMConfig = field(default_factory=LMConfig)
    tower_training: TowerTraining = field(default_factory=TowerTraining)
    symbolic: SymbolicConfig = field(default_factory=SymbolicConfig)
    projector: ProjectorConfig = field(default_factory=ProjectorConfig)
    joint: JointConfig = field(default_factory=JointConfig)
    full: FullConfig = field(default_factory=FullConfig)
    gate_scenes: int = 120


def gpu() -> Recipe:
    """One GPU and fifteen processes that make scenes: the same towers, larger batches, a deeper language model."""
    legs = (Leg(600, 2048, 8, 64), Leg(200, 1024, 12, 144), Leg(500, 1024, 24, 288), Leg(300, 1024, 24, 576))
    return Recipe(
        lm=LMConfig(layers=5),
        tower_training=TowerTraining(legs=legs, check_scenes=480, save_every=100),
        symbolic=SymbolicConfig(steps=4500, batch=64, check_every=1500, save_every=300),
        projector=ProjectorConfig(steps=400, batch=64, save_every=200),
        joint=JointConfig(steps=5000, batch=64, muon_lr=0.01, adam_lr=1e-3, check_every=1000, save_every=250),
        full=FullConfig(steps=5500, batch=64, check_every=1375, save_every=250),
        gate_scenes=240,
    )


def small() -> Recipe:
    """Seconds: for tests and for trying the pipeline, not for a useful model."""
    imaged = {"steps": 4, "batch": 2, "questions": 4, "check_scenes": 5, "check_every": 4, "save_every": 2}
    tower = TowerConfig(width=192, layers=3, mlp=192, text_width=32, text_layers=1, text_heads=2, text_mlp=64)
    return Recipe(
        tower=tower,
        lm=LMConfig(width=64, layers=2, heads=2, mlp=96),
        tower_training=TowerTraining(
            legs=(Leg(2, 4, 8, 64), Leg(2, 4, 24, 96)), check_every=4, check_scenes=4, save_every=2
        ),
        symbolic=SymbolicConfig(
            steps=4, batch=2, questions=4, lengths=((0.0, (32, 48)),), check_every=4, check_scenes=5, save_every=2,
            captions_every=4,
        ),
        projector=ProjectorConfig(**imaged),
        joint=JointConfig(**imaged),
        full=FullConfig(**imaged),
        gate_scenes=5,
    )  # fmt: skip


RECIPES: dict[str, Callable[[], Recipe]] = {"cpu": Recipe, "gpu": gpu, "small": small}


def say(line: str) -> None:
    """Print a progress line at once."""
    print(line, flush=True)


def load_stage(out: Path, stage: str, module: torch.nn.Module) -> None:
    """Weights of a finished (or interrupted) stage."""
    path = out / stage / "state.pt"
    if not path.exists():
        raise FileNotFoundError(f"stage {stage!r} has not been trained under {out}")
    module.load_state_dict(torch.load(path, weights_only=True, map_location="cpu")["model"])


def trained_clip(out: Path, recipe: Recipe) -> CLIP:
    clip = CLIP(recipe.tower)
    load_stage(out, "tower", clip)
    return clip.eval()


def trained_joint(out: Path, recipe: Recipe, stage: str) -> JointModel:
    """Projector and language model: fresh and symbolic (``"symbolic"``), or as a later stage left them."""
    symbolic = SymbolicLM(recipe.lm)
    model = JointModel(Projector(recipe.tower.width, recipe.lm.width), symbolic)
    load_stage(out, stage, symbolic if stage == "symbolic" else model)
    return model


def train(
    out: Path,
    recipe: Recipe,
    *,
    seed: int,
    stages: Sequence[str] = STAGES,
    device: str = "cpu",
    workers: int = 0,
    report: Callable[[str], None] = say,
) -> None:
    """Train (or resume) the stages under ``out``; finished ones are passed over."""
    unknown = set(stages) - set(STAGES)
    if unknown:
        raise ValueError(f"unknown stages {sorted(unknown)}; choose from {', '.join(STAGES)}")
    out.mkdir(parents=True, exist_ok=True)
    _same_recipe(out / "recipe.json", {"seed": seed, **asdict(recipe)})
    options: dict[str, Any] = {"seed": seed, "device": device, "workers": workers, "report": report}
    if "tower" in stages:
        train_tower(out / "tower", recipe.tower_training, recipe.tower, **options)
    if "symbolic" in stages:
        train_symbolic(out / "symbolic", recipe.symbolic, recipe.lm, **options)
    for before, stage in pairwise(("symbolic", *IMAGED)):
        if stage in stages:
            model, cfg = trained_joint(out, recipe, before), getattr(recipe, stage)
            train_imaged(out / stage, cfg, trained_clip(out, recipe), model, name=stage, **options)
    if "export" in stages:
        clip, model = trained_clip(out, recipe), trained_joint(out, recipe, "full")
        write(out / "weights", to_clip(clip), to_llava(clip, model.projector, model.lm))
    if "gates" in stages:
        model, clip = trained_joint(out, recipe, "full").to(device), trained_clip(out, recipe).to(device)
        result = ladder(model, clip, recipe.gate_scenes, device=device, report=report)
        (out / "gates.json").write_text(json.dumps(result, indent=1) + "\n")
        for gate in gates(result):
            report(str(gate))


def _same_recipe(path: Path, recipe: dict[str, Any]) -> None:
    """A folder belongs to one recipe and seed; another one is refused."""
    text = json.dumps(recipe, indent=1, sort_keys=True) + "\n"
    if path.exists() and path.read_text() != text:
        raise ValueError(f"{path} was written by another recipe or seed; choose another folder, or remove that one")
    path.write_text(text)


def extended(recipe: Recipe, **steps: int) -> Recipe:
    """The recipe with other numbers of steps by stage: ``extended(recipe, joint=12000)``."""
    names = {"tower": "tower_training"}
    changes = {names.get(stage, stage): n for stage, n in steps.items()}
    return replace(recipe, **{name: replace(getattr(recipe, name), steps=n) for name, n in changes.items()})
