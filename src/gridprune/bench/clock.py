"""Measuring calls: every one in turn, so that a machine that drifts drifts for all, and the device waited for at the
ends of a call only."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

T = TypeVar("T")


@dataclass(frozen=True)
class Sample:
    """One measured call.

    Attributes:
        seconds: wall time until the device has finished.
        device_seconds: between an event of the device before the call and one behind it; None on a CPU.
        launch_seconds: wall time until the host had launched everything; None on a CPU.
        peak_bytes: the most memory the call held beyond what there was; None on a CPU, where nobody counts it.
    """

    seconds: float
    device_seconds: float | None = None
    launch_seconds: float | None = None
    peak_bytes: int | None = None

    @property
    def launch_share(self) -> float | None:
        """How much of the device's time the host was still launching; near 1 the device waited for the host."""
        if self.launch_seconds is None or not self.device_seconds:
            return None
        return min(self.launch_seconds / self.device_seconds, 1.0)


def measured(call: Callable[[], Any], device: torch.device) -> Sample:
    """Run `call` once; what it returns is dropped before the memory is read."""
    if device.type != "cuda":
        started = time.perf_counter()
        call()
        return Sample(time.perf_counter() - started)
    with torch.cuda.device(device):
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        started = time.perf_counter()
        before.record()
        call()
        after.record()
        launched = time.perf_counter()
        torch.cuda.synchronize()
        finished = time.perf_counter()
        return Sample(
            seconds=finished - started,
            device_seconds=before.elapsed_time(after) / 1e3,
            launch_seconds=launched - started,
            peak_bytes=torch.cuda.max_memory_allocated() - held,
        )


def turns(items: Sequence[T], rounds: int) -> Iterator[tuple[int, T]]:
    """Every item once a round, with the round's number: forwards, then backwards, and so on."""
    for number in range(rounds):
        for item in items if number % 2 == 0 else reversed(items):
            yield number, item


@dataclass(frozen=True)
class Timing:
    """Seconds per call: one value per round."""

    seconds: tuple[float, ...]

    def __add__(self, other: Timing) -> Timing:
        """Round by round, as long as both have one."""
        return Timing(tuple(a + b for a, b in zip(self.seconds, other.seconds)))

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float, float]:
        """Median and the range of the middle half."""
        return _quartiles(self.seconds)

    def to_list(self) -> list[float]:
        """Median and the range of the middle half."""
        return [float(f"{v:.4g}") for v in self.quartiles]


@dataclass(frozen=True)
class Ratio:
    """Median of per-round ratios with the range of the middle half: rounds are paired, so drift cancels."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, numerator: Timing, denominator: Timing) -> Ratio:
        return cls.from_values(a / b for a, b in zip(numerator.seconds, denominator.seconds))

    @classmethod
    def from_values(cls, ratios: Iterator[float]) -> Ratio:
        return cls(*_quartiles(tuple(ratios)))

    def to_list(self) -> list[float]:
        return [round(v, 5) for v in (self.median, self.low, self.high)]


def _quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    ascending, n = sorted(values), len(values)
    return statistics.median(ascending), ascending[n // 4], ascending[(3 * n - 1) // 4]
