"""Random draws that are the same on every machine: raw PCG64 words and integer arithmetic only."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TypeVar

import numpy as np

T = TypeVar("T")


class Draws:
    """A stream of integer draws keyed by a tuple of non-negative integers."""

    def __init__(self, *key: int) -> None:
        self._bits = np.random.PCG64(np.random.SeedSequence(key))
        self._pool: list[int] = []

    def below(self, n: int) -> int:
        """Uniform integer in ``[0, n)`` (the bias of the modulo is below 2**-40 for all uses here)."""
        if not self._pool:
            self._pool = self._bits.random_raw(128).tolist()
        return (self._pool.pop() >> 8) % n

    def between(self, low: int, high: int) -> int:
        """Uniform integer in ``[low, high]``."""
        return low + self.below(high - low + 1)

    def chance(self, percent: int) -> bool:
        return self.below(100) < percent

    def choice(self, items: Sequence[T]) -> T:
        return items[self.below(len(items))]

    def shuffled(self, items: Sequence[T]) -> list[T]:
        out = list(items)
        for i in range(len(out) - 1, 0, -1):
            j = self.below(i + 1)
            out[i], out[j] = out[j], out[i]
        return out

    def noise(self, *shape: int) -> np.ndarray:
        """Uniform bytes, uint8 array of ``shape``."""
        n = int(np.prod(shape))
        return self._bits.random_raw((n + 7) // 8).astype("<u8").view(np.uint8)[:n].reshape(shape)


@lru_cache(maxsize=256)
def _block(seed: int, kind: int, n: int, block: int) -> tuple[int, ...]:
    return tuple(Draws(seed, kind, n, block, 77).shuffled(range(n)))


def rotated(seed: int, kind: int, n: int, index: int) -> int:
    """Target ``index`` of a balanced, unpredictable sequence: every block of ``n`` is a permutation."""
    return _block(seed, kind, n, index // n)[index % n]
