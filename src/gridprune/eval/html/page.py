"""One HTML file with everything in it: no server, no network, no other file."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment

from ..store import RunFolder
from .data import numbers, read
from .questions import data_of, gather, sample

_SCRIPTS = ("dom.js", "palette.js", "table.js", "chart.js", "kinds.js", "browser.js", "main.js")


def report(
    folder: RunFolder, *, questions: int, data: Path | None = None, progress: Callable[[int], None] = lambda done: None
) -> str:
    """The page of a run.

    Args:
        questions: about how many to show with their images, whole scenes; 0 leaves them out.
        data: the user's questions, for a run on these.
        progress: called with the number of scenes done.

    Raises:
        SettingError: there is no complete run, or `data` is not its file.
        QuestionError: `data` cannot be read.
    """
    config, rows = read(folder)
    timing_file = folder.path / "timing.json"
    timing = json.loads(timing_file.read_text(encoding="utf-8")) if timing_file.is_file() else {}
    found = numbers(config, rows, timing)
    labels = [f"{row['method']}|{row['keep']}" for row in found["rows"]]
    found["cells"] = labels
    chosen = sample(rows, questions)
    asked = data_of(config["identity"], data) if chosen else None
    found["browser"] = gather(chosen, asked, labels, progress) if asked else {"scenes": [], "questions": []}
    return render(found)


def render(found: dict[str, Any]) -> str:
    """Data, style and scripts in one page."""
    folder = files(__package__) / "assets"
    text = {name: (folder / name).read_text(encoding="utf-8") for name in ("page.html", "page.css", *_SCRIPTS)}
    data = json.dumps(found, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    script = "\n".join(text[name] for name in _SCRIPTS)
    page = Environment(autoescape=True).from_string(text["page.html"])
    return page.render(run=found["run"], style=text["page.css"], data=data, script=script)
