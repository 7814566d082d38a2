"""`gridprune eval`: what pruning costs in answers."""

from __future__ import annotations

import hashlib
import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..files import check_folder
from .options import Clip, Device, DeviceMap, Dtype, Json, Model, find_model, load_model, print_json, stderr, stdout
from .questions import Data, Questions, Seed, data_set, form_of, progress

if TYPE_CHECKING:
    from ..eval.data import DataSet

Methods = Annotated[
    str | None,
    typer.Option(
        "--methods", "--method", help="Comma-separated names, with settings in parentheses if you like; or 'all'."
    ),
]
Out = Annotated[
    Path | None, typer.Option("--output", "--out", "-o", help="Folder of the run; a name under runs/ by default.")
]
Metric = Annotated[
    str | None,
    typer.Option("--metric", help="Of lines in --data that name none: exact (the default), vqa, anls or choice."),
]
Workers = Annotated[int, typer.Option("--workers", min=1, help="Processes that answer, one thread each; for a CPU.")]
Split = Annotated[str, typer.Option("--split", help="Generated questions: dev (tuning) or test (untouched).")]
Form = Annotated[
    str | None,
    typer.Option("--form", help="Generated scenes: llava (192 px) or next (384 px, the default with embedded-next)."),
]


def eval_command(
    methods: Methods = None,
    keep: Annotated[
        str | None,
        typer.Option(
            "--keep", help="Budgets: counts or shares, comma-separated; 192,128,64,32 by default (next: 640,320,160)."
        ),
    ] = None,
    split: Split = "dev",
    questions: Questions = None,
    model: Model = "embedded",
    clip: Clip = None,
    data: Data = None,
    metric: Metric = None,
    seed: Seed = 0,
    form: Form = None,
    out: Out = None,
    quick: Annotated[bool, typer.Option("--quick", help="300 questions, a few methods, 64 and 32 tokens.")] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh/--resume", help="Begin anew, or continue a run that was interrupted.")
    ] = False,
    max_new_tokens: Annotated[int | None, typer.Option("--max-new-tokens", min=1, help="Longest answer.")] = None,
    workers: Workers = 1,
    device: Device = "auto",
    device_map: DeviceMap = None,
    dtype: Dtype = "auto",
    as_json: Json = False,
) -> None:
    """Measure what pruning costs in answers: accuracy, retention and evidence recall by method and budget."""
    from ..eval import entries, show
    from ..eval.run import Evaluation, evaluate
    from ..eval.store import RunFolder
    from ..methods.spec import parse_keeps

    chosen = entries.parse_list(methods or ",".join(entries.QUICK if quick else entries.FIRST))
    form = form or form_of(model)
    keep = keep or _keeps(form, quick)
    keeps = parse_keeps(keep)
    count = questions or (300 if quick else None)
    asked = data_set(data, split, count, seed, form, metric)
    check_folder(out or Path("runs"))
    loaded = load_model(model, clip, device, dtype, device_map)
    command = [f"gridprune eval --methods '{','.join(entry.label for entry in chosen)}' --keep {keep}"]
    command.append(_asking(asked, split, metric, seed))
    command.append(f"--model {_shown(model)}" if model != "embedded" else "")
    command.append(f"--clip {_shown(clip)}" if clip is not None else "")
    command.append(f"--form {form}" if data is None and form != form_of(model) else "")
    evaluation = Evaluation(chosen, keeps, asked, " ".join(filter(None, command)), max_new_tokens)
    config = evaluation.config(loaded)
    folder = RunFolder(out or Path("runs") / _run_name(config["identity"]))
    stderr.print(f"run in {folder.path}", soft_wrap=True)
    how: dict[str, Any] = {"config": config, "fresh": fresh, "time_rounds": 3 if quick else 12, "workers": workers}
    how["load"] = partial(find_model, model, clip, device, dtype, device_map)
    with progress("answering", asked.total) as advance:
        metrics = evaluate(loaded, evaluation, folder, progress=advance, **how)
    metrics = show.with_seconds(metrics, folder.path)
    if as_json:
        print_json(metrics)
    else:
        show.table(metrics, stdout)


def _keeps(form: str, quick: bool) -> str:
    """Budgets by default: thirds, ninths and so on of what there is."""
    if form == "next":
        return "320,160" if quick else "640,320,160"
    return "64,32" if quick else "192,128,64,32"


def _asking(asked: DataSet, split: str, metric: str | None, seed: int) -> str:
    """The options that choose the questions."""
    source = f"--split {split}" if asked.file is None else f"--data {asked.file.name}"
    scored = "" if metric is None else f" --metric {metric}"
    return f"{source}{scored} --questions {asked.total}" + (f" --seed {seed}" if seed else "")


def _run_name(identity: dict[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]
    return f"{Path(identity['model']).name}-{Path(identity['data']).stem}-{identity['questions']}-{digest}"


def _shown(name: str) -> str:
    """As it was typed, but for where a folder is on this machine."""
    return Path(name).name if Path(name).is_absolute() else name
