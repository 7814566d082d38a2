"""MMTok: cover the question and the image (https://arxiv.org/abs/2508.18264)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ..core.token_map import TokenMap
from .base import Cues, Method, Selection
from .ops.similarity import Cosine, Coverage, Picks, unit
from .settings import number, positive


@dataclass(frozen=True, kw_only=True)
class MMTok(Method):
    """Tokens that together cover the question's words and the image.

    Greedy on f(Y) = mean_i max_{j in Y} T_ij + `alpha` mean_i max_{j in Y} V_ij.

    T: for each question token the softmax over visual tokens of cosine / `tau_text`, between the language model's input
    embeddings and the projected visual embeddings. V: the same between the tower features of visual tokens, with
    `tau_vision`. Both terms are submodular, so the greedy is within 1 - 1/e of the best.

    Complexity: O(N^2 C + M N D) for the matrices; the greedy reads only what changes.

    Published and this class: the optional agent that lengthens the question with a small model's answer is no part of
    this.

    Attributes:
        tau_text, tau_vision: temperatures, above 0.
        alpha: weight of the visual term, at least 0.
    """

    tau_text: float = positive(0.02)
    tau_vision: float = positive(0.2)
    alpha: float = number(0.5)

    name: ClassVar[str] = "mmtok"
    paper: ClassVar[str] = "https://arxiv.org/abs/2508.18264"
    reads_values: ClassVar[bool] = True
    cost: ClassVar[str] = "O(N^2 C + k N^2)"
    reads: ClassVar[frozenset[str]] = frozenset({"features", "tower_features", "question_embeds", "question_mask"})

    def select(self, cues: Cues, token_map: TokenMap, k: int) -> Selection:
        mask = cues.require("question_mask")
        text = unit(cues.require("question_embeds")) @ unit(cues.require("features")).mT  # [B, M, N]
        vision = Cosine(cues.require("tower_features")).matrix()  # [B, N, N]
        affinity = torch.cat([(text / self.tau_text).softmax(-1), (vision / self.tau_vision).softmax(-1)], 1)
        text_weight = mask.double() / mask.sum(-1, keepdim=True).clamp(min=1)
        vision_weight = torch.full_like(vision[..., 0], self.alpha / vision.shape[1], dtype=torch.float64)
        state = Coverage(affinity, torch.cat([text_weight.to(vision.device), vision_weight], 1))
        picks = Picks(state.gain)
        for _ in range(k):
            state.add(picks.best(state.gain))
        return Selection(picks.indices(k))
