"""Methods that read relevance: which end of it they take to mean relevant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from ..core.reading import READINGS, Reading
from ..core.scores import minmax
from .base import Cues, Method
from .settings import one_of, setting


@dataclass(frozen=True, kw_only=True)
class Guided(Method):
    """A method that reads relevance, by `cues.read(self.reading)`.

    Attributes:
        reading: "plus", "minus", "both" or "agree" (:func:`gridprune.core.reading.read`), or "tower": as it is stored
            for the text tower in use, or the default of its kind.
    """

    reading: Reading | Literal["tower"] = setting(
        "tower", lambda v: v in (*READINGS, "tower"), f"one of {', '.join(READINGS)}, or 'tower'"
    )

    @property
    def relevance_cues(self) -> frozenset[str]:
        """What this reading of relevance needs."""
        return frozenset({"relevance", "saliency"} if self.reading == "agree" else {"relevance"})

    @property
    def needs(self) -> frozenset[str]:
        return self.reads | self.relevance_cues


@dataclass(frozen=True, kw_only=True)
class Weighed(Guided):
    """A method that weighs tokens by saliency or by relevance, and compares projected embeddings.

    Attributes:
        importance: "saliency" or "relevance".
    """

    importance: Literal["saliency", "relevance"] = one_of("saliency", "relevance")

    reads: ClassVar[frozenset[str]] = frozenset({"features"})

    @property
    def needs(self) -> frozenset[str]:
        return self.reads | ({"saliency"} if self.importance == "saliency" else self.relevance_cues)

    def weights(self, cues: Cues) -> Tensor:
        """(B, N) fp32 in [0, 1]: the importance, larger meaning more important, scaled per image."""
        return minmax(cues.require("saliency") if self.importance == "saliency" else cues.read(self.reading))
