"""Relevance top-k: the tokens most like the question, anywhere in the image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..core.scores import topk
from ..core.token_map import TokenMap
from .base import Cues, Selection
from .guided import Guided


@dataclass(frozen=True, kw_only=True)
class Relevance(Guided):
    """Keep the k tokens with the largest text relevance, a baseline without zones and without saliency."""

    name: ClassVar[str] = "relevance"
    capabilities: ClassVar[frozenset[str]] = frozenset({"scores"})

    def select(self, cues: Cues, token_map: TokenMap, k: int) -> Selection:
        scores = cues.read(self.reading)
        return Selection(topk(scores, k), scores=scores)
