"""The numbers of a run, in the form that the page draws."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ...errors import GridPruneError, SettingError
from .. import entries
from ..downsample import shrinks_image
from ..metrics import summarise
from ..store import RunFolder

_START = ("gridprune", "gridprune-literal", "random", "uniform", "oracle")  # drawn at first, with the best peers


def read(folder: RunFolder) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Config and rows of a complete run.

    Raises:
        SettingError: there is no run, or it is not complete.
    """
    if not folder.config_file.is_file():
        raise SettingError(f"{folder.path} holds no run: give a folder that `gridprune eval --out` wrote.")
    config = json.loads(folder.config_file.read_text(encoding="utf-8"))
    if not folder.complete:
        raise SettingError(f"The run in {folder.path} is not complete. Continue it first: {config['command']}")
    return config, folder.rows()


def numbers(config: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], timing: Mapping[str, Any]) -> dict[str, Any]:
    """Everything but the questions.

    Args:
        timing: timing.json of the run, or nothing.
    """
    metrics = summarise(rows, config)
    identity = config["identity"]
    asked = _asked(rows)
    return {
        "run": _provenance(config, metrics),
        "full": metrics["full"] | {"seconds": _reading(timing, metrics["full"]["tokens"])},
        "prior": metrics["text_prior"],
        "kinds": [{"name": name, "asked": asked[name]} for name in metrics["full"]["kinds"]],
        "averaged": metrics["averaged_kinds"],
        "keeps": [str(keep) for keep in identity["keeps"]],
        "methods": [_method(method["label"], metrics["best_peer"]) for method in identity["methods"]],
        "rows": [_row(row, timing) for row in metrics["rows"]],
        "peers": [{"keep": keep, **peer} for keep, peer in metrics["best_peer"].items()],
    }


def _provenance(config: Mapping[str, Any], metrics: Mapping[str, Any]) -> dict[str, Any]:
    identity = config["identity"]
    return {
        "model": identity["model"],
        "data": identity["data"],
        "own": identity["data_sha256"] is not None,
        "questions": metrics["n"],
        "scenes": metrics["scenes"],
        "matching": identity["matching"],
        "command": config["command"],
        "commit": config["commit"],
        "versions": config["versions"],
        "machine": config["machine"],
    }


def _asked(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Questions by kind."""
    counts: dict[str, int] = {}
    for row in rows:
        for _, kind, *_ in row["questions"]:
            counts[kind] = counts.get(kind, 0) + 1
    return counts


def _method(label: str, peers: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    shown = label in _START or any(peer["method"] == label for peer in peers.values())
    return {"label": label, "note": _note(label), "shown": shown}


def _note(label: str) -> str:
    """What the marked tokens of an image do not say by themselves."""
    try:
        method = entries.parse(label).method("50%")
    except GridPruneError:  # a plugin that is not installed here
        return ""
    if shrinks_image(method):
        return "The whole image was made smaller; marked is where its tokens lie in the full one."
    return "Marked tokens absorbed others." if method.merges else ""


def _row(row: Mapping[str, Any], timing: Mapping[str, Any]) -> dict[str, Any]:
    decide = timing.get("decide", {}).get(f"{row['method']}|{row['keep']}")
    reading = _reading(timing, row["tokens"])
    total = None if decide is None or reading is None else decide + reading
    return {**row, "keep": str(row["keep"]), "decide": decide, "seconds": total}


def _reading(timing: Mapping[str, Any], tokens: float) -> float | None:
    """Measured seconds to read a prompt with that many visual tokens."""
    seconds: float | None = timing.get("prefill", {}).get(f"{tokens:g}")
    return seconds
