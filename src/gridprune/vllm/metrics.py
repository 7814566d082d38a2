"""What the plugin counts, beside vLLM's own at /metrics.

Tokens are counted where prompts are made, decisions where the model runs, mostly in another process. The values of
several processes add up at /metrics if prometheus_client finds a folder for them in PROMETHEUS_MULTIPROC_DIR.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from prometheus_client import Counter, Histogram

from .settings import build
from .told import Kept

_LABELS = ("model_name", "method")
TOKENS = Counter("gridprune:visual_tokens", "Visual tokens of the images in prompts, before pruning.", _LABELS)
KEPT = Counter("gridprune:kept_tokens", "Visual tokens of the images in prompts that were kept.", _LABELS)
SECONDS = Histogram(
    "gridprune:decision_seconds",
    "Seconds to choose the tokens of a batch of images that were encoded.",
    _LABELS,
    buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5),
)
FALLBACKS = Counter("gridprune:fallback_images", "Images that kept evenly spread tokens: their choice failed.", _LABELS)


def count(model: str, images: Sequence[Kept]) -> None:
    """Count the images of a prompt. Methods go by name: settings that clients choose would make endless labels."""
    for image in images:
        labels = (model, build(image.method).name)
        TOKENS.labels(*labels).inc(image.total)
        KEPT.labels(*labels).inc(image.kept)


@dataclass(frozen=True)
class Watch:
    """Counts decisions of one model.

    Attributes:
        model: as it is served.
        counts: whether this process does; of several that decide the same, one.
    """

    model: str
    counts: bool

    @contextmanager
    def deciding(self, method: str, device: torch.device) -> Iterator[None]:
        """Measure the block."""
        seconds = stopwatch(device)
        yield
        if self.counts:
            SECONDS.labels(self.model, build(method).name).observe(seconds())

    def fell_back(self, method: str) -> None:
        """An image whose choice failed."""
        if self.counts:
            FALLBACKS.labels(self.model, method).inc()


def stopwatch(device: torch.device) -> Callable[[], float]:
    """What tells the seconds since now, by the device's clock: it may still be busy with what came before."""
    if device.type == "cpu":
        started = time.perf_counter()
        return lambda: time.perf_counter() - started
    start, end = (torch.Event(device=device, enable_timing=True) for _ in range(2))
    start.record()

    def seconds() -> float:
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3

    return seconds
