"""Relevance top-k: the tokens most like the question, anywhere in the picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from ..core.scores import topk
from ..core.token_map import TokenMap
from ..errors import SettingError
from .base import Cues, Method, Selection


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


def check_sign(sign: object) -> None:
    """Raise a :class:`SettingError` unless `sign` is +1, -1 or "tower"."""
    if isinstance(sign, bool) or not isinstance(sign, (int, str)) or sign not in (1, -1, "tower"):
        raise SettingError(f"relevance_sign must be +1, -1 or 'tower' (the sign measured for the tower), got {sign!r}.")


def signed_relevance(cues: Cues, sign: int | Literal["tower"]) -> Tensor:
    """(B, N) relevance where larger means more relevant."""
    factor = cues.relevance_sign if sign == "tower" else sign
    relevance = cues.require("relevance")
    return relevance if factor == 1 else relevance * factor
