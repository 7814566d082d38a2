"""TRIM: the tokens that match the question, and the mean of the others (https://arxiv.org/abs/2409.10994)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from ..core.budget import Keep
from ..core.scores import ascending_indices, topk
from ..core.token_map import TokenMap
from .base import Cues, Merge, Selection
from .guided import Guided
from .ops.similarity import last_dropped, member_mask, outliers


@dataclass(frozen=True, kw_only=True)
class Trim(Guided):
    """The k - 1 tokens most relevant to the question; the mean of the unselected ones is appended (before the
    projector).

    With k = 1 only the most relevant token stays, with k = N every token and no mean.

    Published and this class: the release scores with the dot product of the unnormalised patch with the text and
    reverses its sign; here it is the cosine, and `reading` says which end counts ("minus" is the release). The mean
    sits at the place of the last unselected token instead of the end.
    """

    name: ClassVar[str] = "trim"
    paper: ClassVar[str] = "https://arxiv.org/abs/2409.10994"
    merges: ClassVar[bool] = True
    merge_space: ClassVar[Literal["features", "tower_features"]] = "tower_features"
    reads: ClassVar[frozenset[str]] = frozenset({"tower_features"})

    def select(self, cues: Cues, token_map: TokenMap, k: int) -> Selection:
        scores = cues.read(self.reading).float()
        n = scores.shape[1]
        own = k if k in (1, n) else k - 1
        kept = member_mask(topk(scores, own), n)
        chosen = kept if own == k else kept.scatter(1, last_dropped(kept), True)
        slot = chosen.cumsum(1) - 1
        rest = slot.gather(1, last_dropped(kept)) if own < k else torch.full_like(slot[:, :1], -1)
        merge = Merge(
            group=torch.where(kept, slot, rest),
            weight=kept.float().masked_fill(~kept, 1 / max(n - own, 1)),
            space="tower_features",
        )
        return Selection(ascending_indices(chosen, k), scores=scores, merge=merge)


@dataclass(frozen=True, kw_only=True)
class TrimIQR(Trim):
    """TRIM with a count of its kind: the outliers of softmax(relevance), above Q3 + 1.5 (Q3 - Q1), and the mean.

    `keep` is the upper limit.

    Published and this class: the count is not TRIM's. The release takes the softmax of dot products with unnormalised
    patches, which is sharp; of cosines, as here, it is nearly flat, so that the outliers are those of the relevance
    itself, and fewer. Published counts (about 21 % on average) say nothing about this class.
    """

    keep: Keep = "100%"

    name: ClassVar[str] = "trim-iqr"
    fixed_count: ClassVar[bool] = False

    def count(self, cues: Cues, token_map: TokenMap) -> int:
        self._check_single(cues)
        scores = cues.read(self.reading).float().softmax(-1)
        return min(int(outliers(scores).sum()) + 1, self.budget.resolve(len(token_map)))
