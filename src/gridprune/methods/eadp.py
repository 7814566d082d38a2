"""EADP: entropy-aware dense relevance and facility location (https://arxiv.org/abs/2607.02484)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..core.allocate import apportion
from ..core.scores import minmax, zone_mean
from ..core.token_map import TokenMap, Zones
from .base import Cues, Selection
from .guided import Guided
from .ops.geometry import neighbours, smooth
from .ops.similarity import Cosine, Coverage, Picks
from .settings import number, part, positive, share


@dataclass(frozen=True, kw_only=True)
class EADP(Guided):
    """Relevance from the words that point somewhere, smoothed and sharpened; then greedy facility location under it.

    1. For every question token its cosines with the visual tokens become p = softmax(c / `tau`) with entropy h. The
       share `words` of tokens with the lowest entropy (h not above that quantile) stays, weighted by
       softmax(-h / `gamma`); their weighted cosines are the dense score.
    2. relevance = `mix` * cosine of the whole question + (1 - `mix`) * dense score, scaled to [0, 1] over the image.
    3. A 3 x 3 Gaussian (`sigma`, reflected at borders) over each view, then the power `beta`: s.
    4. Greedy on F(Y) = sum_j s_j max_{i in Y} sim(i, j), sim = (1 + cos) / 2 of the projected embeddings, within each
    view.

    Complexity: O(T N) for the scores, O(N^2 D) for the similarities, O(k N^2) for the greedy as written (far less here,
    see :class:`~gridprune.methods.ops.similarity.Coverage`).

    Published and this class: the settings are those of the paper's supplement (`beta` is read off its tables, which are
    flat from 2 upward); :class:`EADPReleased` has those of the released code. On the embedded model the former keep far
    more of the evidence, so they bear the name in tables. In the release all 77 rows of CLIP's text compete for the
    lowest entropy, BOS, EOS and padding included, and `words` is a share of these; here it is a share of the question's
    own tokens. All cosines are negated there, also those with a language model's embeddings, which the paper's main
    text does not print; here they are read as `reading` says, on embeddings with a plus, which was measured to localise
    there. With several views the release gives each max(1, floor(k share)), share its part of the scores, which need
    not sum to k; here the shares are apportioned exactly (at least 1 per view if k allows). Its path for videos with a
    randomly initialised projection is left out.

    Attributes:
        tau, gamma: temperatures, above 0.
        words: share of question tokens kept, in (0, 1].
        mix: weight of the whole question, in [0, 1].
        sigma: width of the Gaussian in tokens; 0 for none.
        beta: power, at least 0.
    """

    tau: float = positive(0.01)
    gamma: float = positive(0.01)
    words: float = part(0.5)
    mix: float = share(0.5)
    sigma: float = number(1.0)
    beta: float = number(10.0)

    name: ClassVar[str] = "eadp"
    paper: ClassVar[str] = "https://arxiv.org/abs/2607.02484"
    reads_values: ClassVar[bool] = True
    cost: ClassVar[str] = "O(N^2 D + k N^2)"
    reads: ClassVar[frozenset[str]] = frozenset({"features", "word_relevance", "word_mask"})

    def select(self, cues: Cues, token_map: TokenMap, k: int) -> Selection:
        cosine = Cosine(cues.require("features"))
        views = token_map.groups("view").on(cosine.unit.device)
        scores = self._scores(cues, token_map)
        similarity = (1 + cosine.matrix()) / 2
        if views.count > 1:
            similarity = similarity.masked_fill(views.index[:, None] != views.index, 0.0)
        quota = view_quota(scores, views, k)

        state = Coverage(similarity, scores)
        picks = Picks(scores)
        if views.count == 1:
            for _ in range(k):
                state.add(picks.best(state.gain))
            return Selection(picks.indices(k), scores=scores)
        less = torch.full_like(quota[:, :1], -1)
        for _ in range(k):
            full = (quota <= 0).index_select(1, views.index)
            token = picks.best(state.gain.masked_fill(full, -1.0))
            state.add(token)
            quota.scatter_add_(1, views.index[token][:, None], less)
        return Selection(picks.indices(k), scores=scores)

    def _scores(self, cues: Cues, token_map: TokenMap) -> Tensor:
        """s, (B, N) fp32 in [0, 1]."""
        relevance = cues.read(self.reading).float()
        words = cues.read(self.reading, "word_relevance").float()
        dense = dense_relevance(words, cues.require("word_mask"), self.tau, self.gamma, self.words)
        scores = minmax(self.mix * relevance + (1 - self.mix) * dense)
        if self.sigma > 0:
            beside = token_map.once_on(scores.device, "neighbours", lambda: neighbours(token_map))
            scores = smooth(scores, beside, self.sigma)
        return scores.pow(self.beta)


@dataclass(frozen=True, kw_only=True)
class EADPReleased(EADP):
    """EADP with the settings of the released code for LLaVA: a fifth of the question's tokens, and scores as they are.

    On Qwen and on videos the release takes `beta` 2. See :class:`EADP` for what else differs.
    """

    words: float = 0.2
    beta: float = 1.0

    name: ClassVar[str] = "eadp-released"


def dense_relevance(cosine: Tensor, mask: Tensor, tau: float, gamma: float, share: float) -> Tensor:
    """(B, N): cosines (B, T, N) of the question tokens averaged, low entropy first; 0 where there are no tokens."""
    mask = mask.to(cosine.device)
    log_p = (cosine / tau).log_softmax(-1)
    entropy = -(log_p.exp() * log_p).sum(-1)  # [B, T]
    ordered = entropy.masked_fill(~mask, float("inf")).sort(dim=-1).values
    # The quantile of the existing tokens, linear between neighbours.
    place = share * (mask.sum(-1, keepdim=True) - 1).clamp(min=0).double()
    low, high = ordered.gather(1, place.floor().long()), ordered.gather(1, place.ceil().long())
    limit = torch.where(low == high, low, low + (high - low) * (place - place.floor()).float())
    kept = mask & (entropy <= limit + 1e-6 * limit.abs())
    weight = (-entropy / gamma).masked_fill(~kept, float("-inf")).softmax(-1).nan_to_num(nan=0.0)
    return (weight[..., None] * cosine).sum(1)


def view_quota(scores: Tensor, views: Zones, k: int) -> Tensor:
    """(B, views) int64: k apportioned to the views by their summed scores, at least 1 each where k allows."""
    if views.count == 1:
        return torch.full((scores.shape[0], 1), k, device=scores.device)
    share = zone_mean(scores, views) * views.size
    return apportion(share, k, views.size, priority=share, minimum=int(views.count <= k))
