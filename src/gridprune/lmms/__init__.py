"""gridprune inside lmms-eval: a model, found by entry point, and a task from generated scenes.

lmms-eval --model gridprune --model_args pretrained=...,method=gridprune,keep=320 --tasks gqa,pope
lmms-eval --model gridprune --model_args pretrained=embedded,keep=64 \
    --include_path "$(python -m gridprune.lmms)" --tasks gridprune_scenes

lmms-eval finds models of other packages by the entry-point group `lmms_eval.models`. It has no such group for tasks:
their folder goes into `--include_path`, and `python -m gridprune.lmms` prints it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

TASKS = Path(__file__).parent / "tasks"


def manifest() -> Any:
    """What lmms-eval asks for at the entry point; only names, so that listing models loads nothing of ours."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id="gridprune", chat_class_path="gridprune.lmms.model.GridPruneModel")
