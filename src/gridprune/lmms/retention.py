"""From lmms-eval's output files to the retention tables: `python -m gridprune.lmms.retention RESULTS_FOLDER`.

    retention of a run   mean over a group's tasks of its score divided by that of the unpruned run (`keep=all`) of the
                         same checkpoint and images, on the same number of documents, in percent

Tasks come in groups, each with a table and a mean of its own: an average over all would hide what pruning does to text
and to places. Runs of one checkpoint may lie in any number of `*_results.json` files; of two files with the same run
and task the younger counts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import GridPruneError, SettingError
from .arguments import ALL

# Group -> task of lmms-eval -> the metrics whose sum is its score in papers on visual token pruning.
GROUPS: dict[str, dict[str, tuple[str, ...]]] = {
    "VQA": {
        "ai2d": ("exact_match",),
        "gqa": ("exact_match",),
        "gridprune_vqa": ("mean_accuracy",),
        "mmbench_en_dev": ("gpt_eval_score",),
        "mmbench_en_dev_static": ("gpt_eval_score",),
        "mme": ("mme_perception_score", "mme_cognition_score"),
        "pope": ("pope_f1_score",),
        "scienceqa_img": ("exact_match",),
        "seedbench": ("seed_image",),
        "vizwiz_vqa_val": ("exact_match",),
        "vqav2_val": ("exact_match",),
    },
    "text-dense": {
        "cc_ocr_kie": ("f1_score",),
        "cc_ocr_multi_lan_ocr": ("macro_f1",),
        "cc_ocr_multi_scene_ocr": ("macro_f1",),
        "chartqa": ("relaxed_overall",),
        "docvqa_val": ("anls",),
        "gridprune_text": ("mean_accuracy",),
        "ocrbench": ("ocrbench_accuracy",),
        "slidevqa_val": ("anls",),
        "textvqa_val": ("exact_match",),
    },
    "grounding": {
        "gridprune_grounding": ("mean_accuracy",),
        "refcoco_bbox_rec_val": ("refcoco_ACC@0.5",),
        "refcoco_bbox_rec_testA": ("refcoco_ACC@0.5",),
        "refcoco_bbox_rec_testB": ("refcoco_ACC@0.5",),
        "refcoco_grounding_test": ("refcoco_grounding_ACC@0.5",),
        "refcoco_grounding_testA": ("refcoco_grounding_ACC@0.5",),
        "refcoco_grounding_testB": ("refcoco_grounding_ACC@0.5",),
    },
}
SCORES = {task: metrics for tasks in GROUPS.values() for task, metrics in tasks.items()}
OTHER = "other"  # the group of tasks that are in none and have a single metric
_SETUP = ("pretrained", "resize", "min_pixels", "max_pixels")  # runs that differ in these are not compared


@dataclass(frozen=True)
class Run:
    """One line of the table.

    Attributes:
        setup: checkpoint and what it is shown.
        method, keep: "all" for the unpruned run.
        scores, documents: by task.
        tokens: visual tokens kept per image, over all tasks of the youngest file.
        failed: whether rows had no answer, which count as wrong.
    """

    setup: tuple[str, ...]
    method: str
    keep: str
    scores: dict[str, float] = field(default_factory=dict)
    documents: dict[str, int] = field(default_factory=dict)
    tokens: float | None = None
    failed: bool = False

    @property
    def checkpoint(self) -> str:
        return self.setup[0]


def read(files: Iterable[Path]) -> list[Run]:
    """The runs that lmms-eval's results files hold.

    Raises:
        SettingError: a file is of another model than gridprune, or a task's score is not known.
    """
    runs: dict[tuple[Any, ...], Run] = {}
    loaded = [(file, json.loads(file.read_text(encoding="utf-8"))) for file in files]
    for file, results in sorted(loaded, key=lambda pair: str(pair[1].get("date", ""))):
        config = results["config"]
        if config["model"] != "gridprune":
            raise SettingError(
                f"{file.name} is of the model {config['model']!r}; runs of `--model gridprune` are read."
            )
        setup, method, keep = _identity(config["model_args"])
        before = runs.get((setup, method, keep), Run(setup, method, keep))
        runs[setup, method, keep] = Run(
            setup,
            method,
            keep,
            before.scores | {task: score(task, results["results"][task]) for task in results["n-samples"]},
            before.documents | {task: count["effective"] for task, count in results["n-samples"].items()},
            (measured := results.get("throughput", {})).get("avg_visual_tokens_kept"),
            before.failed or measured.get("avg_failed_rows", 0) > 0,
        )
    return list(runs.values())


def score(task: str, metrics: Mapping[str, Any]) -> float:
    """The task's score among lmms-eval's metrics, whose names end in a filter: `exact_match,none`.

    Raises:
        SettingError: the task is not in :data:`GROUPS` and has several metrics, or lacks the one it should have.
    """
    found = {
        name.partition(",")[0]: value
        for name, value in metrics.items()
        if isinstance(value, (int, float)) and "_stderr" not in name
    }
    wanted = SCORES.get(task) or (tuple(found) if len(found) == 1 else ())
    if not wanted or any(name not in found for name in wanted):
        raise SettingError(
            f"Which metric is the score of {task!r}? It has {', '.join(found) or 'none'}. Add a line to GROUPS."
        )
    return float(sum(found[name] for name in wanted))


def _identity(model_args: str) -> tuple[tuple[str, ...], str, str]:
    """Setup, method with its settings, and budget."""
    given = dict(part.split("=", 1) for part in model_args.split(",")) if model_args else {}
    setup = tuple(given.pop(name, "embedded" if name == "pretrained" else "") for name in _SETUP)
    method, keep = given.pop("method", "gridprune"), given.pop("keep", "11.1%")
    for name in ("clip", "dtype"):
        given.pop(name, None)
    settings = ", ".join(f"{name}={value}" for name, value in given.items())
    return setup, ALL if keep == ALL else f"{method}({settings})" if settings else method, keep


def group_of(task: str) -> str:
    """The group that a task counts in."""
    return next((group for group, tasks in GROUPS.items() if task in tasks), OTHER)


def retention(run: Run, full: Run, tasks: Sequence[str]) -> float | None:
    """See the head of this file, in percent. Tasks in which the unpruned run scores 0 are left out; None if all are.

    Raises:
        SettingError: some of the tasks are missing, or had other documents.
    """
    asked, wanted = ({task: one.documents.get(task) for task in tasks} for one in (run, full))
    if asked != wanted:
        raise SettingError(
            f"{run.method} at {run.keep} and the unpruned run of {run.checkpoint} were asked different questions: "
            f"{asked} and {wanted}. Run both on the same tasks with the same --limit."
        )
    shares = [run.scores[task] / full.scores[task] for task in tasks if full.scores[task]]
    return 100 * sum(shares) / len(shares) if shares else None


def table(runs: Sequence[Run], expected: Sequence[Mapping[str, Any]] = ()) -> str:
    """Markdown tables for every checkpoint, one a group, and the literature's means over sets of their own apart."""
    parts = []
    for setup in dict.fromkeys(run.setup for run in runs):
        own = [run for run in runs if run.setup == setup]
        figures = [entry for entry in expected if entry["pretrained"] == setup[0]]
        name = ", ".join([setup[0], *(f"{key}={value}" for key, value in zip(_SETUP[1:], setup[1:]) if value)])
        full = next((run for run in own if run.keep == ALL), None)
        if full is None:
            raise SettingError(
                f"There is no unpruned run of {name}. Run it with keep=all and otherwise equal arguments."
            )
        others = sorted((run for run in own if run is not full), key=lambda run: (-(run.tokens or 0), run.method))
        failed = [f"{run.method} at {run.keep}" for run in own if run.failed]
        parts += [f"**{name}**", ""]
        for group in (*GROUPS, OTHER):
            if tasks := [task for task in full.scores if group_of(task) == group]:
                asked = [run for run in others if not run.scores.keys().isdisjoint(tasks)]
                parts += _group(group, tasks, [full, *asked], figures)
        parts += _published(own, figures)
        parts += (
            [f"Rows failed, and count as wrong: {', '.join(failed)}; the runs' logs say why.", ""] if failed else []
        )
    return "\n".join(parts)


def _group(group: str, tasks: Sequence[str], runs: Sequence[Run], figures: Sequence[Mapping[str, Any]]) -> list[str]:
    """The table of one group; the unpruned run comes first, then the runs with the most tokens."""
    full, sources = runs[0], dict[str, int]()
    lines = [_line("method", "keep", "tokens", *tasks, "mean retention, %", "literature, %")]
    lines.append(_line("---", *["---:"] * (len(tasks) + 4)))
    for run in runs:
        mean = retention(run, full, tasks)
        known = [
            f"{one['task']} {one['retention']} [{sources.setdefault(one['source'], len(sources) + 1)}]"
            for one in _figures(run, figures)
            if one.get("task") in tasks
        ]
        kept = "" if run.tokens is None else f"{run.tokens:g}"
        scores = [f"{run.scores[task]:.4g}" for task in tasks]
        shown = "-" if mean is None else f"{mean:.1f}"
        lines.append(_line(run.method, run.keep, kept, *scores, shown, "; ".join(known)))
    documents = ", ".join(f"{task} {full.documents[task]}" for task in tasks)
    zero = [task for task in tasks if not full.scores[task]]
    without = [f"Not in the mean, since the unpruned run scores 0: {', '.join(zero)}."] if zero else []
    return [f"*{group}*", "", *lines, "", *_notes(f"Documents: {documents}.", *without, sources=sources), ""]


def _published(runs: Sequence[Run], figures: Sequence[Mapping[str, Any]]) -> list[str]:
    """Published means for these runs; they are over other sets of benchmarks than any group, so they stand alone."""
    sources: dict[str, int] = {}
    lines = [
        _line(run.method, run.keep, one["retention"], f"[{sources.setdefault(one['source'], len(sources) + 1)}]")
        for run in runs
        for one in _figures(run, figures)
        if "task" not in one
    ]
    if not lines:
        return []
    head = [_line("method", "keep", "retention, %", "source"), _line("---", "---:", "---:", "---")]
    return ["*Published means, each over benchmarks of its own*", "", *head, *lines, "", *_notes(sources=sources), ""]


def _figures(run: Run, figures: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """What the literature has for a run."""
    return [one for one in figures if (one["method"], str(one["keep"])) == (run.method, run.keep)]


def _notes(*said: str, sources: Mapping[str, int]) -> list[str]:
    """Paragraphs below a table."""
    notes = [*said, *(f"[{number}] {source}" for source, number in sources.items())]
    return "\n\n".join(notes).split("\n")


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


app = typer.Typer(add_completion=False)


@app.command()
def main(
    folders: Annotated[list[Path], typer.Argument(help="Folders with lmms-eval's *_results.json, or such files.")],
    expected: Annotated[
        Path | None, typer.Option("--expected", help="Figures of the literature: recipes/expected.json.")
    ] = None,
) -> None:
    """Print the retention tables of lmms-eval runs: VQA, text-dense and grounding apart."""
    files = [file for folder in folders for file in ([folder] if folder.is_file() else folder.rglob("*_results.json"))]
    try:
        if not files:
            raise SettingError(f"No *_results.json under {', '.join(map(str, folders))}.")
        figures = json.loads(expected.read_text(encoding="utf-8"))["figures"] if expected else ()
        print(table(read(files), figures))
    except GridPruneError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None


if __name__ == "__main__":
    app()
