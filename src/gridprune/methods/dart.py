"""DART before the language model: tokens least like a few pivots (https://arxiv.org/abs/2502.11494)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..core.scores import ascending_indices
from ..core.token_map import TokenMap
from .base import Cues, Method, Selection
from .ops.similarity import member_mask, ranked, take_rows, unit
from .settings import whole


@dataclass(frozen=True, kw_only=True)
class DartInput(Method):
    """Pivots: the visual and question tokens of largest L1 norm. Each in turn takes the visual tokens least like it.

    The visual pivots stay themselves. The other k - pivots tokens are shared out equally among all pivots (visual ones
    first; the first pivots take one more where it does not divide): each takes those not yet taken whose cosine to it
    is smallest.

    Complexity: O(pivots N D).

    Published and this class: the method works inside the language model, after layer 2 or 5, with norms of keys and
    cosines of normed hidden states. This is its form on *input embeddings* (projected visual and question embeddings),
    as a serving engine ships it, so it is a pre-LLM method with a fixed count; results of the paper do not carry over.
    The paper's quotas are rounded down and miss k; here k is met. Fewer question tokens than pivots: the strongest
    visual pivot stands in.

    Attributes:
        visual_pivots: at least 1.
        text_pivots: 0 for a method without text.
    """

    visual_pivots: int = whole(4)
    text_pivots: int = whole(4, least=0)

    name: ClassVar[str] = "dart-input"
    paper: ClassVar[str] = "https://arxiv.org/abs/2502.11494"
    cost: ClassVar[str] = "O(N D)"

    @property
    def needs(self) -> frozenset[str]:
        text = {"question_embeds", "question_mask"} if self.text_pivots else set()
        return frozenset({"features"} | text)

    def select(self, cues: Cues, token_map: TokenMap, k: int) -> Selection:
        features = cues.require("features").float()
        own = min(self.visual_pivots, k)
        pivots = ranked([features.abs().sum(-1)])[:, :own]
        directions = take_rows(features, pivots)
        if self.text_pivots:
            directions = torch.cat([directions, self._text(cues, directions[:, :1])], 1)
        similarity = unit(directions) @ unit(features).mT  # [B, pivots, N]

        taken = member_mask(pivots, features.shape[1])
        parts, extra = divmod(k - own, similarity.shape[1])
        for place in range(similarity.shape[1]):
            quota = parts + (place < extra)
            order = ranked([-similarity[:, place].masked_fill(taken, float("inf"))])
            taken = taken | member_mask(order[:, :quota], features.shape[1])
        return Selection(ascending_indices(taken, k))

    def _text(self, cues: Cues, stand_in: Tensor) -> Tensor:
        """(B, text_pivots, D): the question tokens of largest norm, or `stand_in` where there are too few."""
        embeds, mask = cues.require("question_embeds").float(), cues.require("question_mask")
        strength = embeds.abs().sum(-1).masked_fill(~mask, -1.0)
        best = ranked([strength])[:, : self.text_pivots]
        found = torch.where(strength.gather(1, best)[..., None] >= 0, take_rows(embeds, best), stand_in)
        missing = self.text_pivots - found.shape[1]
        return torch.cat([found, stand_in.expand(-1, missing, -1)], 1)
