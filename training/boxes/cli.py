"""`python -m training.boxes`: train the embedded model, look at its scenes, evaluate it, write its card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="The embedded model: training, scenes, evaluation.", no_args_is_help=True)
SceneSeed = Annotated[int, typer.Option(min=0, help="Another set of scenes of the split.")]


@app.command()
def train(
    out: Annotated[Path, typer.Option(help="Folder of checkpoints and logs; an interrupted training resumes.")],
    seed: Annotated[int, typer.Option(help="Another seed gives another model.")] = 0,
    stages: Annotated[
        str, typer.Option(help="Comma-separated: symbolic,tower,joint,next,export.")
    ] = "symbolic,tower,joint,next,export",
    threads: Annotated[int, typer.Option(min=1, help="Processes of one thread each.")] = 2,
    weights: Annotated[Path | None, typer.Option(help="Folder to export to (default: OUT/weights).")] = None,
) -> None:
    """Train from scratch (a few hours on two cores)."""
    from .train import train as run

    folder = run(out, seed=seed, stages=tuple(stages.split(",")), threads=threads, weights=weights)
    typer.echo(f"weights: {folder}")


@app.command()
def scenes(
    out: Annotated[Path, typer.Option(help="Folder for the images.")],
    split: Annotated[str, typer.Option(help="train, dev or test.")] = "dev",
    n: Annotated[int, typer.Option("-n", "--n", min=1, help="Number of scenes.")] = 6,
    form: Annotated[str, typer.Option(help="llava (192 px) or next (384 px).")] = "llava",
) -> None:
    """Write sample scenes as images, and their questions with evidence boxes as JSONL."""
    from gridprune.tiny.forms import FORMS
    from gridprune.tiny.questions import balanced
    from gridprune.tiny.scenes import make_scene

    out.mkdir(parents=True, exist_ok=True)
    with (out / "questions.jsonl").open("w") as handle:
        for index in range(n):
            scene = make_scene(split, index, form=FORMS[form])
            scene.image.save(out / f"{split}-{index}.png")
            for question in balanced(scene):
                row = {"image": f"{split}-{index}.png", "question": question.text, "answer": question.answer}
                handle.write(json.dumps({**row, "family": question.kind, "boxes": question.boxes}) + "\n")
    typer.echo(f"{n} scenes: {out}")


@app.command()
def evaluate(
    weights: Annotated[Path | None, typer.Option(help="Folder of weights (default: the packaged ones).")] = None,
    split: Annotated[str, typer.Option(help="dev or test.")] = "dev",
    n: Annotated[int, typer.Option("-n", "--n", min=1, help="Number of questions.")] = 600,
    scene_seed: SceneSeed = 0,
    form: Annotated[str, typer.Option(help="llava (576 tokens) or next (LLaVA-NeXT, 2880).")] = "llava",
    json_out: Annotated[Path | None, typer.Option("--json", help="Write the result to this file.")] = None,
) -> None:
    """Accuracy with all tokens and along the ladders of the model card."""
    from gridprune.tiny.loading import load

    from .evaluate import evaluate as run

    result = run(load(weights, form=form), split, n, scene_seed=scene_seed, report=typer.echo)
    if json_out is not None:
        json_out.write_text(json.dumps(result, indent=1) + "\n")


@app.command()
def card(
    weights: Annotated[Path, typer.Option(help="Folder of weights with metrics.json.")],
    training: Annotated[
        Path | None, typer.Option(help="Training folder: measure again and rewrite metrics.json.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of that training.")] = 0,
    n: Annotated[int, typer.Option("-n", "--n", min=1, help="Number of test questions.")] = 3000,
    n_next: Annotated[int, typer.Option(min=1, help="The same, of LLaVA-NeXT's form.")] = 300,
    scene_seed: SceneSeed = 0,
) -> None:
    """Write MODEL_CARD.md from metrics.json; with --training, measure first."""
    from .card import write_card
    from .metrics import measure

    if training is not None:
        result = measure(weights, training, seed=seed, n=n, n_next=n_next, scene_seed=scene_seed, report=typer.echo)
        (weights / "metrics.json").write_text(json.dumps(result, indent=1) + "\n")
    write_card(weights)
    typer.echo(f"{weights / 'MODEL_CARD.md'}")
