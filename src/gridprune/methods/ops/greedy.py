"""Greedy choices that read one row of an N x N matrix at every pick, without making the matrix.

Only the k rows of the tokens taken are needed, but made one by one each is a product that reads all features again. So
the rows of the tokens with the best scores are made in one product, a panel; most of the next picks are among them.
On an accelerator the matrix is made where it fits, so that no pick waits for the host.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .similarity import TIE, take_rows

_KEEP = 4096  # tokens up to which an accelerator makes the matrix
_PANEL = 32  # rows made together otherwise
_PARTS = (slice(0, None, 8), slice(4, None, 8), slice(2, None, 4), slice(1, None, 2))  # what is alike lies side by side
_SEEDS = 16  # tokens whose nearest neighbour is looked up first, to bound the search


class Greedy:
    """Takes the best token of each of B images, one after the other, and hands out its row.

    Args:
        like: (B, N) fp32; its shape and device count.
        make: gives the rows (B, M, N) of `tokens` (B, M) as they are now.
        matrix: (B, N, N), all rows as they are before the first pick, where they are at hand; `make` is not called.
        tolerance: scores of an image that differ by no more count as equal, and the earlier token wins; a number, or
            (B, 1).

    Attributes:
        barred: (B, N), -inf for tokens that are taken and 0 for others; to be added to the scores.
    """

    def __init__(
        self,
        like: Tensor,
        make: Callable[[Tensor], Tensor],
        matrix: Tensor | None = None,
        tolerance: float | Tensor = TIE,
    ) -> None:
        images, n = like.shape
        self.barred = torch.zeros_like(like)
        self._make, self._tolerance = make, tolerance
        self._tokens: list[Tensor] = []
        self._whole = matrix is not None
        self._panel = None if matrix is None else matrix.flatten(0, 1)
        self._width = n if self._whole else min(n, _PANEL)
        self._places = torch.arange(images * self._width, device=like.device).view(images, self._width)  # in the panel
        self._place = self._places if self._whole else self._places.new_empty(images, n)  # of each token, -1 for none

    def __len__(self) -> int:
        return len(self._tokens)

    def best(self, scores: Tensor, scale: Tensor | None = None) -> Tensor:
        """Take the best token, (B, 1), by `scores` (B, N) that :attr:`barred` was added to.

        Where scores were multiplied by a `scale` (B, N), so was their rounding, and with it what counts as equal.
        """
        tolerance = self._tolerance
        if scale is not None:
            tolerance = scale.gather(1, scores.argmax(-1, keepdim=True)) * tolerance
        return self.take(earliest(scores, tolerance))

    def take(self, token: Tensor) -> Tensor:
        """Take this one, (B, 1)."""
        self.barred.scatter_(1, token, float("-inf"))
        self._tokens.append(token)
        return token

    def row(self, token: Tensor, scores: Tensor) -> Tensor:
        """(B, N): the row of `token` (B, 1). Where it must be made, so are those of the tokens with the best scores."""
        if self._panel is not None:
            place = self._place.gather(1, token)
            if self._whole or min(place.flatten().tolist()) >= 0:
                return self._panel.index_select(0, place[:, 0])
        likely = scores.scatter(1, token, float("inf")).topk(self._width, sorted=False).indices
        self._place.fill_(-1).scatter_(1, likely, self._places)
        self._panel = self._make(likely).flatten(0, 1)
        return self._panel.index_select(0, self._place.gather(1, token)[:, 0])

    def indices(self) -> Tensor:
        """(B, k) int64, ascending."""
        return torch.cat(self._tokens, 1).sort(dim=1).values


def earliest(scores: Tensor, tolerance: float | Tensor = TIE) -> Tensor:
    """(..., 1): the earliest token of `scores` (..., N) within `tolerance` of the maximum."""
    return scores.ge(scores.amax(-1, keepdim=True).sub_(tolerance)).view(torch.uint8).argmax(-1, keepdim=True)


def matrix(x: Tensor, small: int = 0) -> Tensor | None:
    """(B, N, N): all inner products of `x` (B, N, D), where waiting for the host costs more than making them.

    That is up to 4096 tokens on an accelerator (64 MB an image), and up to `small` tokens on a CPU.
    """
    return x @ x.mT if x.shape[1] <= (small if x.device.type == "cpu" else _KEEP) else None


def loneliest(unit: Tensor, cosines: Tensor | None) -> Tensor:
    """(B, 1): the token of `unit` (B, N, D) whose largest cosine with another token is smallest, ties to the earlier.

    A token whose cosine with *some* other token exceeds the best known largest cosine is out, and its other neighbours
    need not be looked at.

    Args:
        cosines: (B, N, N), if they are at hand.
    """
    if cosines is None:
        return torch.stack([_loneliest(image) for image in unit])
    itself = torch.eye(unit.shape[1], dtype=torch.bool, device=unit.device)
    return earliest(-cosines.masked_fill(itself, -1.0).amax(-1))


def _loneliest(unit: Tensor) -> Tensor:
    left = everyone = torch.arange(len(unit), device=unit.device)
    nearest = unit.new_full((len(unit),), -1.0)
    kept = unit  # of the tokens that are left
    for number, part in enumerate(_PARTS):
        if number == 1:  # where most tokens drop out
            seeds = nearest.topk(min(_SEEDS, len(unit)), largest=False).indices
            bound = _closest(unit.index_select(0, seeds), unit, seeds[:, None] == everyone).amin() + 2 * TIE
        if number:
            near = (nearest <= bound).nonzero()[:, 0]
            left, nearest, kept = left[near], nearest[near], kept.index_select(0, near)
        if len(everyone[part]):
            nearest = nearest.maximum(_closest(kept, unit[part], left[:, None] == everyone[part]))
    return left[earliest(-nearest)]


def _closest(rows: Tensor, columns: Tensor, same: Tensor) -> Tensor:
    """(R,): the largest cosine of `rows` (R, D) with `columns` (C, D) but for those `same`, (R, C)."""
    return (rows @ columns.T).masked_fill_(same, -1.0).amax(-1)


def products(x: Tensor, tokens: Tensor) -> Tensor:
    """(B, M, N): inner products of some `tokens` (B, M) with all of `x` (B, N, D)."""
    return (x @ take_rows(x, tokens).mT).mT.contiguous()  # this way round, a tall matrix meets a narrow one: faster
