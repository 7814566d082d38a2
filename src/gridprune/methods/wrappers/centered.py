"""Cen-Prune: diversity of mean-centred similarities times distinctiveness (https://arxiv.org/abs/2608.30263)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

from torch import Tensor

from ...core.scores import minmax
from ...core.token_map import TokenMap
from ..base import Cues, Method, Selection
from ..cdpruner import CDPruner
from ..divprune import DivPrune
from ..ops.similarity import unit
from .wrapper import Wrapper


@dataclass(frozen=True, kw_only=True)
class Centered(Wrapper):
    """The base sees features minus their mean over the image, and its greedy score is multiplied by distinctiveness.

    g_i = -mean_{j != i} cos(x_i, x_j) on the raw features, scaled to [0, 1]. DivPrune picks argmax g_i min_j (1 - cos
    of centred features), after its own first pick; CDPruner's kernel becomes diag(r g) S diag(r g), S the centred
    cosines.

    Complexity: O(N D) on top of the base: the mean of the N - 1 cosines is one product with the mean unit vector.

    Published and this class: the paper works on projected features; for Qwen it standardises every dimension before
    (`standardize`).

    Attributes:
        base: a method with the capabilities "geometry" and "quality".
        standardize: divide every feature dimension by its standard deviation over the image first.
    """

    base: Method = field(default_factory=DivPrune)
    standardize: bool = False

    name: ClassVar[str] = "centered"
    paper: ClassVar[str] = "https://arxiv.org/abs/2608.30263"
    cost: ClassVar[str] = "base + O(N D)"
    requires: ClassVar[frozenset[str]] = frozenset({"geometry", "quality"})
    capabilities: ClassVar[frozenset[str]] = frozenset({"quality"})

    @property
    def needs(self) -> frozenset[str]:
        return self.base.needs | {"features"}

    def select(self, cues: Cues, token_map: TokenMap, k: int) -> Selection:
        features = cues.require("features").float()
        features = features / features.abs().amax((1, 2), keepdim=True).clamp(min=1e-30)  # fp16-sized values squared
        mean = features.mean(1, keepdim=True)
        if self.standardize:
            features = features / (features - mean).square().mean(1, keepdim=True).sqrt().clamp(min=1e-6)
            mean = features.mean(1, keepdim=True)
        quality = distinctiveness(features)
        if cues.quality is not None:
            quality = quality * cues.quality
        centred = features - mean
        noise = 1e-6 * features.abs().amax((1, 2), keepdim=True)  # a constant map has no directions, only rounding
        centred = centred * (centred.abs().amax(2, keepdim=True) > noise)
        return self.base.select(replace(cues, features=centred, quality=quality), token_map, k)


@dataclass(frozen=True, kw_only=True)
class CenteredCDPruner(Centered):
    """:class:`Centered` around CDPruner."""

    base: Method = field(default_factory=CDPruner)

    name: ClassVar[str] = "centered-cdpruner"


def distinctiveness(features: Tensor) -> Tensor:
    """(B, N) fp32 in [0, 1]: minus the mean cosine to the other tokens, scaled per image; 1 where all are alike."""
    rows = unit(features)
    similarity = (rows @ rows.sum(1)[..., None])[..., 0] - rows.square().sum(-1)
    mean = -similarity / max(rows.shape[1] - 1, 1)
    spread = mean.amax(-1, keepdim=True) - mean.amin(-1, keepdim=True)
    return minmax(mean).masked_fill(spread <= 1e-6, 1.0)
