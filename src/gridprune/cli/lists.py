"""`gridprune methods`, `gridprune families` and `gridprune export-clip`.

The lists are read from files beside this one, written with the pages of the docs: no method and no model is imported.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from importlib.metadata import entry_points
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from ..errors import UnknownNameError
from ..files import check_folder
from .options import Json, print_json, quiet, stderr, stdout

_STAGES = {
    "pre-llm": "Before the language model",
    "in-llm": "Inside the language model: the first layers read all tokens",
}
Words = Annotated[list[str] | None, typer.Argument(help="Words to look for, such as a cue or a model.")]


def methods_command(
    words: Words = None,
    stage: Annotated[str | None, typer.Option("--stage", help="pre-llm or in-llm.")] = None,
    text: Annotated[
        bool | None, typer.Option("--text/--no-text", help="Whether the question changes what is kept.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the methods: what they do, what they need, where they act, what they cost."""
    chosen = [
        row for row in _matching("methods", words) if stage in (None, row["stage"]) and text in (None, row["uses_text"])
    ]
    if not chosen:
        raise UnknownNameError("No method is like this. `gridprune methods` lists them all.")
    if as_json:
        print_json(chosen)
        return
    for name in dict.fromkeys(row["stage"] for row in chosen):
        rows = [row for row in chosen if row["stage"] == name]
        _print(_STAGES[name], ((row["name"], row["summary"], _facts(row)) for row in rows))


def _facts(row: dict[str, Any]) -> Iterator[str]:
    """What a runner must know of a method, in words."""
    if row["uses_text"]:
        yield "guided by the question"
    if not row["fixed_count"]:
        yield "the image decides how many"
    if row["needs"]:
        yield f"reads {', '.join(row['needs'])}"
    yield row["cost"]
    if row["paper"]:
        yield row["paper"].replace("https://arxiv.org/abs/", "arXiv ")


def families_command(
    words: Words = None,
    video: Annotated[bool | None, typer.Option("--video/--no-video", help="Whether it takes videos.")] = None,
    as_json: Json = False,
) -> None:
    """List the model families: classes, where their cues come from, videos, and what they refuse."""
    chosen = [row for row in _matching("families", words) if video in (None, row["video"])]
    if not chosen:
        raise UnknownNameError("No family is like this. `gridprune families` lists them all.")
    if as_json:
        print_json(chosen)
        return
    _print("Model families", ((row["name"], row["summary"], _family_facts(row)) for row in chosen))
    stdout.print("Why something is refused: --json, or docs/families.md.", style="dim")


def _family_facts(row: dict[str, Any]) -> Iterator[str]:
    yield ", ".join(row["classes"])
    yield f"saliency: {row['saliency']}"
    yield f"relevance: {row['relevance']}"
    if row["video"]:
        yield "takes videos"
    if row["limits"]:
        yield f"refuses {', '.join(row['limits'])}"


def _matching(kind: str, words: Iterable[str] | None) -> list[dict[str, Any]]:
    """The rows that hold all words, of what is built in and what other packages add."""
    if entry_points(group=f"gridprune.{kind}"):
        from importlib import import_module

        rows = import_module(f"gridprune.{kind}.registry").describe()
    else:
        rows = json.loads((files(__package__) / f"{kind}.json").read_text(encoding="utf-8"))
    return [row for row in rows if all(word.lower() in json.dumps(row).lower() for word in words or ())]


def _print(title: str, rows: Iterable[tuple[str, str, Iterable[str]]]) -> None:
    """Names, a sentence each, and below it what else is known."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column()
    for name, summary, facts in rows:
        table.add_row(Text(name, "bold"), Text.assemble(summary, ".\n", ("; ".join(facts), "dim")))
    stdout.print(table)
    stdout.print()


def export_clip_command(
    source: Annotated[str, typer.Argument(help="A CLIP checkpoint: folder or hub id.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The side folder to write.")] = Path("clip"),
) -> None:
    """Write the text half of a CLIP, once, as a small side folder; put it as `clip` in the checkpoint it belongs to."""
    from ..cues.clip_text import ClipText

    check_folder(output)
    quiet(bars=True)
    side = ClipText.load(source)
    target = side.export(output)
    size = sum(file.stat().st_size for file in target.iterdir() if file.is_file())
    stderr.print(f"{target}: {size / 1e6:.1f} MB, relevance read as {side.reading!r}", soft_wrap=True)
