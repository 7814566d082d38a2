"""How strongly the projector answers to small changes of each token."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.forward_ad import dual_level, make_dual, unpack_dual

DIRECTIONS = 64


def sensitivity(project: Callable[[Tensor], Tensor], states: Tensor, seed: int = 0) -> Tensor:
    """(P,) fp32: mean over random unit directions u of the length of the projector's derivative along u.

    ZOO-Prune (arXiv 2509.24837) estimates it by differences, |M(x + h u) - M(x - h u)| / 2h with h = 0.01, which
    vanish in the rounding of half precision; forward-mode derivatives are their limit, at the same two passes each.

    Args:
        project: one image's patch states (P, C) to its tokens (P, D).
        states: (P, C).
        seed: decides the directions, which all tokens share; drawn on the CPU, so that devices agree.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    drawn = torch.randn(DIRECTIONS, states.shape[1], generator=generator, dtype=torch.float32, device="cpu")
    directions = torch.nn.functional.normalize(drawn, dim=1)
    total = torch.zeros(len(states), dtype=torch.float32, device=states.device)
    with torch.inference_mode(False), torch.no_grad(), dual_level():
        here = states.detach().clone()
        for direction in directions.to(here.device, here.dtype):
            _, change = unpack_dual(project(make_dual(here, direction.expand_as(here))))
            total = total + torch.linalg.vector_norm(change.float(), dim=-1)
    return total / DIRECTIONS
