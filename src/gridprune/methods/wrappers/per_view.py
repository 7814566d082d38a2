"""Per view: every crop of an anyres image gets its equal part of the budget and is pruned by itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from ...core.allocate import equal_parts
from ...core.token_map import TokenMap
from ..base import Cues, Method, Selection
from ..fastervlm import FasterVLM
from .wrapper import Wrapper


@dataclass(frozen=True, kw_only=True)
class PerView(Wrapper):
    """The base runs on each view alone, with k / views tokens, as the released LLaVA-NeXT code of several methods does.

    On an image of one view this is the base. A view too small for its part keeps all its tokens and the others share
    the rest. With fewer tokens than views the last views keep none.

    Complexity: the base's on each view, so quadratic methods become cheaper by the number of views.
    """

    base: Method = field(default_factory=FasterVLM)

    name: ClassVar[str] = "per-view"
    cost: ClassVar[str] = "base on each view"

    def select(self, cues: Cues, token_map: TokenMap, k: int) -> Selection:
        views = token_map.groups("view")
        if views.count == 1:
            return self.base.select(cues, token_map, k)
        parts = []
        for view, part in enumerate(equal_parts(k, views.sizes)):  # a handful of crops
            if part:
                member, inside = token_map.once("view", partial(_inside, token_map, view), view)
                here = token_map.once_on(cues.device, "members of view", partial(torch.clone, member), view)
                own = cues.take(here.expand(cues.batch, -1))
                parts.append(here[self.base.select(own, inside, part).indices])
        return Selection(torch.cat(parts, dim=1).sort(dim=1).values)


def _inside(token_map: TokenMap, view: int) -> tuple[Tensor, TokenMap]:
    """The tokens of a view, and their map."""
    member = (token_map.groups("view").index == view).nonzero()[:, 0]
    return member, token_map.take(member)
