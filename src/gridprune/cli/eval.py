"""`gridprune eval`, `gridprune results` and `gridprune sign`, as plain functions that the command line mounts."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from ..errors import GridPruneError, SettingError

if TYPE_CHECKING:
    from ..eval.data import DataSet
    from ..runtime.ask import Loaded

_stderr = Console(stderr=True)

Model = Annotated[
    str,
    typer.Option(
        "--model",
        help="'embedded', 'embedded-next' (its LLaVA-NeXT form), a checkpoint folder, or a hub id.",
    ),
]
Clip = Annotated[
    str | None,
    typer.Option("--clip", help="CLIP text half: a folder or a hub id. Found by itself beside a checkpoint."),
]
Data = Annotated[
    Path | None,
    typer.Option("--data", help="Your own questions: JSON lines with image, question, answer [, boxes, family]."),
]
Metric = Annotated[
    str | None,
    typer.Option("--metric", help="Of lines in --data that name none: exact (the default), vqa, anls or choice."),
]
Split = Annotated[str, typer.Option("--split", help="Generated questions: dev (tuning) or test (untouched).")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Another set of generated scenes.")]
Form = Annotated[
    str | None,
    typer.Option("--form", help="Generated scenes: llava (192 px) or next (384 px, the default with embedded-next)."),
]
Device = Annotated[str, typer.Option("--device", help="A torch device, such as cpu or cuda.")]
Dtype = Annotated[str, typer.Option("--dtype", help="auto, float32, bfloat16 or float16.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout and nothing else.")]


def eval_command(
    methods: Annotated[
        str | None,
        typer.Option("--methods", help="Comma-separated names, with settings in parentheses if you like; or 'all'."),
    ] = None,
    keep: Annotated[
        str | None,
        typer.Option(
            "--keep", help="Budgets: counts or shares, comma-separated; 192,128,64,32 by default (next: 640,320,160)."
        ),
    ] = None,
    split: Split = "dev",
    questions: Annotated[int | None, typer.Option("--questions", "-n", min=1, help="How many; 600 by default.")] = None,
    model: Model = "embedded",
    clip: Clip = None,
    data: Data = None,
    metric: Metric = None,
    seed: Seed = 0,
    form: Form = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder of the run; a name under runs/ by default.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="300 questions, a few methods, 64 and 32 tokens.")] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh/--resume", help="Begin anew, or continue a run that was interrupted.")
    ] = False,
    max_new_tokens: Annotated[int | None, typer.Option("--max-new-tokens", min=1, help="Longest answer.")] = None,
    device: Device = "cpu",
    dtype: Dtype = "auto",
    as_json: Json = False,
) -> None:
    """Measure what pruning costs in answers: accuracy, retention and evidence recall by method and budget."""
    from ..eval import entries, show
    from ..eval.run import Evaluation, evaluate
    from ..eval.store import RunFolder
    from ..methods.spec import parse_keeps

    chosen = entries.parse_list(methods or ",".join(entries.QUICK if quick else entries.FIRST))
    form = form or _form(model)
    keep = keep or _keeps(form, quick)
    keeps = parse_keeps(keep)
    count = questions or (300 if quick else None)
    asked = _data(data, split, count, seed, form, metric)
    loaded = _load(model, clip, device, dtype)
    command = [f"gridprune eval --methods '{','.join(entry.label for entry in chosen)}' --keep {keep}"]
    command.append(_asking(asked, split, metric, seed))
    command.append(f"--model {_shown(model)}" if model != "embedded" else "")
    command.append(f"--clip {_shown(clip)}" if clip is not None else "")
    command.append(f"--form {form}" if data is None and form != _form(model) else "")
    evaluation = Evaluation(chosen, keeps, asked, " ".join(filter(None, command)), max_new_tokens)
    config = evaluation.config(loaded)
    folder = RunFolder(out or Path("runs") / _run_name(config["identity"]))
    _stderr.print(f"run in {folder.path}", highlight=False, soft_wrap=True)
    rounds = 3 if quick else 12
    with _progress("answering", asked.total) as advance:
        metrics = evaluate(loaded, evaluation, folder, config=config, fresh=fresh, progress=advance, time_rounds=rounds)
    metrics = show.with_seconds(metrics, folder.path)
    if as_json:
        _print_json(metrics)
    else:
        show.table(metrics, Console())


def results_command(
    write: Annotated[bool, typer.Option("--write", help="Fill the marked blocks of README.md and docs/.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Fail if a block, plot or summary is stale.")] = False,
    root: Annotated[Path, typer.Option("--root", help="The source tree that holds results/.")] = Path(),
) -> None:
    """Write the tables and plots of results/ into README.md and docs/, or check that they are up to date."""
    from scripts import results

    if write == check:
        raise SettingError("Give one of --write and --check.")
    if write:
        for name in results.write(root):
            _stderr.print(f"wrote {name}", highlight=False)
        return
    stale = results.check(root)
    for line in stale:
        _stderr.print(line, highlight=False, soft_wrap=True)
    if stale:
        _stderr.print("Run `gridprune results --write` and commit what it changes.")
        raise typer.Exit(1)
    _stderr.print("all tables and plots are up to date")


def sign_command(
    model: Model = "embedded",
    clip: Clip = None,
    data: Data = None,
    keep: Annotated[str, typer.Option("--keep", help="How many of the most relevant tokens are looked at.")] = "11.1%",
    questions: Annotated[int | None, typer.Option("--questions", "-n", min=1, help="How many; 600 by default.")] = None,
    seed: Seed = 0,
    write: Annotated[bool, typer.Option("--write", help="Store the sign in the CLIP folder's gridprune.json.")] = False,
    device: Device = "cpu",
    dtype: Dtype = "auto",
    as_json: Json = False,
) -> None:
    """Measure which sign of CLIP's patch relevance points at what the question asks about."""
    from ..cues.text_tower import store_sign
    from ..eval import show, sign
    from ..methods.spec import parse_keeps

    budget = parse_keeps(keep)
    if len(budget) != 1:
        raise SettingError(f"--keep takes one budget here, got {keep!r}.")
    folder = _clip_folder(model, clip) if write else None
    asked = _data(data, "dev", questions, seed, _form(model))
    loaded = _load(model, clip, device, dtype)
    with _progress("measuring", asked.total) as advance:
        found = sign.measure(loaded, asked, budget[0], advance)
    if folder is not None and found["localises"] is not None:
        _stderr.print(f"stored in {store_sign(folder, found['localises'])}", highlight=False, soft_wrap=True)
    elif folder is not None:
        _stderr.print("nothing stored: the signs do not differ beyond chance; give more questions")
    if as_json:
        _print_json(found)
    else:
        show.sign(found, Console())


def _form(model: str) -> str:
    """Scenes that fit a model."""
    from ..runtime.ask import EMBEDDED_FORMS

    return EMBEDDED_FORMS.get(model, "llava")


def _keeps(form: str, quick: bool) -> str:
    """Budgets by default: thirds, ninths and so on of what there is."""
    if form == "next":
        return "320,160" if quick else "640,320,160"
    return "64,32" if quick else "192,128,64,32"


def _data(
    file: Path | None, split: str, questions: int | None, seed: int, form: str, metric: str | None = None
) -> DataSet:
    from ..eval import data, scoring

    if file is None:
        if metric is not None:
            raise SettingError("--metric scores your own questions; it has no meaning without --data.")
        return data.generated(split, questions or 600, seed, form)
    if seed:
        raise SettingError("--seed chooses generated scenes; it has no meaning with --data.")
    return data.own(file, questions, metric or scoring.EXACT)


def _load(model: str, clip: str | None, device: str, dtype: str) -> Loaded:
    """The model; a folder that holds `llava` and `clip`, as `gridprune tiny train` writes it, is one too."""
    from ..runtime.ask import load

    folder = Path(model)
    if (folder / "llava" / "config.json").is_file():
        found = load(str(folder / "llava"), clip=clip or folder / "clip", device=device, dtype=dtype)
        found.name = str(folder)
        return found
    return load(model, clip=clip, device=device, dtype=dtype)


def _clip_folder(model: str, clip: str | None) -> Path:
    """The local CLIP folder that a sign can be stored in."""
    from ..cues.load_text import find_beside
    from ..runtime.ask import EMBEDDED_FORMS

    if clip is not None:
        folder: Path | None = Path(clip)
    elif model in EMBEDDED_FORMS:
        from ..tiny.loading import weights_folder

        folder = weights_folder() / "clip"
    else:
        folder = find_beside(Path(model)) if Path(model).is_dir() else None
    if folder is None or not folder.is_dir():
        raise GridPruneError("--write needs a local CLIP folder: give --clip FOLDER (see `gridprune export-clip`).")
    return folder


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


@contextmanager
def _progress(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on stderr that counts questions."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=_stderr) as bar:
        task = bar.add_task(title, total=total)
        try:
            yield lambda done: bar.update(task, completed=done)
        except KeyboardInterrupt:
            bar.stop()
            _stderr.print("stopped; give the same command again to continue")
            raise typer.Exit(130) from None


def _print_json(value: Any) -> None:
    json.dump(value, sys.stdout, ensure_ascii=False)
    sys.stdout.write("\n")
