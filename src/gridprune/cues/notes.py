"""What was measured about a checkpoint, in a `gridprune.json` in its folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..files import written

NOTES_FILE = "gridprune.json"


def notes(folder: Path) -> dict[str, Any]:
    """All that is noted; empty if nothing is.

    Raises:
        CheckpointError: the file holds something else.
    """
    file = folder / NOTES_FILE
    try:
        found = json.loads(file.read_text()) if file.is_file() else {}
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise CheckpointError(
            f"{file} is no JSON object. Mend it or take it away; it holds what was measured, no more."
        )
    return found


def note(folder: Path, **measured: Any) -> Path:
    """Note what was measured, keeping whatever else the file holds; a value of None is taken out."""
    file = folder / NOTES_FILE
    kept = {name: value for name, value in {**notes(folder), **measured}.items() if value is not None}
    with written(file) as partial:
        partial.write_text(json.dumps(kept, indent=1) + "\n")
    return file
