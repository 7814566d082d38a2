"""FasterVLM: the tokens that [CLS] looks at most (https://arxiv.org/abs/2412.01818v1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..core.scores import topk
from ..core.token_map import TokenMap
from .base import Cues, Method, Selection


@dataclass(frozen=True, kw_only=True)
class FasterVLM(Method):
    """[CLS] top-k: keep the k tokens with the largest [CLS] attention of the penultimate layer, mean over heads.

    Published and this class: on towers without [CLS] the attention a token *receives* takes its place; that is not in
    the paper.
    """

    name: ClassVar[str] = "fastervlm"
    paper: ClassVar[str] = "https://arxiv.org/abs/2412.01818v1"
    capabilities: ClassVar[frozenset[str]] = frozenset({"scores"})
    reads: ClassVar[frozenset[str]] = frozenset({"saliency"})

    def select(self, cues: Cues, token_map: TokenMap, k: int) -> Selection:
        saliency = cues.require("saliency")
        return Selection(topk(saliency, k), scores=saliency)
