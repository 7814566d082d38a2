"""``python -m training.rank runs/judge-0/weights --out runs/rank-0``: every method on the new judge, as a run folder.

`gridprune eval` on a model that is not in the package yet: its scenes and questions, its standard checkpoints, the same
engine, rows and metrics. Tune on ``--split dev`` only.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from gridprune.cues.clip_text import ClipText
from gridprune.eval.data import UNSCORED, DataSet, Question, Scene
from gridprune.eval.entries import parse_list
from gridprune.eval.metrics import Table, interval, resamples
from gridprune.eval.run import Evaluation, evaluate
from gridprune.eval.scoring import EXACT
from gridprune.eval.store import RunFolder
from gridprune.runtime.ask import Loaded
from training.embedded.loading import load
from training.embedded.questions import balanced, template_prior
from training.embedded.scenes import VIEW, make_scene

PRIOR_SCENES = 840


@dataclass(frozen=True)
class Judged(DataSet):
    """The new judge's questions of a split."""

    def scenes(self) -> Iterator[Scene]:
        done, number = 0, 0
        while done < self.total:
            scene = make_scene(self.name, number, seed=self.seed)
            asked = balanced(scene)[: self.total - done]
            yield Scene(
                number,
                scene.image,
                tuple(
                    Question(
                        f"{self.name}-{self.seed}-{number}-{i}",
                        question.text,
                        (question.answer,),
                        question.kind,
                        tuple((x0 / VIEW, y0 / VIEW, x1 / VIEW, y1 / VIEW) for x0, y0, x1, y1 in question.boxes),
                    )
                    for i, question in enumerate(asked)
                ),
            )
            done, number = done + len(asked), number + 1

    def prior(self) -> dict[str, float]:
        return template_prior(
            question for i in range(PRIOR_SCENES) for question in balanced(make_scene(self.name, i, seed=self.seed))
        )


def loaded(folder: Path) -> Loaded:
    """The trained model as commands take one."""
    found = load(folder)
    return Loaded(folder.name, found.model, found.processor, ClipText.from_model(found.clip, found.clip_tokenizer))


def less_the_others(folder: RunFolder, ours: str) -> None:
    """Print by budget how much more `ours` keeps than every other method, in points, with the paired 95 % interval."""
    rows = [row for row in folder.rows() if row["questions"]]
    table, weights = Table.of(rows, UNSCORED), resamples(len(rows))
    cells = [cell.split("|") for cell in table.right if "|" in cell]
    for method, keep in cells:
        if method != ours:
            one, other = f"{ours}|{keep}", f"{method}|{keep}"
            points = 100 * float(table.retention(one) - table.retention(other))
            drawn = interval(table.retention(one, weights) - table.retention(other, weights)) or [0.0, 0.0]
            print(f"{keep:>4} {ours} - {method:24} {points:+.1f} ({100 * drawn[0]:.1f} to {100 * drawn[1]:.1f})")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.rank", description=__doc__)
    parser.add_argument("weights", type=Path, help="folder that `python -m training` wrote")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run; an interrupted one goes on")
    parser.add_argument("--methods", default="all")
    parser.add_argument("--keep", default="192,64,32")
    parser.add_argument("--split", default="dev", choices=("dev", "test"))
    parser.add_argument("--seed", type=int, default=0, help="another set of scenes")
    parser.add_argument("--questions", type=int, default=2000)
    parser.add_argument(
        "--against", default="", help="ask nothing: print what this method of the run kept more than the others"
    )
    parser.add_argument("--workers", type=int, default=1)
    args = parser.parse_args()
    if args.against:
        less_the_others(RunFolder(args.out), args.against)
        return
    torch.set_num_threads(1)
    data = Judged(args.split, args.questions, EXACT, UNSCORED, args.seed)
    keeps = [int(keep) for keep in args.keep.split(",")]
    evaluation = Evaluation(parse_list(args.methods), keeps, data, "python -m training.rank")
    told = 0

    def progress(done: int) -> None:
        nonlocal told
        if done - told >= 100 or done == args.questions:
            told = done
            print(f"{done} of {args.questions} questions", flush=True)

    metrics = evaluate(
        loaded(args.weights),
        evaluation,
        RunFolder(args.out),
        progress=progress,
        time_rounds=0,
        workers=args.workers,
        load=partial(loaded, args.weights),
    )
    for row in sorted(metrics["rows"], key=lambda row: (-int(row["tokens"]), -row["retention"])):
        print(f"{row['keep']:>4} {row['method']:24} {row['retention']:.3f} {row['evidence_recall']:.3f}")


if __name__ == "__main__":
    main()
