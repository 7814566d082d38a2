"""Checkpoints and logs of a training stage: atomic writes, resume at any step, JSONL curves."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn


class Run:
    """State of one stage under ``folder``: ``state.pt`` (model, optimizers, step) and ``log.jsonl``.

    All randomness of a stage is a function of (seed, step), so that a resumed run repeats the curve.
    """

    def __init__(self, folder: Path, module: nn.Module, optimizers: list[torch.optim.Optimizer], *, every: int) -> None:
        self.folder, self.module, self.optimizers, self.every = folder, module, optimizers, every
        self.started, self.spent = time.monotonic(), 0.0
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def state_path(self) -> Path:
        return self.folder / "state.pt"

    def resume(self) -> int:
        """Load the last state if there is one; the step to continue at."""
        if not self.state_path.exists():
            return 0
        state = torch.load(self.state_path, weights_only=True)
        self.module.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.spent = state["seconds"]
        self._drop_rows_from(state["step"])
        return state["step"]

    def _drop_rows_from(self, step: int) -> None:
        log = self.folder / "log.jsonl"
        if log.exists():
            rows = [line for line in log.read_text().splitlines() if json.loads(line)["step"] < step]
            log.write_text("".join(row + "\n" for row in rows))

    @property
    def seconds(self) -> float:
        """Training time of this stage over all sittings."""
        return self.spent + time.monotonic() - self.started

    def save(self, step: int) -> None:
        """Write the state after ``step`` steps; a kill leaves the old or the new file, never half of one."""
        state = {
            "model": self.module.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": step,
            "seconds": self.seconds,
        }
        partial = self.state_path.with_suffix(".partial")
        torch.save(state, partial)
        os.replace(partial, self.state_path)

    def maybe_save(self, step: int, steps: int) -> None:
        if step % self.every == 0 or step == steps:
            self.save(step)

    def log(self, step: int, row: Mapping[str, Any]) -> None:
        with (self.folder / "log.jsonl").open("a") as handle:
            handle.write(json.dumps({"step": step, "seconds": round(self.seconds, 1), **row}) + "\n")
