"""How calls are measured, on a make-believe GPU whose clock and memory stand still between launches."""

from __future__ import annotations

import time
from contextlib import nullcontext

import pytest
import torch

from gridprune.bench.clock import Ratio, Sample, Timing, measured, turns


class Gpu:
    """A host that launches, a device that works through it, and memory; times in milliseconds."""

    def __init__(self) -> None:
        self.host = self.device = 0.0
        self.waits = 0
        self.held, self.most = 100, 0

    def launch(self, host: float, device: float) -> None:
        self.host += host
        self.device = max(self.device, self.host) + device

    def synchronize(self) -> None:
        self.waits += 1
        self.host = max(self.host, self.device)

    def allocate(self, amount: int) -> None:
        self.held += amount
        self.most = max(self.most, self.held)


@pytest.fixture
def gpu(monkeypatch):
    gpu = Gpu()

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            self.at = max(gpu.host, gpu.device)

        def elapsed_time(self, other):
            return other.at - self.at

    monkeypatch.setattr(torch.cuda, "device", nullcontext)
    monkeypatch.setattr(time, "perf_counter", lambda: gpu.host / 1e3)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", gpu.synchronize)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: gpu.held)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: gpu.most)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: setattr(gpu, "most", gpu.held))
    return gpu


@pytest.mark.parametrize(
    ("host", "device", "seconds", "launching"),
    [(5.0, 1.0, 0.051, 0.050), (1.0, 5.0, 0.051, 0.010)],
    ids=["the device waits for the host", "the host is ahead"],
)
def test_a_call_on_a_gpu(gpu, host, device, seconds, launching):
    gpu.launch(0.0, 400.0)  # what was under way before is not counted

    def call():
        waited = gpu.waits
        gpu.allocate(30)
        for _ in range(10):
            gpu.launch(host, device)
        gpu.allocate(-30)
        assert gpu.waits == waited

    found = measured(call, torch.device("cuda"))
    assert gpu.waits == 2  # at the ends only
    assert found.seconds == pytest.approx(seconds)
    assert found.device_seconds == pytest.approx(0.051)
    assert found.launch_seconds == pytest.approx(launching)
    assert found.launch_share == pytest.approx(launching / 0.051)
    assert found.peak_bytes == 30


def test_a_call_on_a_cpu_says_what_it_does_not_know(gpu):
    found = measured(lambda: gpu.launch(3.0, 0.0), torch.device("cpu"))
    assert found == Sample(seconds=pytest.approx(0.003))
    assert found.launch_share is None
    assert gpu.waits == 0


def test_everything_takes_its_turn_forwards_and_backwards():
    assert list(turns("abc", 3)) == [(0, "a"), (0, "b"), (0, "c"), (1, "c"), (1, "b"), (1, "a"), *zip([2] * 3, "abc")]


def test_ratios_are_of_the_same_round():
    slow = Timing((2.0, 40.0, 6.0))  # the second round was disturbed
    fast = Timing((1.0, 10.0, 2.0))
    assert slow.to_list() == [6.0, 2.0, 40.0]
    assert Ratio.of(slow, fast).to_list() == [3.0, 2.0, 4.0]
