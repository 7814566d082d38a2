"""A make-believe CUDA graph, on the make-believe accelerator: it refuses what no capture takes, and computes anew."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch

from accelerator import DEVICE
from gridprune.core.graphs import Graphs, KernelsAlone, each_tensor, tensors_of


class Replay:
    """A recorder; `recorded` counts what it recorded."""

    def __init__(self) -> None:
        self.recorded = self.replayed = 0

    def able(self, device: torch.device) -> bool:
        return device.type == DEVICE.type

    def record(self, function: Callable[[], Any], device: torch.device) -> tuple[Callable[[], object], Any]:
        function()  # as the real one does, which makes what is made once
        with KernelsAlone():
            results = each_tensor(function(), torch.clone)
        self.recorded += 1

        def replay() -> None:
            self.replayed += 1
            with KernelsAlone():
                for old, new in zip(tensors_of(results), tensors_of(function()), strict=True):
                    if old.device.type != "cpu":
                        old.copy_(new)

        return replay, results

    def turn(self, device: torch.device) -> Any:
        return nullcontext()


class Still(Replay):
    """A recorder of which nothing but the launches is seen: results stay what they were when they were recorded."""

    def record(self, function: Callable[[], Any], device: torch.device) -> tuple[Callable[[], object], Any]:
        return (lambda: None), super().record(function, device)[1]


def make_believe() -> Graphs:
    """Graphs whose recorder is a :class:`Replay`."""
    return Graphs(Replay())
