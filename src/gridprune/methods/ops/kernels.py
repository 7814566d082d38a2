"""Triton kernels for loops that go by values: on a GPU no pick waits for the host, and few wait for a launch.

What each does is written in plain torch where it is called from, :mod:`~gridprune.methods.ops.similarity` and
:mod:`~gridprune.methods.vispruner`, and runs wherever this cannot. Sums are made in one fixed order.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_WIDE = tl.constexpr(4096)  # tokens that one program looks at together
_LONG = tl.constexpr(1024)
_ROWS, _COLUMNS = tl.constexpr(32), tl.constexpr(32)


def best(scores: Tensor, taken: Tensor, tie: float) -> Tensor:
    """(B,) int64: the earliest token of `scores` (B, N) within `tie` of the best that is not `taken`, (B, N) bool,
    where it is noted."""
    scores, token = scores.contiguous(), scores.new_empty(len(scores), dtype=torch.int64)
    with torch.cuda.device_of(scores):
        _best[(len(scores),)](scores, taken.view(torch.uint8), token, scores.shape[1], tie, num_warps=8)
    return token


@triton.jit(do_not_specialize=["n"])
def _best(scores, taken, token, n, tie: tl.constexpr):
    image, place = tl.program_id(0), tl.arange(0, _WIDE)
    scores += image * n
    taken += image * n
    top = tl.full([_WIDE], float("-inf"), scores.dtype.element_ty)
    broken = tl.zeros([_WIDE], tl.int32)
    for start in range(0, n, _WIDE):
        there = start + place < n
        left = there & (tl.load(taken + start + place, there, other=1) == 0)
        score = tl.load(scores + start + place, left, other=float("-inf"))
        broken |= (score != score).to(tl.int32)
        top = tl.maximum(top, score)
    most = tl.max(top, 0)
    least = most - tie * tl.abs(most)
    first = n
    for start in range(0, n, _WIDE):
        there = start + place < n
        left = there & (tl.load(taken + start + place, there, other=1) == 0)
        score = tl.load(scores + start + place, left, other=float("-inf"))
        first = tl.minimum(first, tl.min(tl.where(left & (score >= least), start + place, n), 0))
    first = tl.where((tl.max(broken, 0) > 0) | (first == n), 0, first)  # as in torch, where nothing compares with NaN
    tl.store(token + image, first.to(tl.int64))
    tl.store(taken + first, 1)


def cover(token: Tensor, affinity: Tensor, covered: Tensor, risen: Tensor, before: Tensor, count: Tensor) -> None:
    """Raise `covered` (B, I) to what `token` (B,) covers. The first `count` (B,) int32 places of `risen` (B, I) int32
    then hold the targets whose cover rose, and of `before` (B, I) what it was."""
    with torch.cuda.device_of(affinity):
        _cover[(len(token),)](token, affinity, covered, risen, before, count, *affinity.shape[1:], num_warps=8)


@triton.jit(do_not_specialize=["n", "targets"])
def _cover(token, affinity, covered, risen, before, count, targets, n):
    image, place = tl.program_id(0).to(tl.int64), tl.arange(0, _WIDE)
    column = affinity + image * targets * n + tl.load(token + image)
    covered += image * targets
    risen += image * targets
    before += image * targets
    found = 0
    for start in range(0, targets, _WIDE):
        target = start + place
        was = tl.load(covered + target, target < targets, other=0.0)
        now = tl.load(column + target.to(tl.int64) * n, target < targets, other=0.0)
        rose = now > was
        slot = found + tl.cumsum(rose.to(tl.int32), 0) - 1
        tl.store(risen + slot, target, rose)
        tl.store(before + slot, was, rose)
        tl.store(covered + target, now, rose)
        found += tl.sum(rose.to(tl.int32), 0)
    tl.store(count + image, found)


def lose(
    gain: Tensor,
    least: Tensor,
    affinity: Tensor,
    rounding: Tensor,
    weight: Tensor,
    covered: Tensor,
    risen: Tensor,
    before: Tensor,
    count: Tensor,
) -> None:
    """Take from every `gain` (B, N) what the targets listed by :func:`cover` no longer give; below `least` it is 0."""
    images, targets, n = affinity.shape
    state = (gain, least, affinity, rounding, weight, covered, risen, before, count)
    with torch.cuda.device_of(affinity):
        _lose[(triton.cdiv(n, _COLUMNS.value), images)](*state, targets, n)


@triton.jit(do_not_specialize=["n", "targets"])
def _lose(gain, least, affinity, rounding, weight, covered, risen, before, count, targets, n):
    image, token = tl.program_id(1).to(tl.int64), tl.program_id(0) * _COLUMNS + tl.arange(0, _COLUMNS)
    affinity += image * targets * n
    found = tl.load(count + image)
    lost = tl.zeros([_COLUMNS], tl.float64)
    for start in range(0, found, _ROWS):
        place = start + tl.arange(0, _ROWS)
        there = place < found
        slot = image * targets + place
        target = tl.load(risen + slot, there, other=0).to(tl.int64)
        row = affinity + target * n
        value = tl.load(row[:, None] + token[None, :], there[:, None] & (token < n)[None, :], other=0.0)
        target += image * targets
        noise = tl.load(rounding + target)[:, None]
        was = value - tl.load(before + slot, there, other=0.0)[:, None]
        now = value - tl.load(covered + target)[:, None]
        fall = tl.where(was > noise, was, 0.0).to(tl.float64) - tl.where(now > noise, now, 0.0).to(tl.float64)
        lost += tl.sum(fall * tl.load(weight + target, there, other=0.0)[:, None], 0)
    gain += image * n + token
    left = tl.load(gain, token < n, other=0.0) - lost
    tl.store(gain, tl.where(left < tl.load(least + image), 0.0, left), token < n)


def thin(cosine: Tensor, tokens: Tensor, wanted: int, step: int, steps: float) -> Tensor:
    """(B, `wanted`): what is left of the list `tokens` (B, R) by the rounds of VisPruner.

    Args:
        cosine: (B, N, N); what is less than about 1 / `steps` apart is equal.
    """
    images, width = tokens.shape
    held, spare = (torch.empty_like(tokens, memory_format=torch.contiguous_format).copy_(tokens) for _ in range(2))
    likeness, length = cosine.new_empty(images, width), width
    with torch.cuda.device_of(cosine):
        while length > wanted:
            even = (length + 1) // 2
            drop = min(step, length - wanted, even)
            _likeness[(even, images)](cosine, held, likeness, length, width, cosine.shape[2], steps)
            _thinned[(triton.cdiv(even, _ROWS.value), images)](held, spare, likeness, length, width, drop)
            held, spare, length = spare, held, length - drop
    return held[:, :wanted]


@triton.jit(do_not_specialize=["length", "width", "n"])
def _likeness(cosine, tokens, likeness, length, width, n, steps: tl.constexpr):
    even, image = tl.program_id(0), tl.program_id(1).to(tl.int64)
    tokens += image * width
    row = cosine + (image * n + tl.load(tokens + 2 * even)) * n
    top = tl.full([_LONG], float("-inf"), cosine.dtype.element_ty)
    for start in range(0, length // 2, _LONG):
        place = start + tl.arange(0, _LONG)
        odd = tl.load(tokens + 2 * place + 1, place < length // 2, other=0)
        top = tl.maximum(top, tl.load(row + odd, place < length // 2, other=float("-inf")))
    tl.store(likeness + image * width + even, tl.floor(tl.max(top, 0) * steps + 0.5))


@triton.jit(do_not_specialize=["length", "width", "drop"])
def _thinned(tokens, thinned, likeness, length, width, drop):
    image, even = tl.program_id(1).to(tl.int64), tl.program_id(0) * _ROWS + tl.arange(0, _ROWS)
    tokens += image * width
    thinned += image * width
    likeness += image * width
    many = (length + 1) // 2
    own = tl.load(likeness + even, even < many, other=float("-inf"))
    rank = tl.zeros([_ROWS], tl.int32)
    for start in range(0, many, _LONG // 4):
        other = start + tl.arange(0, _LONG // 4)
        like = tl.load(likeness + other, other < many, other=float("-inf"))[None, :]
        ahead = (like > own[:, None]) | ((like == own[:, None]) & (other[None, :] < even[:, None]))
        rank += tl.sum((ahead & (other < many)[None, :]).to(tl.int32), 1)
    stays = (even < many) & (rank >= drop)
    tl.store(thinned + rank - drop, tl.load(tokens + 2 * even, stays, other=0), stays)
    there = 2 * even + 1 < length
    tl.store(thinned + many - drop + even, tl.load(tokens + 2 * even + 1, there, other=0), there)
