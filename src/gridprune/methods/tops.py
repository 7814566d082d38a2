"""TOPS, stage one: relevance, coverage and diversity in one greedy (https://arxiv.org/abs/2606.27161)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ..core.token_map import TokenMap
from .base import Cues, Method, Selection
from .ops.similarity import TIE, Cosine, Coverage, Picks
from .settings import number


@dataclass(frozen=True, kw_only=True)
class TopsStageOne(Method):
    """Salient tokens that differ from those chosen and cover those that are not.

    Greedy on a_i + `diversity` * div_i + `coverage` * cov_i, each divided by its mean over the tokens left.

    a: [CLS] attention; div_i = 1 - max_{j chosen} S_ij; cov_i = sum_{j left} max(0, S_ij - max_{l chosen} S_jl); S:
    cosines of the projected embeddings. It starts with the token of most attention.

    Complexity: O(N^2 D) for S, O(N) per pick plus the rows whose maximum rose.

    Published and this class: only the stage before the language model, which is what can be compared at a fixed count:
    the published results keep 2 k tokens after this stage and prune further inside the model. The text of the paper
    normalises by min-max, its Algorithm 1 by the mean; the algorithm is followed here. Weights as published for this
    stage.

    Attributes:
        diversity: weight of div, at least 0.
        coverage: weight of cov, at least 0.
    """

    diversity: float = number(0.5)
    coverage: float = number(0.5)

    name: ClassVar[str] = "tops-stage-one"
    paper: ClassVar[str] = "https://arxiv.org/abs/2606.27161"
    reads_values: ClassVar[bool] = True
    cost: ClassVar[str] = "O(N^2 D + k N^2)"
    reads: ClassVar[frozenset[str]] = frozenset({"features", "saliency"})

    def select(self, cues: Cues, token_map: TokenMap, k: int) -> Selection:
        cosine = Cosine(cues.require("features"))
        saliency = cues.require("saliency").double()
        picks = Picks(saliency)
        token = picks.best(saliency, tie=0.0)
        state = Coverage(cosine.matrix(), torch.ones_like(saliency), start=-1.0)
        state.add(token)
        weight, noise = saliency.new_ones(3, 1), saliency.new_full((3, 1), TIE)
        weight[1].fill_(self.diversity), weight[2].fill_(self.coverage), noise[0].fill_(0.0)
        for chosen in range(1, k):
            # Chosen tokens are covered by themselves (S_jj = 1, the largest cosine): they add nothing to the gain.
            parts = torch.stack([saliency, 1 - state.cover.double(), state.gain], 1)  # [B, 3, N]
            parts = parts.clamp_(min=0).masked_fill_(picks.taken[:, None], 0.0)
            mean = parts.sum(-1, keepdim=True) / (parts.shape[2] - chosen)  # over the tokens left
            share = (weight / mean).masked_fill_(mean <= noise, 0.0)
            state.add(picks.best((parts * share).sum(1)))
        return Selection(picks.indices(k))
