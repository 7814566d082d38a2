"""S2Prune before the language model: budgets by structure, one token a cell (https://arxiv.org/abs/2609.01224)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..core.scores import minmax, zone_mean
from ..core.token_map import TokenMap, Zones
from .base import Cues, Method, Selection
from .ops.geometry import neighbours
from .ops.similarity import ranked
from .settings import one_of

_PART = 1 << 30  # a token in units of a quota


@dataclass(frozen=True, kw_only=True)
class S2Prune(Method):
    """Regions of a g x g grid get tokens by how structured the image is there; every token stands for one cell.

    1. g = floor(sqrt(k / 2)): 4, 5, 8, 9 for k = 32, 64, 128, 192, as released; borders at round(i rows / g), so that
       regions differ in size. Structure of a region = variance of the Laplacian of the grey image over its pixels,
       scaled to [0, 1] over the regions.
    2. Every region gets one token and the whole part of its share, by structure, of the others, as far as it has room.
       What is left over goes round one by one, to the region with the largest fraction first.
    3. A region of b tokens is bisected, across its longer side, into b cells of nearly equal area.
    4. In each cell the token with the highest score stays.

    Published and this class: the release scores tokens by ||h1 - h0||, the change over the first layer of the *language
    model*, and prunes after that layer. No method before the model has that; here the score is the saliency, or the
    norm of the projected embedding (which the paper's ablation calls hidden norm and finds weaker). So no table of the
    paper is a table of this class. Borders and budgets follow the release; the details of bisection are ours (the side
    is cut in proportion to the tokens of the two halves), and so is going round again where every region took one of
    what is left over. The Laplacian comes from `Cues.laplacian`; `structure="features"` takes the Laplacian of the
    feature map instead, for families that do not give it (mean squared norm over the region). Several planes or frames
    share k in proportion to their tokens and have a grid each.

    Attributes:
        structure: "image" or "features".
        score: "saliency" or "norm".
    """

    structure: Literal["image", "features"] = one_of("image", "features")
    score: Literal["saliency", "norm"] = one_of("saliency", "norm")

    name: ClassVar[str] = "s2prune"
    paper: ClassVar[str] = "https://arxiv.org/abs/2609.01224"
    reads_values: ClassVar[bool] = True

    @property
    def needs(self) -> frozenset[str]:
        where = "laplacian" if self.structure == "image" else "tower_features"
        return frozenset({where, "saliency" if self.score == "saliency" else "features"})

    def select(self, cues: Cues, token_map: TokenMap, k: int) -> Selection:
        regions, corners = coarse_regions(token_map, k)
        device = cues.device
        here = regions.on(device)
        structure = minmax(self._structure(cues, token_map, here))
        budgets = deal(structure, k, here.size, here.most, minimum=int(regions.count <= k))
        position = torch.stack([token_map.row, token_map.column], -1).to(device)
        cell = bisect(corners.to(device)[here.index], budgets[:, here.index], position)  # [B, N], -1 in empty regions
        start = budgets.cumsum(1) - budgets
        cell = torch.where(cell >= 0, cell + start[:, here.index], -1)
        scores = self._token_scores(cues)
        return Selection(best_of_cells(scores, cell, k), zones=regions, scores=scores)

    def _token_scores(self, cues: Cues) -> Tensor:
        if self.score == "saliency":
            return cues.require("saliency").float()
        return cues.require("features").float().norm(dim=-1)

    def _structure(self, cues: Cues, token_map: TokenMap, regions: Zones) -> Tensor:
        """(B, Z) fp32."""
        if self.structure == "image":
            mean, square = cues.require("laplacian").double().unbind(-1)
            return (_mean(square, regions) - _mean(mean, regions).square()).clamp(min=0).float()
        features = cues.require("tower_features").float()
        beside = neighbours(token_map).to(features.device)
        own = torch.arange(beside.shape[0], device=beside.device)
        total = -4 * features
        for side in beside.T:
            total = total + features[:, torch.where(side >= 0, side, own)]
        return zone_mean(total.square().sum(-1), regions)


def _mean(values: Tensor, zones: Zones) -> Tensor:
    return zones.by_zone(values, fill=0.0).sum(-1) / zones.size.clamp(min=1)


def coarse_regions(token_map: TokenMap, k: int) -> tuple[Zones, Tensor]:
    """g x g regions per plane and frame, and their rectangles (Z, 4): first row, end row, first column, end column."""
    frames = token_map.groups("frame")
    sheet = token_map.groups("plane").index * frames.count + frames.index
    index = torch.zeros_like(token_map.row)
    corners: list[Tensor] = []
    start = 0
    for number in sorted(set(sheet.tolist())):  # a handful of planes and frames
        member = sheet == number
        row, column = token_map.row[member], token_map.column[member]
        side = max(1, math.isqrt(k * int(member.sum()) // (2 * len(token_map))))
        top, left = int(row.min()), int(column.min())
        height, width = int(row.max()) - top + 1, int(column.max()) - left + 1
        down, across = min(side, height), min(side, width)
        rows, columns = top + _borders(height, down), left + _borders(width, across)
        band, stack = (torch.bucketize(at, cut[1:-1], right=True) for at, cut in ((row, rows), (column, columns)))
        index[member] = start + band * across + stack
        grid = torch.stack(torch.meshgrid(rows[:-1], columns[:-1], indexing="ij"), -1).view(-1, 2)
        end = torch.stack(torch.meshgrid(rows[1:], columns[1:], indexing="ij"), -1).view(-1, 2)
        corners.append(torch.stack([grid[:, 0], end[:, 0], grid[:, 1], end[:, 1]], -1))
        start += down * across
    return Zones(index, torch.bincount(index, minlength=start)), torch.cat(corners)


def _borders(length: int, parts: int) -> Tensor:
    """(parts + 1,) int64: round(i length / parts), halves to the even number."""
    return (torch.arange(parts + 1, dtype=torch.float64, device="cpu") * length / parts).round().long()


def deal(shares: Tensor, k: int, room: Tensor, most: int, minimum: int) -> Tensor:
    """(B, Z) int64 budgets that sum to `k`, step 2 of :class:`S2Prune`; equal shares where all are 0.

    Args:
        shares: (B, Z), at least 0.
        room: (Z,) int64, tokens of each region.
        most: the largest of these, a number at hand.
        minimum: tokens every region gets first.
    """
    shares = shares.double()
    total = shares.sum(-1, keepdim=True)
    shares = torch.where(total > 0, shares / total.clamp(min=1e-300), 1 / shares.shape[-1])
    quota = (shares * (k - minimum * shares.shape[-1]) * _PART).round().long()  # whole numbers: no device rounds apart
    budgets = (minimum + quota // _PART).minimum(room)
    order = (quota % _PART).argsort(dim=-1, descending=True, stable=True)
    rounds = torch.arange(most, device=room.device)[:, None]
    open_ = rounds < (room - budgets).gather(-1, order)[:, None]  # [B, rounds, Z]: who still has room in each round
    taken = open_ & (open_.flatten(1).cumsum(1).view(open_.shape) <= (k - budgets.sum(-1))[:, None, None])
    return budgets.scatter_add(-1, order, taken.sum(1))


def bisect(corners: Tensor, count: Tensor, position: Tensor) -> Tensor:
    """(B, N) int64: the cell 0 .. count-1 of its rectangle that each token falls into; -1 where count is 0.

    Every token carries its rectangle and the rectangle's number of cells, and all rectangles are halved together, about
    log2 of the largest count times: m cells on an h x w rectangle become ceil(m/2) on the first round(h ceil(m/2) / m)
    rows (or columns, if they are more) and the others on the rest; no half gets more cells than it has places.

    Args:
        corners: (N, 4) the rectangle of each token: first row, end row, first column, end column.
        count: (B, N) int64 cells of each token's rectangle.
        position: (N, 2) row and column.
    """
    r0, r1, c0, c1 = (side.expand_as(count).clone() for side in corners.unbind(-1))
    row, column = position.unbind(-1)
    left, cell = count.clone(), torch.where(count > 0, 0, -1)
    while bool((left > 1).any()):
        height, width = r1 - r0, c1 - c0
        tall = height >= width
        long, short = torch.where(tall, height, width), torch.where(tall, width, height)
        divide = left > 1
        first = (left + 1) // 2
        cut = ((2 * long * first + left) // (2 * left.clamp(min=1))).clamp(min=1).minimum((long - 1).clamp(min=1))
        first = first.minimum(cut * short).maximum(left - (long - cut) * short)
        edge = torch.where(tall, r0, c0) + cut
        second = divide & (torch.where(tall, row, column) >= edge)
        ahead = divide & ~second
        cell = cell + torch.where(second, first, 0)
        left = torch.where(second, left - first, torch.where(ahead, first, left))
        r0, r1 = torch.where(second & tall, edge, r0), torch.where(ahead & tall, edge, r1)
        c0, c1 = torch.where(second & ~tall, edge, c0), torch.where(ahead & ~tall, edge, c1)
    return cell


def best_of_cells(scores: Tensor, cell: Tensor, k: int) -> Tensor:
    """(B, k) ascending: the best token of every cell; where cells are empty (maps with holes), the next best tokens."""
    order = ranked([cell, scores])
    number = cell.gather(1, order)
    leads = torch.ones_like(number, dtype=torch.bool)
    leads[:, 1:] = number[:, 1:] != number[:, :-1]
    best = torch.zeros_like(leads).scatter(1, order, leads & (number >= 0))
    return ranked([best.long(), scores])[:, :k].sort(dim=1).values
