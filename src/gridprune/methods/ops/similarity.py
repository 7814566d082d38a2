"""What methods that compare tokens share: cosines in bounded memory, greedy picks with stable ties, coverage, merging.

Similarities are fp32 or fp64, whatever the dtype of the model. Greedy methods loop over their k picks, batched over the
images. Scores within :data:`TIE` of the best one left count as equal and the earlier token wins, so that rounding
(another device, another batch) does not change a selection.
"""

from __future__ import annotations

import warnings
from functools import cache
from types import ModuleType
from typing import Literal

import torch
from torch import Tensor

from ...core.scores import ascending_indices
from ..base import Merge

TIE = 1e-6
_KEEP = 4096  # tokens up to which a full similarity matrix is kept
_BLOCK = 512  # rows worked on at once


def unit(x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Rows of `x` (..., D) scaled to length 1; zero rows stay zero. Squares of any fp16 value fit."""
    x = x.to(dtype)
    return x / torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp(min=1e-30)


def fused(like: Tensor) -> ModuleType | None:
    """:mod:`~gridprune.methods.ops.kernels`, if `like` lies on a GPU that can run them; None anywhere else."""
    return _kernels(like.device) if like.is_cuda else None


@cache
def _kernels(device: torch.device) -> ModuleType | None:
    try:
        from . import kernels

        tokens = torch.zeros(1, 2, dtype=torch.float64, device=device)
        kernels.best(tokens, tokens > 0, TIE)  # compiles
    except Exception as error:  # no Triton, no C compiler, a GPU it does not know: each fails in its own way
        warnings.warn(
            f"Triton's kernels cannot be used on {device}, so greedy methods wait for the host at every pick, at the "
            f"same tokens: {error}. Install triton and a C compiler.",
            stacklevel=2,
        )
        return None
    return kernels


class Cosine:
    """Cosines between the tokens of `x` (B, N, D).

    The N x N matrix is computed once and kept up to 4096 tokens (64 MB an image in fp32): rows and blocks are read from
    it. Above that every row and block is a product of its own, and memory stays O(N D).

    Args:
        dtype: fp64 for methods that compare cosines too often for :data:`TIE` to help.
    """

    def __init__(self, x: Tensor, dtype: torch.dtype = torch.float32) -> None:
        self.unit = unit(x, dtype)  # [B, N, D]
        self.batch, self.n, _ = self.unit.shape
        self.whole = self.unit @ self.unit.mT if self.n <= _KEEP else None

    def matrix(self) -> Tensor:
        """All cosines (B, N, N)."""
        return self.unit @ self.unit.mT if self.whole is None else self.whole

    def row(self, token: Tensor) -> Tensor:
        """Cosines (B, N) between one token per image, `token` (B,), and all tokens."""
        if self.whole is not None:
            return take_row(self.whole, token)
        return (self.unit @ take_row(self.unit, token)[..., None])[..., 0]

    def rows(self, tokens: Tensor) -> Tensor:
        """Cosines (B, R, N) between `tokens` (B, R) and all tokens."""
        if self.whole is not None:
            return take_rows(self.whole, tokens)
        return take_rows(self.unit, tokens) @ self.unit.mT

    def closest(self, rows: Tensor, columns: Tensor) -> Tensor:
        """(B, R): largest cosine of every token of `rows` (B, R) to a token of `columns` (B, C). Blocked over rows."""
        return torch.cat([self._block(part, columns).amax(-1) for part in torch.split(rows, _BLOCK, dim=1)], 1)

    def assign(self, rows: Tensor, columns: Tensor) -> Tensor:
        """(B, R) int64: the place in `columns` (B, C) of the token most like each of `rows`. Blocked over rows."""
        blocks = (self._block(part, columns) for part in torch.split(rows, _BLOCK, dim=1))
        return torch.cat([first_max(block) for block in blocks], 1)

    def nearest(self) -> Tensor:
        """(B, N): the largest cosine of each token to another token; -1 if there is no other. Blocked."""
        parts, columns = [], torch.arange(self.n, device=self.unit.device)
        for rows in torch.split(columns, _BLOCK):
            block = self.whole[:, rows] if self.whole is not None else self.unit[:, rows] @ self.unit.mT
            parts.append(block.masked_fill(rows[:, None] == columns, -1.0).amax(-1))
        return torch.cat(parts, 1)

    def _block(self, rows: Tensor, columns: Tensor) -> Tensor:
        if self.whole is not None:
            wide = take_rows(self.whole, rows)
            return wide.gather(2, columns[:, None].expand(-1, rows.shape[1], -1))
        return take_rows(self.unit, rows) @ take_rows(self.unit, columns).mT


def take_row(table: Tensor, token: Tensor) -> Tensor:
    """Row `token` (B,) of `table` (B, N, C): (B, C)."""
    return table[torch.arange(table.shape[0], device=table.device), token]


def take_rows(table: Tensor, tokens: Tensor) -> Tensor:
    """Rows `tokens` (B, R) of `table` (B, N, C): (B, R, C)."""
    return table.gather(1, tokens[..., None].expand(-1, -1, table.shape[2]))


def first_max(scores: Tensor) -> Tensor:
    """(...): the earliest token of `scores` (..., N) within `TIE` of the maximum."""
    return (scores >= scores.amax(-1, keepdim=True) - TIE).to(torch.uint8).argmax(-1)


class Picks:
    """The tokens a greedy method has taken so far, for B images at once."""

    def __init__(self, like: Tensor) -> None:
        self.taken = torch.zeros_like(like, dtype=torch.bool, memory_format=torch.contiguous_format)  # [B, N]

    def best(self, scores: Tensor, tie: float = TIE) -> Tensor:
        """Take the token of each image with the largest of `scores` (B, N) among those left; (B,).

        Scores within `tie` times that largest one are equal. (Not times the first: gains fall by orders of magnitude.)
        """
        if kernels := fused(scores):
            return kernels.best(scores, self.taken, tie)
        left = scores.masked_fill(self.taken, float("-inf"))
        best = left.amax(-1, keepdim=True)
        token = (left >= best - tie * best.abs()).view(torch.uint8).argmax(-1)
        self.taken.scatter_(1, token[:, None], True)
        return token

    def indices(self, k: int) -> Tensor:
        """(B, k) int64, ascending: the k tokens taken."""
        return ascending_indices(self.taken, k)


def member_mask(indices: Tensor, n: int) -> Tensor:
    """(B, n) bool: which tokens `indices` (B, k) names."""
    return torch.zeros(indices.shape[0], n, dtype=torch.bool, device=indices.device).scatter_(1, indices, True)


def ranked(keys: list[Tensor]) -> Tensor:
    """(B, N) int64: tokens by descending keys, the first key first; ties to the earlier token."""
    order = keys[-1].argsort(dim=-1, descending=True, stable=True)
    for key in reversed(keys[:-1]):
        order = order.gather(1, key.gather(1, order).argsort(dim=-1, descending=True, stable=True))
    return order


class Coverage:
    """Greedy state of F(Y) = sum_i w_i max(c0_i, max_{j in Y} M_ij): how well candidates cover weighted targets.

    The gain of every candidate, sum_i w_i max(0, M_ij - c_i), is kept up to date: when a pick raises the cover of some
    targets, only their rows of M are read. So all k steps together cost about as much as a few full evaluations
    instead of k (each target's cover rises O(log k) times on typical data), and the picks are those of the plain loop.

    On a GPU two kernels do that without the host, which need not know how many rows there are.

    Gains are small where rounding is not: a rise of a target's cover by less than `TIE` of the most it can be counts as
    none, and so does a gain that is nothing but rounding of the first ones.

    Args:
        affinity: (B, I, N) fp32, M.
        weight: (B, I), w >= 0.
        start: c0, the cover before anything is chosen.
    """

    def __init__(self, affinity: Tensor, weight: Tensor, start: float = 0.0) -> None:
        self.affinity, self.weight = affinity.contiguous(), weight.double().contiguous()
        self.cover = affinity.new_full(affinity.shape[:2], start)  # [B, I]
        self._rounding = TIE * affinity.amax(-1).abs()  # [B, I]
        self.gain = self._gain()  # [B, N] fp64
        self._least = 1e-13 * self.gain.amax(-1, keepdim=True)
        self._fused = fused(affinity)
        if self._fused:  # which targets a pick covers better, what their cover was before, and how many there are
            risen = torch.empty_like(self.cover, dtype=torch.int32)
            self._risen = (risen, torch.empty_like(self.cover), risen.new_empty(len(risen)))

    def _gain(self) -> Tensor:
        total = self.weight.new_zeros(self.affinity.shape[0], self.affinity.shape[2])
        parts = (self.affinity, self.cover, self._rounding, self.weight)
        for rows, cover, rounding, weight in zip(*(torch.split(values, _BLOCK, dim=1) for values in parts)):
            total += (weight[:, None] @ _rise(rows, cover, rounding))[:, 0]
        return total

    def add(self, token: Tensor) -> None:
        """Choose one token per image, (B,)."""
        if self._fused:
            self._fused.cover(token, self.affinity, self.cover, *self._risen)
            fixed = (self.affinity, self._rounding, self.weight)
            self._fused.lose(self.gain, self._least, *fixed, self.cover, *self._risen)
            return
        column = self.affinity.gather(2, token[:, None, None].expand(-1, self.affinity.shape[1], 1))[..., 0]
        cover = torch.maximum(self.cover, column)
        image, target = (cover > self.cover).nonzero(as_tuple=True)  # of the whole batch: images rise at their own pace
        for b, i in zip(torch.split(image, 8 * _BLOCK), torch.split(target, 8 * _BLOCK)):
            rows = self.affinity[b, i]  # [m, N]
            before, after = (_rise(rows, c[b, i], self._rounding[b, i]) for c in (self.cover, cover))
            lost = before.sub_(after).mul_(self.weight[b, i][:, None])
            self.gain.index_add_(0, b, lost, alpha=-1)
        self.gain.masked_fill_(self.gain < self._least, 0.0)
        self.cover = cover


def _rise(rows: Tensor, cover: Tensor, rounding: Tensor) -> Tensor:
    """By how much the values of `rows` (..., N) exceed the cover (...), fp64; what is no more than rounding is 0."""
    rise = rows - cover[..., None]
    return rise.masked_fill_(rise <= rounding[..., None], 0.0).double()


def outliers(values: Tensor) -> Tensor:
    """(B, N) bool: values above Q3 + 1.5 (Q3 - Q1) of their row (quartiles by linear interpolation)."""
    values = values.float()
    low, high = (values.quantile(part, dim=-1, keepdim=True) for part in (0.25, 0.75))
    return values > high + 1.5 * (high - low)


def last_dropped(kept: Tensor) -> Tensor:
    """(B, 1): the last token that the mask `kept` (B, N) leaves out; where methods that append a token put it."""
    n = kept.shape[1]
    return n - 1 - (~kept).flip(1).to(torch.uint8).argmax(1, keepdim=True)


def merge_into_nearest(x: Tensor, indices: Tensor, space: Literal["features", "tower_features"]) -> Merge:
    """Every dropped token flows into the kept token it is most similar to; a kept token becomes the mean of its group.

    Args:
        x: (B, N, D) what similarity is taken from.
        indices: (B, k) the kept tokens, ascending.
    """
    cosine = Cosine(x)
    everyone = torch.arange(cosine.n, device=x.device).expand(cosine.batch, cosine.n)
    group = cosine.assign(everyone, indices)
    slots = torch.arange(indices.shape[1], device=x.device).expand_as(indices)
    group = group.scatter(1, indices, slots)  # a kept token stays itself, also if an earlier one equals it
    return Merge(group, group_mean_weight(group, indices.shape[1]), space)


def group_mean_weight(group: Tensor, k: int) -> Tensor:
    """(B, N) fp32: 1 / size of the group that each token flows into; 0 for dropped tokens (-1)."""
    slot = group.clamp(min=0)
    member = (group >= 0).float()
    size = member.new_zeros(group.shape[0], k).scatter_add_(1, slot, member)
    return member / size.gather(1, slot).clamp(min=1)
