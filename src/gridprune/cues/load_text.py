"""The text half of a vision tower: given, named, or found beside a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .clip_text import ClipText
from .siglip_text import SiglipText
from .text_tower import TextTower


def text_tower(source: TextTower | str | Path | None, model: Any) -> TextTower | None:
    """What `source` is or names; without one, what lies beside the model's checkpoint, if that is a local folder.

    Raises:
        CheckpointError: nothing loadable there, or something else.
    """
    if isinstance(source, TextTower):
        return source
    if source is None:
        folder = getattr(model.config, "_name_or_path", "") or ""
        source = find_beside(folder) if folder and Path(folder).is_dir() else None
    return None if source is None else load_text_tower(source)


def load_text_tower(source: str | Path) -> TextTower:
    """The text side that a folder or hub id holds: CLIP, SigLIP, or a side folder of `gridprune export-clip`.

    Raises:
        CheckpointError: nothing loadable there, or something else.
    """
    from transformers import AutoConfig

    try:
        kind = AutoConfig.from_pretrained(str(source)).model_type
    except Exception:  # whatever it is, ClipText says what can be given
        kind = "clip"
    return (SiglipText if kind.startswith("siglip") else ClipText).load(source)


def find_beside(model_folder: str | Path) -> Path | None:
    """A folder called `clip` in or beside a local checkpoint, if it holds a CLIP."""
    folder = Path(model_folder)
    for candidate in (folder / "clip", folder.parent / "clip"):
        if (candidate / "config.json").is_file():
            return candidate
    return None
