"""LLaVA-PruMerge and PruMerge+, in variable-count and fixed-count form (https://arxiv.org/abs/2403.15388)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..core.budget import Keep
from ..core.scores import ascending_indices
from ..core.token_map import TokenMap
from .base import Cues, Merge, Method, Selection
from .ops.similarity import Cosine, last_dropped, member_mask, outliers, ranked
from .settings import one_of, whole


@dataclass(frozen=True, kw_only=True)
class PruMerge(Method):
    """Keep the tokens whose attention is an outlier, merge their neighbours in, append one token for all the rest.

    a = softmax(q_cls K^T / sqrt(C)), the attention layer taken as one head of full width. Kept are the tokens with
    a > Q3 + 1.5 (Q3 - Q1). A kept token becomes x_i + sum_j a_j x_j over its 32 nearest tokens by key cosine (any
    others, kept or not; weights as they are); one more token, sum_j a_j x_j over all pruned tokens, is appended.
    Merging is done on tower features, before the projector.

    Complexity: O(k N C) for the neighbours.

    The count depends on the image: `keep` is its upper limit, and engines that need a fixed count use
    :class:`PruMergeFixed`. For any k, the k - 1 tokens with the most attention stay (k if k = 1 or k = N, without an
    appended token; nothing is merged if nothing is pruned).

    Published and this class: the release reads the last tower layer, here queries and keys are those of the family's
    saliency layer, and [CLS] itself is no part of the softmax. The release appends the extra token at the end; here it
    sits at the place of the last pruned token. On several crops the [CLS] queries are averaged.

    Attributes:
        neighbours: tokens merged into each kept one.
        attention: "single-head" as released (needs a tower with [CLS]), or "saliency", the usual mean over heads.
    """

    keep: Keep = "100%"
    neighbours: int = whole(32, least=0)
    attention: Literal["single-head", "saliency"] = one_of("single-head", "saliency")

    name: ClassVar[str] = "prumerge"
    paper: ClassVar[str] = "https://arxiv.org/abs/2403.15388"
    fixed_count: ClassVar[bool] = False
    merges: ClassVar[bool] = True
    merge_space: ClassVar[Literal["features", "tower_features"]] = "tower_features"
    cost: ClassVar[str] = "O(k N C)"

    @property
    def needs(self) -> frozenset[str]:
        own = "queries_cls" if self.attention == "single-head" else "saliency"
        return frozenset({"keys", "tower_features", own})

    def count(self, cues: Cues, token_map: TokenMap) -> int:
        limit = self.budget.resolve(len(token_map))
        if self.fixed_count:
            return limit
        self._check_single(cues)
        wanted = self._preferred(self._attention(cues), limit)  # [1, N]
        return min(int((wanted > 0).sum()) + 1, limit)

    def select(self, cues: Cues, token_map: TokenMap, k: int) -> Selection:
        attention = self._attention(cues)
        batch, n = attention.shape
        own = k if k in (1, n) else k - 1
        kept = member_mask(ranked([self._preferred(attention, k), attention])[:, :own], n)
        if k == n:
            return Selection(ascending_indices(kept, k), scores=attention, merge=_identity(batch, n, attention.device))
        chosen = kept if own == k else kept.scatter(1, last_dropped(kept), True)
        indices = ascending_indices(chosen, k)
        return Selection(indices, scores=attention, merge=self._merge(cues, attention, kept, chosen, own))

    def _attention(self, cues: Cues) -> Tensor:
        """a, (B, N) fp32."""
        if self.attention == "saliency":
            return cues.require("saliency").float()
        keys = cues.require("keys").float()
        logits = (keys @ cues.require("queries_cls").float()[..., None])[..., 0] * keys.shape[-1] ** -0.5
        return logits.softmax(-1)

    def _preferred(self, attention: Tensor, k: int) -> Tensor:
        """(B, N) int64: the class of each token; higher classes go first, attention decides inside one."""
        return outliers(attention).long()

    def _merge(self, cues: Cues, attention: Tensor, kept: Tensor, chosen: Tensor, own: int) -> Merge:
        batch, n = attention.shape
        slot = chosen.cumsum(1) - 1
        tokens = ascending_indices(kept, own)  # [B, own]
        own_slot = slot.gather(1, tokens)

        near = min(self.neighbours, n - 1)
        similarity = Cosine(cues.require("keys")).rows(tokens).scatter(2, tokens[..., None], float("-inf"))
        nearest = similarity.argsort(dim=-1, descending=True, stable=True)[..., :near].flatten(1)  # [B, own * near]

        everyone = torch.arange(n, device=attention.device).expand(batch, n)
        extra = torch.full_like(slot[:, :1], -1) if chosen is kept else slot.gather(1, last_dropped(kept))
        return Merge(
            group=torch.cat([own_slot, own_slot.repeat_interleave(near, 1), torch.where(kept, -1, extra)], 1),
            weight=torch.cat(
                [torch.ones_like(tokens, dtype=torch.float32), attention.gather(1, nearest), attention], 1
            ),
            space="tower_features",
            token=torch.cat([tokens, nearest, everyone], 1),
        )


@dataclass(frozen=True, kw_only=True)
class PruMergePlus(PruMerge):
    """PruMerge with evenly spaced tokens beside the outliers: about four times as many tokens.

    With the share p = outliers / N, every s-th token is added, s = int(int(1 / p) / 3), over all but the last token, if
    it is not kept already. The rest is :class:`PruMerge`.
    """

    name: ClassVar[str] = "prumerge-plus"

    def _preferred(self, attention: Tensor, k: int) -> Tensor:
        top = outliers(attention)
        n = attention.shape[1]
        count = top.sum(1, keepdim=True).clamp(min=1)
        step = torch.div(torch.div(n, count, rounding_mode="floor"), 3, rounding_mode="floor").clamp(min=1)
        place = torch.arange(n, device=attention.device)
        spaced = (place % step == 0) & (place < max(n - 1, 1))
        return torch.where(top, 2, spaced.long())


@dataclass(frozen=True, kw_only=True)
class PruMergeFixed(PruMerge):
    """PruMerge with a fixed count: the k - 1 tokens with the most attention, and the appended token."""

    keep: Keep = "11.1%"

    name: ClassVar[str] = "prumerge-fixed"
    fixed_count: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True)
class PruMergePlusFixed(PruMerge):
    """PruMerge+ with a fixed count.

    Of the k - 1 tokens beside the appended one, a quarter (rounded half up, as many as PruMerge would keep) go by
    attention; the others are evenly spaced over what is left: the floor(j R / s)-th of R tokens, j = 0 .. s - 1.
    """

    keep: Keep = "11.1%"

    name: ClassVar[str] = "prumerge-plus-fixed"
    fixed_count: ClassVar[bool] = True

    def _preferred(self, attention: Tensor, k: int) -> Tensor:
        n = attention.shape[1]
        own = k if k in (1, n) else k - 1
        top = max(1, (own + 2) // 4)
        by_attention = member_mask(ranked([attention])[:, :top], n)
        if own == top:
            return by_attention.long()
        rest = ascending_indices(~by_attention, n - top)
        step = torch.arange(own - top, device=attention.device) * (n - top) // (own - top)
        return by_attention.long() * 2 + member_mask(rest[:, step], n).long()


def _identity(batch: int, n: int, device: torch.device) -> Merge:
    group = torch.arange(n, device=device).expand(batch, n)
    return Merge(group, torch.ones(batch, n, dtype=torch.float32, device=device), "tower_features")
