"""VidCom2: frames and tokens that differ from the video (https://arxiv.org/abs/2505.14454)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..core.allocate import apportion, topk_per_zone
from ..core.scores import zone_mean
from ..core.token_map import TokenMap
from .base import Cues, Method, Selection
from .ops.similarity import unit
from .settings import positive

_WIDTHS = (0.125, 0.25, 0.5, 1.0, 2.0)
_STEP = 2.0**-16  # of a frame's mean score: what is nearer is rounding, and must not decide a remainder


@dataclass(frozen=True, kw_only=True)
class VidCom2(Method):
    """Each frame keeps more tokens the less it is like the video, and those least like the video and the frame.

    1. Projected embeddings, the half of the channels of lower variance, scaled to length 1. With c a centre (a mean),
       g(x, c) = sum_a exp(-|x - c|^2 / 2a) over a = 1/8, 1/4, 1/2, 1, 2.
    2. A frame keeps k / N (1 + p - mean p) of its tokens, p = softmax over frames of minus its mean g to the centre of
       the video / `temperature`; made exact by capped largest remainder.
    3. In a frame the tokens of lowest g(x, video) + g(x, frame) stay.

    Complexity: O(N D). Needs a video of two frames or more.

    Published and this class: the release rounds every frame by itself; vLLM's port corrects the sum afterwards, as
    here.

    Attributes:
        temperature: above 0.
    """

    temperature: float = positive(0.01)

    name: ClassVar[str] = "vidcom2"
    paper: ClassVar[str] = "https://arxiv.org/abs/2505.14454"
    min_frames: ClassVar[int] = 2
    cost: ClassVar[str] = "O(N D)"
    reads: ClassVar[frozenset[str]] = frozenset({"features"})

    def select(self, cues: Cues, token_map: TokenMap, k: int) -> Selection:
        features = cues.require("features").float()
        quiet = features.var(1, correction=0).argsort(dim=-1, stable=True)[:, : max(1, features.shape[2] // 2)]
        features = unit(features.gather(2, quiet[:, None].expand(-1, features.shape[1], -1)))

        frames = token_map.groups("frame").on(features.device)
        to_video = _likeness(features, features.mean(1, keepdim=True))
        centres = features.new_zeros(len(features), frames.count, features.shape[2])
        centres = centres.index_add_(1, frames.index, features) / frames.size[:, None]
        scores = to_video + _likeness(features, centres.index_select(1, frames.index))

        own = (-zone_mean(to_video, frames) / _STEP).round().double() * (_STEP / self.temperature)
        p = own.softmax(-1)
        rate = 1 + p - p.mean(-1, keepdim=True)
        budgets = apportion(rate * frames.size, k, frames.size)
        return Selection(topk_per_zone(-scores, frames, budgets, k), zones=token_map.groups("frame"), scores=-scores)


def _likeness(features: Tensor, centre: Tensor) -> Tensor:
    """(B, N): g of `features` (B, N, D) and centres that can be broadcast to them."""
    distance = (features - centre).square().sum(-1)
    return torch.stack([(distance / (-2 * width)).exp() for width in _WIDTHS]).sum(0)
