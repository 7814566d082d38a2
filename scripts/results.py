"""From results/ into README.md and docs/: blocks between markers, plots, and the leaderboard, written or checked.

A block ``<!-- results:RUN/NAME -->`` ... ``<!-- /results:RUN/NAME -->`` holds the table or plot NAME of results/RUN
(:data:`scripts.tables.TABLES`, :data:`scripts.plots.PLOTS`); ``results:RUN/NAME?gridprune,oracle``
takes some of the methods only. ``results:bench/NAME`` shows results/bench.json, the run of `python -m benchmarks`
(:data:`benchmarks.tables.TABLES`, :data:`benchmarks.plots.PLOTS`), and ``results:vllm/NAME``
results/vllm.json, that of benchmarks/vllm_bench.py (:data:`benchmarks.serving.TABLES`), ``results:gpu/NAME`` and
``results:h100/NAME`` what was measured on GPUs (:data:`benchmarks.gpu.TABLES`).
``results:published/NAME`` and ``results:../recipes/expected/NAME``
show what others published (:data:`benchmarks.literature.TABLES`). results/leaderboard.json is the short form of
results/leaderboard/.
"""

from __future__ import annotations

import json
import os
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks import gpu, literature, serving
from benchmarks import plots as speed_plots
from benchmarks import tables as speed_tables
from gridprune.errors import SettingError, UnknownNameError
from gridprune.eval.entries import parse_list
from gridprune.eval.metrics import summarise
from gridprune.eval.store import RunFolder, write_json

from .plots import PLOTS, draw, is_current
from .tables import TABLES

_BLOCK = re.compile(r"(<!-- results:(?P<spec>\S+?) -->\n)(?P<body>.*?)(<!-- /results:(?P=spec) -->)", re.DOTALL)
_OPEN = re.compile(r"<!-- results:(\S+?) -->")
LEADERBOARD = "leaderboard"
stderr = Console(stderr=True)
_OF_FILES = {**speed_tables.TABLES, **serving.TABLES, **gpu.TABLES, **literature.TABLES}  # of one JSON file each
_TABLES: Mapping[str, Callable[[Any], str]] = {**TABLES, **_OF_FILES}
_PLOTS: Mapping[str, Callable[[Any, Any], None]] = {**PLOTS, **speed_plots.PLOTS}
_OF_A_FILE = {*_OF_FILES, *speed_plots.PLOTS}


def write(root: Path) -> list[str]:
    """Recompute metrics from rows, fill every block, draw every plot; the files that changed."""
    changed = []
    for folder in runs(root):
        metrics = _recomputed(folder)
        if metrics != _read(folder.path / "metrics.json"):
            write_json(folder.path / "metrics.json", metrics)
            changed.append(_name(folder.path / "metrics.json", root))
    board = _board(root)
    if board is not None and board != _read(_board_file(root)):
        write_json(_board_file(root), board)
        changed.append(_name(_board_file(root), root))
    for file in pages(root):
        before = file.read_text(encoding="utf-8")
        after = _BLOCK.sub(partial(_filled, root=root, page=file, drawn=changed), before)
        if after != before:
            file.write_text(after, encoding="utf-8")
            changed.append(_name(file, root))
    return changed


def check(root: Path) -> list[str]:
    """What is stale, one line each; nothing is written."""
    stale = []
    for folder in runs(root):
        file = folder.path / "metrics.json"
        stale += [] if _recomputed(folder) == _read(file) else [f"{_name(file, root)} is not what its rows give"]
    board = _board(root)
    if board is not None and board != _read(_board_file(root)):
        stale.append("results/leaderboard.json is not what results/leaderboard/ gives")
    for file in pages(root):
        text = file.read_text(encoding="utf-8")
        closed = Counter(match["spec"] for match in _BLOCK.finditer(text))
        opened = Counter(_OPEN.findall(text))
        stale += [f"{_name(file, root)}: the block {spec} is not closed" for spec in opened - closed]
        for match in _BLOCK.finditer(text):
            if _filled(match, root=root, page=file, drawn=None) != match[0]:
                stale.append(f"{_name(file, root)}: the block {match['spec']} is stale")
            plot = None if _unmeasured(match["spec"], root) else _plot_of(match["spec"], root)
            if plot is not None and not is_current(plot[0], _run(match["spec"], root), plot[1]):
                stale.append(f"{_name(plot[1], root)} is stale")
    return stale


def runs(root: Path) -> list[RunFolder]:
    """Complete runs under results/."""
    folders = sorted(path.parent for path in (root / "results").glob("*/rows.jsonl.gz"))
    return [RunFolder(path) for path in folders]


def pages(root: Path) -> Iterator[Path]:
    """README.md and the Markdown files of docs/ that hold blocks."""
    for file in [root / "README.md", *sorted((root / "docs").rglob("*.md"))]:
        if file.is_file() and "<!-- results:" in file.read_text(encoding="utf-8"):
            yield file


def _filled(match: re.Match[str], *, root: Path, page: Path, drawn: list[str] | None) -> str:
    """A block with its content; a plot is drawn if it is stale and `drawn` takes its name."""
    spec = match["spec"]
    if _unmeasured(spec, root):
        return f"{match[1]}\nNot measured yet: there is no results/{_split(spec)[0]}.json.\n\n{match[4]}"
    run = _run(spec, root)
    plot = _plot_of(spec, root)
    if plot is None:
        body = _TABLES[_split(spec)[1]](run)
    else:
        name, file = plot
        if drawn is not None and not is_current(name, run, file):
            draw(name, run, file, _PLOTS[name])
            drawn.append(_name(file, root))
        what = (_PLOTS[name].__doc__ or name).strip().rstrip(".")
        body = f"![{what}]({Path(os.path.relpath(file, page.parent)).as_posix()})"
    return f"{match[1]}\n{body}\n\n{match[4]}"


def _split(spec: str) -> tuple[str, str, list[str]]:
    """RUN, NAME and the methods of a block."""
    path, _, chosen = spec.partition("?")
    run, _, name = path.rpartition("/")
    if name not in _TABLES and name not in _PLOTS:
        known = ", ".join([*_TABLES, *_PLOTS])
        raise UnknownNameError(f"There is no table or plot {name!r} (block {spec}). Known: {known}.")
    return run, name, [entry.label for entry in parse_list(chosen)] if chosen else []


def _run(spec: str, root: Path) -> dict[str, Any]:
    """Metrics, config and timing of a block's run."""
    name, table, chosen = _split(spec)
    if table in _OF_A_FILE:
        return dict(_read(root / "results" / f"{name}.json"))
    folder = root / "results" / name
    if not (folder / "metrics.json").is_file():
        raise SettingError(f"The block {spec} shows the run results/{name}, which is not there or not complete.")
    run = {**_read(folder / "metrics.json"), "config": _read(folder / "config.json")}
    run["timing"] = _read(folder / "timing.json") or {}
    if chosen:
        run["rows"] = [row for row in run["rows"] if row["method"] in chosen]
    return run


def _unmeasured(spec: str, root: Path) -> bool:
    """Whether a block shows a bench before it was ever run."""
    name, table, _ = _split(spec)
    return table in _OF_A_FILE and not (root / "results" / f"{name}.json").is_file()


def _plot_of(spec: str, root: Path) -> tuple[str, Path] | None:
    """The plot's name and its file."""
    run, name, chosen = _split(spec)
    if name not in _PLOTS:
        return None
    suffix = f"-{zlib.crc32(','.join(chosen).encode()):08x}" if chosen else ""
    return name, root / "docs" / "images" / (re.sub(r"[^\w-]+", "-", f"{run}-{name}{suffix}") + ".png")


def _recomputed(folder: RunFolder) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(summarise(folder.rows(), _read(folder.config_file))))
    return found


def _board(root: Path) -> dict[str, Any] | None:
    """The short form of the leaderboard's metrics."""
    metrics = _read(root / "results" / LEADERBOARD / "metrics.json")
    if metrics is None:
        return None
    rows = [{key: row[key] for key in ("method", "keep", "retention", "ci")} for row in metrics["rows"]]
    return {"rows": rows, "best_peer": metrics["best_peer"]}


def _board_file(root: Path) -> Path:
    return root / "results" / "leaderboard.json"


def _read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None


def _name(file: Path, root: Path) -> str:
    return file.relative_to(root).as_posix()


def main(
    fill: Annotated[bool, typer.Option("--write", help="Fill the marked blocks of README.md and docs/.")] = False,
    checking: Annotated[bool, typer.Option("--check", help="Fail if a block, plot or summary is stale.")] = False,
    root: Annotated[Path, typer.Option("--root", help="The source tree that holds results/.")] = Path(),
) -> None:
    """Write the tables and plots of results/ into README.md and docs/, or check that they are up to date."""

    if fill == checking:
        raise SettingError("Give one of --write and --check.")
    if fill:
        for name in write(root):
            stderr.print(f"wrote {name}", highlight=False)
        return
    stale = check(root)
    for line in stale:
        stderr.print(line, highlight=False, soft_wrap=True)
    if stale:
        stderr.print("Run `python -m scripts.results --write` and commit what it changes.")
        raise typer.Exit(1)
    stderr.print("all tables and plots are up to date")


if __name__ == "__main__":
    typer.run(main)
