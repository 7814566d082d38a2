"""LiteLVLM: half by the question, half by attention (https://arxiv.org/abs/2605.13178)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..core.scores import topk
from ..core.token_map import TokenMap
from .base import Cues, Selection
from .guided import Guided
from .ops.similarity import member_mask, ranked


@dataclass(frozen=True, kw_only=True)
class LiteLVLM(Guided):
    """ceil(k / 2) tokens by relevance; the rest of the budget by attention, among the others.

    Published and this class: the release takes the tokens *least* similar to the question, made for grounding on
    OpenAI's CLIP: `reading` "minus". Its second half goes by the norm of attention times value; here by attention
    alone, since values of the tower are not read.
    """

    name: ClassVar[str] = "litelvlm"
    paper: ClassVar[str] = "https://arxiv.org/abs/2605.13178"
    reads: ClassVar[frozenset[str]] = frozenset({"saliency"})

    def select(self, cues: Cues, token_map: TokenMap, k: int) -> Selection:
        relevance = cues.read(self.reading).float()
        asked = member_mask(topk(relevance, (k + 1) // 2), relevance.shape[1])
        order = ranked([asked.long(), cues.require("saliency").float()])
        return Selection(order[:, :k].sort(dim=1).values)
