"""Interleaved timing: every variant once per round, so that a machine that drifts drifts for all of them."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

LONG = 2.0  # seconds: a call that long is not made twice to warm up


@dataclass(frozen=True)
class Timing:
    """Seconds per call: one value per round.

    On a CPU these are CPU seconds of one thread, which other processes disturb far less than wall time; on a GPU the
    time between two CUDA events.
    """

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


@dataclass
class Journal:
    """What was measured so far, so that a run that was cut off goes on with what is missing.

    Attributes:
        values: one value per round, by name.
        save: called after every measurement.
    """

    values: dict[str, list[float]] = field(default_factory=dict)
    save: Callable[[], None] = lambda: None

    def add(self, found: Mapping[str, float]) -> None:
        for name, value in found.items():
            self.values.setdefault(name, []).append(value)
        self.save()

    def once(self, name: str, measure: Callable[[], float]) -> float:
        """A value that is measured a single time."""
        if name not in self.values:
            self.add({name: measure()})
        return self.values[name][0]


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


def interleave(
    variants: Mapping[str, Callable[[], Any]],
    rounds: int,
    *,
    repeats: Mapping[str, int] | None = None,
    fewer: Mapping[str, int] | None = None,
    inside: Mapping[str, Sequence[nn.Module]] | None = None,
    journal: Journal | None = None,
    progress: Callable[[str], None] = lambda message: None,
) -> dict[str, Timing]:
    """Run the variants in turn, forwards and backwards, after a call each to warm up.

    A call that took longer than `LONG` seconds counts although it was the first, and is not repeated.

    Args:
        repeats: calls per measurement for variants that are too short for the clock; the mean is taken.
        fewer: variants that take part in the first rounds only.
        inside: modules whose seconds are wanted as well, by any name: they are found under "variant/name", the mean
            of one call.
        journal: holds what was measured before, and keeps what is measured now.
    """
    repeats, fewer, inside = repeats or {}, fewer or {}, inside or {}
    journal = journal or Journal()
    warm: dict[str, float] = {}
    for number in range(rounds):
        for name in variants if number % 2 == 0 else reversed(list(variants)):
            if number >= fewer.get(name, rounds) or len(journal.values.get(name, ())) > number:
                continue
            progress(f"{name}, {number + 1} of {fewer.get(name, rounds)}")
            found: dict[str, float] = {}
            if name not in warm:
                found = _measured(name, variants[name], 1, inside)
                warm[name] = found[name]
            if not found or warm[name] < LONG:
                found = _measured(name, variants[name], 1 if warm[name] >= LONG else repeats.get(name, 1), inside)
            journal.add({part: float(f"{value:.5g}") for part, value in found.items()})
    return {name: Timing(tuple(v)) for name, v in journal.values.items() if name.split("/")[0] in variants}


def _measured(
    name: str, call: Callable[[], Any], repeats: int, inside: Mapping[str, Sequence[nn.Module]]
) -> dict[str, float]:
    with ExitStack() as stack:
        watches = {part: stack.enter_context(_watch(modules)) for part, modules in inside.items()}
        total = seconds(call, repeats)
    parts = {f"{name}/{part}": sum(found) / len(found) for part, found in watches.items() if found}
    return {name: total} | parts


@contextmanager
def _watch(modules: Sequence[nn.Module]) -> Iterator[list[float]]:
    """Appends the seconds of every call of one of `modules`."""
    found: list[float] = []
    began: list[float] = []
    with ExitStack() as undo:
        for module in modules:
            undo.callback(module.register_forward_pre_hook(lambda *_: began.append(_now())).remove)
            undo.callback(module.register_forward_hook(lambda *_: found.append(_now() - began.pop())).remove)
        yield found


def _now() -> float:
    """Seconds of this thread on a CPU; on a GPU wall seconds, once the device has finished."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.thread_time()


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
    started = time.thread_time()
    for _ in range(repeats):
        call()
    return (time.thread_time() - started) / repeats


def free_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
