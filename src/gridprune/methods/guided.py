"""Methods that read relevance: which end of it they take to mean relevant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..core.reading import READINGS, Reading
from .base import Method


@dataclass(frozen=True, kw_only=True)
class Guided(Method):
    """A method that reads relevance, by `cues.read(self.reading)`.

    Attributes:
        reading: "plus", "minus", "both" or "agree" (:func:`gridprune.core.reading.read`), or "tower": as it is stored
            for the text tower in use, or the default of its kind.
    """

    reading: Reading | Literal["tower"] = "tower"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("reading", lambda v: v in (*READINGS, "tower"), f"one of {', '.join(READINGS)}, or 'tower'")

    @property
    def relevance_cues(self) -> frozenset[str]:
        """What this reading of relevance needs."""
        return frozenset({"relevance", "saliency"} if self.reading == "agree" else {"relevance"})
