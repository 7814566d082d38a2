"""From lmms-eval's output files to the retention table: `python -m gridprune.lmms.retention RESULTS_FOLDER`.

    retention of a run   mean over tasks of its score divided by that of the unpruned run (`keep=all`) of the same
                         checkpoint and images, on the same number of documents, in percent

Runs of one checkpoint may lie in any number of `*_results.json` files; of two files with the same run and task the
younger counts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import GridPruneError, SettingError

# Task of lmms-eval -> the metrics whose sum is its score in papers on visual token pruning.
SCORES: dict[str, tuple[str, ...]] = {
    "ai2d": ("exact_match",),
    "chartqa": ("relaxed_overall",),
    "docvqa_val": ("anls",),
    "gqa": ("exact_match",),
    "gridprune_scenes": ("mean_accuracy",),
    "mmbench_en_dev": ("gpt_eval_score",),
    "mmbench_en_dev_static": ("gpt_eval_score",),
    "mme": ("mme_perception_score", "mme_cognition_score"),
    "ocrbench": ("ocrbench_accuracy",),
    "pope": ("pope_f1_score",),
    "scienceqa_img": ("exact_match",),
    "seedbench": ("seed_image",),
    "textvqa_val": ("exact_match",),
    "vizwiz_vqa_val": ("exact_match",),
    "vqav2_val": ("exact_match",),
}
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
            before.scores | {task: score(task, metrics) for task, metrics in results["results"].items()},
            before.documents | {task: count["effective"] for task, count in results["n-samples"].items()},
            (measured := results.get("throughput", {})).get("avg_visual_tokens_kept"),
            before.failed or measured.get("avg_failed_rows", 0) > 0,
        )
    return list(runs.values())


def score(task: str, metrics: Mapping[str, Any]) -> float:
    """The task's score among lmms-eval's metrics, whose names end in a filter: `exact_match,none`.

    Raises:
        SettingError: the task is not in :data:`SCORES` and has several metrics, or lacks the one it should have.
    """
    found = {
        name.partition(",")[0]: value
        for name, value in metrics.items()
        if isinstance(value, (int, float)) and "_stderr" not in name
    }
    wanted = SCORES.get(task) or (tuple(found) if len(found) == 1 else ())
    if not wanted or any(name not in found for name in wanted):
        raise SettingError(
            f"Which metric is the score of {task!r}? It has {', '.join(found) or 'none'}. Add a line to SCORES."
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
    return setup, "all" if keep == "all" else f"{method}({settings})" if settings else method, keep


def retention(run: Run, full: Run) -> float:
    """See the head of this file, in percent.

    Raises:
        SettingError: the tasks or their documents differ, or the unpruned run scores 0 somewhere.
    """
    if run.documents != full.documents:
        raise SettingError(
            f"{run.method} at {run.keep} and the unpruned run of {run.checkpoint} were asked different questions: "
            f"{run.documents} and {full.documents}. Run both on the same tasks with the same --limit."
        )
    zero = [task for task, value in full.scores.items() if value == 0]
    if zero:
        raise SettingError(f"The unpruned run scores 0 in {', '.join(zero)}: no retention can be computed.")
    return 100 * sum(run.scores[task] / full.scores[task] for task in full.scores) / len(full.scores)


def table(runs: Sequence[Run], expected: Sequence[Mapping[str, Any]] = ()) -> str:
    """A Markdown table for every checkpoint, with figures of the literature beside the runs they belong to."""
    parts = []
    for setup in dict.fromkeys(run.setup for run in runs):
        own = [run for run in runs if run.setup == setup]
        parts.append(_one(own, [entry for entry in expected if entry["pretrained"] == setup[0]]))
    return "\n".join(parts)


def _one(runs: Sequence[Run], expected: Sequence[Mapping[str, Any]]) -> str:
    """The table of one setup; the unpruned run comes first, then the runs with the most tokens."""
    name = ", ".join([runs[0].checkpoint, *(f"{k}={v}" for k, v in zip(_SETUP[1:], runs[0].setup[1:]) if v)])
    full = next((run for run in runs if run.keep == "all"), None)
    if full is None:
        raise SettingError(f"There is no unpruned run of {name}. Run it with keep=all and otherwise equal arguments.")
    others = sorted((run for run in runs if run is not full), key=lambda run: (-(run.tokens or 0), run.method))
    tasks = list(full.scores)
    sources: dict[str, int] = {}
    lines = [_line("method", "keep", "tokens", *tasks, "retention, %", "literature, %")]
    lines.append(_line("---", *["---:"] * (len(tasks) + 4)))
    for run in (full, *others):
        kept = "" if run.tokens is None else f"{run.tokens:g}"
        scores = [f"{run.scores[task]:.4g}" if task in run.scores else "-" for task in tasks]
        lines.append(
            _line(run.method, run.keep, kept, *scores, f"{retention(run, full):.1f}", _figures(run, expected, sources))
        )
    documents = ", ".join(f"{task} {full.documents[task]}" for task in tasks)
    failed = [f"{run.method} at {run.keep}" for run in runs if run.failed]
    wrong = [f"Rows failed, and count as wrong: {', '.join(failed)}; the runs' logs say why."] if failed else []
    notes = [f"Documents: {documents}.", *wrong, *(f"[{number}] {source}" for source, number in sources.items())]
    return "\n".join([f"**{name}**", "", *lines, "", *notes, ""])


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _figures(run: Run, expected: Sequence[Mapping[str, Any]], sources: dict[str, int]) -> str:
    """What the literature has for a run; new sources are numbered."""
    found = [one for one in expected if (one["method"], str(one["keep"])) == (run.method, run.keep)]
    return "; ".join(f"{one['retention']} [{sources.setdefault(one['source'], len(sources) + 1)}]" for one in found)


app = typer.Typer(add_completion=False)


@app.command()
def main(
    folders: Annotated[list[Path], typer.Argument(help="Folders with lmms-eval's *_results.json, or such files.")],
    expected: Annotated[
        Path | None, typer.Option("--expected", help="Figures of the literature: recipes/expected.json.")
    ] = None,
) -> None:
    """Print the retention table of lmms-eval runs."""
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
