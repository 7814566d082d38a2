"""CDPruner: diversity conditioned on the question, by a determinantal process (https://arxiv.org/abs/2506.10967)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..core.allocate import equal_parts
from ..core.scores import minmax
from ..core.token_map import TokenMap
from .base import Cues, Selection
from .guided import Guided
from .ops.greedy import Greedy, matrix, products
from .ops.similarity import TIE, unit
from .settings import one_of, setting


@dataclass(frozen=True, kw_only=True)
class CDPruner(Guided):
    """Relevant tokens that differ from each other: a determinantal point process, guided by the question.

    Greedy MAP of the DPP with kernel L = diag(r) S diag(r): S the cosines of the projected embeddings, r relevance.

    r is the cosine with the question, scaled over all crops of the image to (r - min + 1e-6) / (max - min). The
    greedy is the fast one of Chen et al. (2018): d_i^2 starts as L_ii; pick j = argmax d^2; e = (L_j - sum_t c_tj c_t)
    / d_j is the new Cholesky row c, and d^2 falls by e^2. In fp32: in fp16 d^2 turns negative early.

    Complexity: O(k N D) for the rows of L that are needed, made some at a time (:mod:`gridprune.methods.ops.greedy`),
    and O(k^2 N) for the greedy; O(k N) memory. On an accelerator S is made whole up to 4096 tokens, O(N^2 D).

    Published and this class: the paper prints r with a plus, the released code negates the cosine. `reading` "minus" is
    the release. Where the kernel has no rank left (d^2 at rounding level) the released code goes by noise; here the
    earlier tokens fill up.

    Attributes:
        theta: None, or the balance in [0, 1): r becomes exp(a r) with a = theta / (2 (1 - theta)). 0 is pure diversity.
        scope: "image" lets all crops of an anyres image compete; "view" gives each its equal part of k and a kernel of
            its own, with r scaled over all crops together, as the released LLaVA-NeXT code does.
    """

    theta: float | None = setting(None, lambda v: v is None or 0 <= v < 1, "None or a number in [0, 1)")
    scope: Literal["image", "view"] = one_of("image", "view")

    name: ClassVar[str] = "cdpruner"
    paper: ClassVar[str] = "https://arxiv.org/abs/2506.10967"
    cost: ClassVar[str] = "O(k N D + k^2 N)"
    capabilities: ClassVar[frozenset[str]] = frozenset({"quality", "geometry"})
    reads: ClassVar[frozenset[str]] = frozenset({"features"})

    def select(self, cues: Cues, token_map: TokenMap, k: int) -> Selection:
        half = cues.read(self.reading).float() / 2  # so that differences are finite
        quality, log_weight = _scaled(half), None
        if self.theta is not None:  # exp(a r) leaves fp32's range, its logarithm does not; constant factors drop out
            quality, log_weight = torch.ones_like(half), minmax(half) * (self.theta / (1 - self.theta))
        if cues.quality is not None:
            quality = quality * cues.quality
        features, views = cues.require("features"), token_map.groups("view")
        if self.scope == "image" or views.count == 1:
            return Selection(dpp_map(features, quality, k, log_weight))
        members = views.on(features.device).members.view(views.count, -1)
        parts = zip(members, views.sizes, equal_parts(k, views.sizes))
        groups = [(tokens[:size], part) for tokens, size, part in parts]
        return Selection(apart(features, quality, groups, log_weight))


@dataclass(frozen=True, kw_only=True)
class CDPrunerSplit(Guided):
    """CDPruner as OpenVINO ships it: the tokens in prompt order are cut in two halves, and each gives half of the k.

    Every half has relevance scaled by itself, (r - min) / (max - min + 1e-6), and a kernel of its own, so that a greedy
    costs a quarter; the first half gives floor(k / 2) tokens.

    Complexity: O(k N D + k^2 N), half of CDPruner's greedy.

    Published and this class: OpenVINO splits above a number of tokens (`split_threshold`, off by default), rounds k up
    to an even number, and has no text tower: relevance is the mean cosine with the language model's embeddings, plus
    sign, which is what `Cues.relevance` is for such models here.
    """

    name: ClassVar[str] = "cdpruner-split"
    paper: ClassVar[str] = "https://arxiv.org/abs/2506.10967"
    cost: ClassVar[str] = "O(k N D + k^2 N)"
    reads: ClassVar[frozenset[str]] = frozenset({"features"})

    def select(self, cues: Cues, token_map: TokenMap, k: int) -> Selection:
        features, relevance = cues.require("features"), cues.read(self.reading).float()
        n = relevance.shape[1]
        cut = (n // 2, n - n // 2)
        scaled = []
        for half in relevance.split(cut, dim=1)[cut[0] == 0 :]:
            low, high = torch.aminmax(half, dim=-1, keepdim=True)
            scaled.append((half - low) / (high - low + 1e-6))
        halves = torch.arange(n, device=relevance.device).split(cut)
        return Selection(apart(features, torch.cat(scaled, 1), list(zip(halves, (k // 2, k - k // 2)))))


def apart(x: Tensor, quality: Tensor, groups: list[tuple[Tensor, int]], log_weight: Tensor | None = None) -> Tensor:
    """(B, k) ascending: :func:`dpp_map` in every group of tokens by itself.

    Args:
        groups: the tokens of each group, ascending, on any device, and how many of them to keep.
    """
    kept = []
    for tokens, part in groups:  # a handful of crops
        if part:
            here = tokens.to(x.device)
            own = None if log_weight is None else log_weight[:, here]
            kept.append(here[dpp_map(x[:, here], quality[:, here], part, own)])
    return torch.cat(kept, 1).sort(dim=1).values


def _scaled(half: Tensor) -> Tensor:
    """(r - min + 1e-6) / (max - min) over each row of r / 2; 1 where the row is constant."""
    low, high = half.amin(-1, keepdim=True), half.amax(-1, keepdim=True)
    # Below the clamp 1e-6 outweighs all differences: only ratios count, and they are 1.
    return torch.where(high > low, (half - low + 5e-7) / (high - low).clamp(min=5e-13), 1.0)


def dpp_map(x: Tensor, quality: Tensor, k: int, log_weight: Tensor | None = None) -> Tensor:
    """(B, k) ascending: greedy MAP of the DPP with kernel diag(q) S diag(q), S the cosines of `x` (B, N, D).

    Args:
        quality: q, (B, N) fp32.
        log_weight: see :func:`determinant`; the factor is one of q^2.
    """
    return determinant(unit(x) * quality[..., None], k, log_weight=log_weight)


def determinant(scaled: Tensor, k: int, ridge: float = 0.0, log_weight: Tensor | None = None) -> Tensor:
    """(B, k) ascending: greedily the tokens that make det of L + `ridge` I largest, L = `scaled` `scaled`^T.

    Args:
        scaled: (B, N, D) fp32.
        log_weight: (B, N) fp32, the logarithm of a further factor of L's rows and columns, squared, of any size: d_i^2
            is the one without it times the factor, since every pick's own factor cancels out of c.
    """
    residual = scaled.square().sum(-1) + ridge  # d^2, [B, N]; nothing else reads the diagonal
    tolerance = residual.amax(-1, keepdim=True) * TIE
    rows = residual.new_empty(len(scaled), k, residual.shape[1])  # c, a row for every pick
    built = 0  # picks that the rows at hand take into account

    def rows_left(tokens: Tensor) -> Tensor:
        """L_j - sum_t c_tj c_t over the picks so far, for each j of `tokens`."""
        nonlocal built
        built = len(greedy) - 1
        left = products(scaled, tokens)
        seen = rows[:, :built]
        return left.baddbmm_(seen.gather(2, tokens[:, None].expand(-1, built, -1)).mT, seen, alpha=-1)

    def scores() -> Tensor:
        if log_weight is None:
            return residual
        ranked = torch.where(residual > tolerance, residual.log() + log_weight, torch.finfo(torch.float32).min)
        return ranked + greedy.barred

    greedy = Greedy(residual, rows_left, matrix(scaled), tolerance if log_weight is None else TIE)
    for step in range(k):
        best = scores()
        token = greedy.best(best)
        gain = residual.gather(1, token)  # d_j^2
        row = greedy.row(token, best)
        since = rows[:, built:step]
        factor = since.gather(2, token[:, None].expand(-1, step - built, -1)).mT  # c_tj
        new = torch.baddbmm(row[:, None], factor, since, alpha=-1, out=rows[:, step : step + 1])[:, 0]
        new *= gain.rsqrt().masked_fill_(gain <= tolerance, 0.0)
        residual.addcmul_(new, new, value=-1).scatter_(1, token, float("-inf"))
    return greedy.indices()
