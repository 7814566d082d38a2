"""Interleaved timing of many variants: what was measured is kept, and modules within a call are timed too."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from gridprune.bench.clock import Timing, measured, turns
from gridprune.eval.store import processor

LONG = 2.0  # seconds: a call that long is not made twice to warm up


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
    for number, name in turns(list(variants), rounds):
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
    """Seconds of one call, the mean of `repeats`: of a CPU's thread, which other processes disturb far less than wall
    time, or between two events of a GPU."""

    def every() -> None:
        for _ in range(repeats):
            call()

    if torch.cuda.is_available():
        return (measured(every, torch.device("cuda")).device_seconds or 0.0) / repeats
    started = time.thread_time()
    every()
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
        "processor": torch.cuda.get_device_name() if cuda else processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "clock": "CUDA events" if cuda else "CPU seconds of one thread",
        "dtype": "bfloat16" if cuda else "float32",
        "attention": "sdpa",
    }
