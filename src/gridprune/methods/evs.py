"""EVS: video tokens that differ from the frame before (efficient video sampling)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ..core.scores import topk
from ..core.token_map import TokenMap
from .base import Cues, Method, Selection
from .ops.geometry import previous_frame
from .ops.similarity import unit


@dataclass(frozen=True, kw_only=True)
class EVS(Method):
    """The whole first frame, then the tokens least similar (1 - cosine) to the same place one frame earlier, over the
    video.

    Published and this class: the serving engine that ships it keeps max(tokens per frame, floor(N (1 - q))) tokens, so
    the first frame always fits; here k is met exactly, and a k below one frame keeps the first k tokens of the first
    frame. It compares projected embeddings. Needs a video of two frames or more.
    """

    name: ClassVar[str] = "evs"
    paper: ClassVar[str] = "https://arxiv.org/abs/2510.14624"
    min_frames: ClassVar[int] = 2
    cost: ClassVar[str] = "O(N D)"
    capabilities: ClassVar[frozenset[str]] = frozenset({"scores"})
    reads: ClassVar[frozenset[str]] = frozenset({"features"})

    def select(self, cues: Cues, token_map: TokenMap, k: int) -> Selection:
        features = unit(cues.require("features"))
        before = token_map.once_on(features.device, "previous", lambda: previous_frame(token_map))
        similarity = (features * features[:, before.clamp(min=0)]).sum(-1)
        scores = torch.where(before >= 0, 1 - similarity, torch.inf)
        return Selection(topk(scores, k), scores=scores)
