"""Relevance top-k: the tokens most like the question, anywhere in the image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from ..core.scores import topk
from ..core.token_map import TokenMap
from .base import Cues, Method, Selection
from .ops.signs import check_sign, signed_relevance


@dataclass(frozen=True, kw_only=True)
class Relevance(Method):
    """Keep the k tokens with the largest text relevance, a baseline without zones and without saliency.

    Attributes:
        relevance_sign: +1, -1, or "tower" for the sign measured for the tower in use.
    """

    relevance_sign: int | Literal["tower"] = "tower"

    name: ClassVar[str] = "relevance"
    capabilities: ClassVar[frozenset[str]] = frozenset({"scores"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sign(self.relevance_sign)

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"relevance"})

    def select(self, cues: Cues, token_map: TokenMap, k: int) -> Selection:
        scores = signed_relevance(cues, self.relevance_sign)
        return Selection(topk(scores, k), scores=scores)
