"""One budget over all pictures of a prompt: how it is split, and how pictures compete for it side by side.

Methods with the capability "joint" see the pictures of a row as one map, like the views of an anyres image: their zones
compete under one exact budget. For all others the budget is split in proportion to the pictures' tokens first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from .budget import Budget
from .errors import BudgetError
from .methods.base import Cues, Selection
from .token_map import TokenMap, Zones


def split_over_rows(budget: Budget, rows: Sequence[int], sizes: Sequence[int]) -> list[int]:
    """Tokens to keep of each picture: every row of the batch gets its budget, split over its pictures.

    Args:
        rows: the row each picture stands in.
        sizes: candidate tokens of each picture.
    """
    counts = [0] * len(rows)
    for row in sorted(set(rows)):
        members = [i for i, where in enumerate(rows) if where == row]
        own = [sizes[i] for i in members]
        for i, count in zip(members, split(budget.resolve(sum(own)), own)):
            counts[i] = count
    return counts


def split(total: int, sizes: Sequence[int]) -> list[int]:
    """`total` split in proportion to `sizes` by largest remainder, in exact integers; ties go to the earlier one.

    A part that would be 0 takes one token from the largest part, the earliest of them.

    Raises:
        BudgetError: there are fewer tokens than pictures.
    """
    if total < len(sizes):
        raise BudgetError(
            f"A budget of {total} visual tokens over a prompt of {len(sizes)} pictures leaves some with none. Keep at "
            f"least {len(sizes)}, or give each picture its own budget: budget='image'."
        )
    whole = sum(sizes)
    parts = [total * size // whole for size in sizes]
    by_remainder = sorted(range(len(sizes)), key=lambda i: -(total * sizes[i] % whole))
    for i in by_remainder[: total - sum(parts)]:
        parts[i] += 1
    for i, part in enumerate(parts):
        if part == 0:
            parts[parts.index(max(parts))] -= 1
            parts[i] = 1
    return parts


def side_by_side(maps: Sequence[TokenMap]) -> TokenMap:
    """Several pictures as one map: planes, views, frames and tower patches are numbered on from picture to picture."""
    parts, plane, view, frame, patch = [], 0, 0, 0, 0
    for each in maps:
        parts.append(
            replace(
                each,
                plane=each.plane + plane,
                view=each.view + view,
                frame=each.frame + frame,
                source=torch.where(each.source < 0, each.source, each.source + patch),
            )
        )
        last = parts[-1]
        plane, view, frame = (int(values.max()) + 1 for values in (last.plane, last.view, last.frame))
        patch = max(patch, int(last.source.max()) + 1)
    most = max(part.source.shape[1] for part in parts)
    sources = [part.source[:, torch.arange(most, device="cpu").clamp(max=part.source.shape[1] - 1)] for part in parts]
    names = ("plane", "view", "row", "column", "frame", "separator", "boxes")
    joined: dict[str, Any] = {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
    return replace(maps[0], **joined, source=torch.cat(sources))


def cues_side_by_side(cues: Sequence[Cues]) -> Cues:
    """The scores per token of several single pictures in one row (1, N_1 + N_2 + ...); other cues are left out."""
    names = [name for name in ("relevance", "saliency") if getattr(cues[0], name) is not None]
    joined: dict[str, Any] = {name: torch.cat([each.require(name) for each in cues], dim=1) for name in names}
    return Cues(**joined, relevance_sign=cues[0].relevance_sign, images=1)


def apart(selection: Selection, sizes: Sequence[int]) -> list[Selection]:
    """A selection from pictures side by side, one (1, k_i) selection for each picture; zones are numbered from 0."""
    found, start = [], 0
    for size in sizes:
        span = slice(start, start + size)
        indices = selection.indices[0]
        own = indices[(indices >= start) & (indices < start + size)] - start
        scores = None if selection.scores is None else selection.scores[:, span]
        found.append(Selection(own[None], zones=_own_zones(selection, span), scores=scores))
        start += size
    return found


def _own_zones(selection: Selection, span: slice) -> Zones | None:
    """The zones of one picture, which never reach into another."""
    if selection.zones is None:
        return None
    index = selection.zones.index[span].cpu()
    first, last = int(index.min()), int(index.max())
    size = torch.bincount(index - first, minlength=last - first + 1)
    return Zones(index - first, size)
