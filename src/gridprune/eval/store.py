"""A run on disk: config.json, one row per scene, and what makes a run resumable without ever mixing two runs.

Rows are appended in groups of :data:`GROUP` scenes, the unit in which questions share batches. A group that a kill cut
short is dropped and answered again, so that a resumed run writes the same rows as an uninterrupted one.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePath
from typing import Any

import torch

from ..cues.first_layer import noted_head_weights
from ..cues.text_tower import TextTower
from ..errors import SettingError
from ..files import written
from . import kept
from .data import DataSet, Question
from .entries import FULL
from .shared import Result

GROUP = 8  # scenes
# What shows or serves and decides no row of a run. Every other file of the package is a part of the digest.
REPORTING = (
    "bench", "cli", "demo", "lmms", "vllm", "eval/html", "report/figure.py", "report/frames.py", "report/overlay.py",
    "runtime/batch.py", "runtime/ladder.py", "runtime/plan.py",
    "eval/calibrate.py", "eval/metrics.py", "eval/show.py", "eval/sign.py", "eval/timing.py",
)  # fmt: skip
_PACKAGE = Path(__file__).parent.parent


class RunFolder:
    """`config.json`, `rows.jsonl` (`rows.jsonl.gz` once complete), `metrics.json` and `timing.json` of one run."""

    def __init__(self, path: Path) -> None:
        self.path, self.config_file = path, path / "config.json"
        self.rows_file, self.packed_file = path / "rows.jsonl", path / "rows.jsonl.gz"

    @property
    def complete(self) -> bool:
        """Whether every question was answered."""
        return self.packed_file.is_file()

    def open(self, config: Mapping[str, Any], *, fresh: bool) -> list[dict[str, Any]]:
        """Start or continue a run; the rows that are there already.

        Raises:
            SettingError: the folder holds another run; the message says what differs.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        if fresh or not self.config_file.is_file():
            strangers = [p.name for p in self.path.iterdir()] if not self.config_file.is_file() else []
            if strangers and not fresh:
                raise SettingError(f"{self.path} holds {strangers[0]} but no run. Give an empty folder with --out.")
            for file in (self.rows_file, self.packed_file):
                file.unlink(missing_ok=True)
            write_json(self.config_file, config)
            return []
        before = json.loads(self.config_file.read_text())
        differing = [key for key in config["identity"] if config["identity"][key] != before["identity"].get(key)]
        if differing:
            raise SettingError(
                f"{self.path} holds a run with another {', '.join(differing)}. Continue it with the settings in its "
                "config.json, replace it with --fresh, or give another folder with --out."
            )
        return self.rows()

    def rows(self) -> list[dict[str, Any]]:
        """All rows; an incomplete group at the end of an unfinished run is cut off, in the file too.

        Raises:
            SettingError: a scene stands there twice.
        """
        rows = [json.loads(line) for line in self._lines()]
        if len({row["scene"] for row in rows}) < len(rows):
            raise SettingError(f"{self.path} holds scenes twice: two runs wrote to it. Replace it with --fresh.")
        return rows

    def _lines(self) -> list[bytes]:
        if self.complete:
            return gzip.decompress(self.packed_file.read_bytes()).splitlines()
        if not self.rows_file.is_file():
            return []
        data = self.rows_file.read_bytes()
        lines = data[: data.rfind(b"\n") + 1].splitlines(keepends=True)
        whole = lines[: len(lines) // GROUP * GROUP]
        if sum(map(len, whole)) < len(data):
            with self.rows_file.open("r+b") as handle:
                handle.truncate(sum(map(len, whole)))
        return whole

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add one group of scenes, on the disk before anything else happens."""
        data = "".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n" for row in rows)
        with self.rows_file.open("ab") as handle:
            handle.write(data.encode())
            handle.flush()
            os.fsync(handle.fileno())

    def finish(self) -> None:
        """Pack the rows; the same rows give the same bytes."""
        with written(self.packed_file) as partial:
            partial.write_bytes(gzip.compress(self.rows_file.read_bytes(), 9, mtime=0))
        self.rows_file.unlink()


def row_of(result: Result, *, with_kept: bool = False) -> dict[str, Any]:
    """One scene as a compact row: per cell 1 for a right answer, the words of a wrong one or [score, words]; recall;
    tokens. Questions that failed stand apart, as `failed`, with their reasons.

    Args:
        with_kept: also `kept`, the kept tokens of every cell but the full one, and where tokens lie
            (:mod:`gridprune.eval.kept`).
    """
    questions = [question for question in result.scene.questions if question.id not in result.failed]
    answers = {
        cell: [_scored(text, question) for text, question in zip(texts, questions)]
        for cell, texts in result.answers.items()
    }
    row = {
        "scene": result.scene.number,
        "questions": [[q.id, q.kind, q.text, q.answers[0] if len(q.answers) == 1 else q.answers] for q in questions],
        "answers": answers,
        "recall": {cell: _short(values) for cell, values in result.recall.items()},
        "tokens": {cell: _short(values) for cell, values in result.tokens.items()},
    }
    if result.failed:
        row["failed"] = result.failed
    return row | _kept(result) if with_kept and questions else row


def _scored(text: str, question: Question) -> Any:
    score = round(question.score(text), 4)
    return 1 if score == 1 else [score, text] if score else text


def _kept(result: Result) -> dict[str, Any]:
    assert result.places is not None
    n = len(result.places)
    return {
        "places": kept.places_of(result.places),
        "seen": [round(value, 4) for value in result.seen],
        "kept": {
            cell: _short([kept.pack(indices, n) for indices in values])
            for cell, values in result.kept.items()
            if cell != FULL
        },
    }


def _short(values: list[Any]) -> Any:
    """One value instead of a list of equal ones."""
    return values[0] if all(value == values[0] for value in values) else values


def config_of(
    *,
    model_name: str,
    model: Any,
    clip: TextTower | None,
    max_new_tokens: int | None,
    data: DataSet,
    methods: list[dict[str, Any]],
    keeps: list[Any],
    command: str,
) -> dict[str, Any]:
    """What a run is: `identity` decides whether it may be continued, the rest says where its numbers come from."""
    text, prior = model.config.get_text_config(), data.prior()
    return {
        "identity": {
            "model": model_name,
            "weights": fingerprint(model),
            "clip": None if clip is None else f"{fingerprint(clip.text_model)} {clip.reading}",
            "head_weights": noted_head_weights(model.config),
            "max_new_tokens": max_new_tokens,
            "data": data.name,
            "data_seed": data.seed,
            "data_form": data.form,
            "questions": data.total,
            "data_sha256": hashlib.sha256(data.file.read_bytes()).hexdigest() if data.file else None,
            "matching": data.matching,
            "unscored": sorted(data.unscored),
            "methods": methods,
            "keeps": keeps,
            "code": code_digest(),
            "libraries": {name: _version(name) for name in ("torch", "transformers")},
        },
        "text_prior": {name: round(value, 4) for name, value in prior.items()} if prior else None,
        "language_model": {"layers": text.num_hidden_layers, "hidden": text.hidden_size, "mlp": text.intermediate_size},
        "command": command,
        "commit": _commit(),
        "versions": {name: _version(name) for name in ("gridprune", "torch", "transformers", "numpy")}
        | {"python": platform.python_version()},
        "machine": machine(),
    }


def machine() -> dict[str, Any]:
    """What ran it, without names."""
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": platform.system(),
    }


def fingerprint(model: Any) -> str:
    """Twelve hex digits of the weights: all of them up to 400 MB, else their names, shapes and a sample of each."""
    digest = hashlib.sha256()
    small = sum(tensor.nbytes for tensor in model.state_dict().values()) < 400_000_000
    for name, tensor in model.state_dict().items():
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        part = tensor if small else tensor.flatten()[:: max(1, tensor.numel() // 64)]
        digest.update(part.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:12]


def code_digest(package: Path = _PACKAGE) -> str:
    """Twelve hex digits of everything in the package that decides what is asked, kept and answered.

    Weights are left out: the run's model has a :func:`fingerprint` of its own.
    """
    digest = hashlib.sha256()
    for file in deciding_files(package):
        data = file.read_bytes()
        digest.update(f"{file.relative_to(package).as_posix()} {len(data)} ".encode() + data)
    return digest.hexdigest()[:12]


def deciding_files(package: Path = _PACKAGE) -> list[Path]:
    """The package's files, less :data:`REPORTING`, weights, hidden files and what Python leaves behind."""
    files = (path for path in sorted(package.rglob("*")) if path.is_file())
    return [path for path in files if not _apart(path.relative_to(package))]


def _apart(path: PurePath) -> bool:
    names = {path.as_posix(), *(parent.as_posix() for parent in path.parents)}
    hidden = any(part.startswith((".", "__pycache__")) for part in path.parts)
    return hidden or bool(names & {*REPORTING, "tiny/weights"})


def write_json(file: Path, value: Any) -> None:
    """Write `value`, whole or not at all."""
    with written(file) as partial:
        partial.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"


def _commit() -> str | None:
    """The commit of the source tree, marked if it has changes; None outside a repository."""
    root = Path(__file__).parent
    try:
        commit = _git(root, "rev-parse", "--short=12", "HEAD")
        return commit + ("+changes" if _git(root, "status", "--porcelain", "--", str(root.parent)) else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True, text=True).stdout.strip()


def processor() -> str:
    """The name of this machine's processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
