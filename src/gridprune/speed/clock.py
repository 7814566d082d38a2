"""Interleaved timing: every variant once per round, so that a machine that drifts drifts for all of them."""

from __future__ import annotations

import platform
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True)
class Timing:
    """Seconds per call: one value per round.

    On a CPU these are CPU seconds of one thread, which other processes disturb far less than wall time; on a GPU the
    time between two CUDA events.
    """

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return sorted(self.seconds)[len(self.seconds) // 2]

    def to_list(self) -> list[float]:
        """Median and the range of the middle half."""
        values = sorted(self.seconds)
        n = len(values)
        return [float(f"{v:.4g}") for v in (values[n // 2], values[n // 4], values[(3 * n - 1) // 4])]


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
        values = sorted(ratios)
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
            collected[name].append(seconds(variant, repeats.get(name, 1)))
    return {name: Timing(tuple(values)) for name, values in collected.items()}


def seconds(call: Callable[[], Any], repeats: int = 1) -> float:
    """Seconds of one call, the mean of `repeats`."""
    if torch.cuda.is_available():
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        begin.record()
        for _ in range(repeats):
            call()
        end.record()
        torch.cuda.synchronize()
        return float(begin.elapsed_time(end)) / 1e3 / repeats
    started = time.process_time()
    for _ in range(repeats):
        call()
    return (time.process_time() - started) / repeats


def wall(call: Callable[[], Any], threads: int) -> float:
    """Wall seconds of one call with `threads` threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        call()
        started = time.perf_counter()
        call()
        return time.perf_counter() - started
    finally:
        torch.set_num_threads(before)


@contextmanager
def resident_peak() -> Iterator[list[int]]:
    """Appends by how many bytes the process grew at most meanwhile: GPU memory, or resident memory on Linux."""
    grown: list[int] = []
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        yield grown
        grown.append(torch.cuda.max_memory_allocated() - before)
        return
    before, most, done = _resident(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            most[0] = max(most[0], _resident())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield grown
    finally:
        done.set()
        watcher.join()
        grown.append(max(most[0] - before, 0))


def _resident() -> int:
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
    except OSError:
        return 0


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    cuda = torch.cuda.is_available()
    return {
        "processor": torch.cuda.get_device_name() if cuda else _processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "clock": "CUDA events" if cuda else "CPU seconds of one thread",
        "dtype": "bfloat16" if cuda else "float32",
        "attention": "sdpa",
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
