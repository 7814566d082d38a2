"""Interleaved timing: every variant once per round, so that a machine that drifts drifts for all of them."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Timing:
    """Seconds per call: one value per round.

    On a CPU these are CPU seconds of one thread, which other processes disturb far less than wall time.
    """

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return sorted(self.seconds)[len(self.seconds) // 2]


@dataclass(frozen=True)
class Ratio:
    """Median of per-round ratios with the range of the middle half: rounds are paired, so drift cancels."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, numerator: Timing, denominator: Timing) -> Ratio:
        values = sorted(a / b for a, b in zip(numerator.seconds, denominator.seconds))
        n = len(values)
        return cls(values[n // 2], values[n // 4], values[(3 * n - 1) // 4])

    def to_list(self) -> list[float]:
        return [round(v, 5) for v in (self.median, self.low, self.high)]


def interleave(
    variants: Mapping[str, Callable[[], Any]], rounds: int, *, repeats: Mapping[str, int] | None = None
) -> dict[str, Timing]:
    """Run every variant once to warm up, then `rounds` times in turn.

    Args:
        repeats: calls per measurement for variants that are too short for the clock; the mean is taken.
    """
    repeats = repeats or {}
    collected: dict[str, list[float]] = {name: [] for name in variants}
    for variant in variants.values():
        variant()
    for _ in range(rounds):
        for name, variant in variants.items():
            count = repeats.get(name, 1)
            started = time.process_time()
            for _ in range(count):
                variant()
            collected[name].append((time.process_time() - started) / count)
    return {name: Timing(tuple(values)) for name, values in collected.items()}


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    return {
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "clock": "CPU seconds of one thread",
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
