"""How far two ways to add up the same numbers may lie apart: from the arithmetic, not from what one processor shows.

A sum of n products, in whatever order a kernel adds them, is off by less than lambda sqrt(n) eps / 2 of the size of
what is added, but for one case in exp(lambda^2 / 2) (Higham and Mary, A new approach to probabilistic rounding error
analysis, 2019). A chain of `depth` such sums, none of which magnifies what it is given, is off by `depth` times that,
and two of them differ by twice that. Other instruction sets, batch sizes and paddings stay within; a wrong token does
not (`pruning/test_contract.py` checks it for every family).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_LAMBDA = 6.0  # one case in 65 million
_CHUNK = 64  # rows of a chunk of linear attention, in transformers


def bound(size: float, *, terms: int, depth: int = 1, dtype: torch.dtype = torch.float32) -> float:
    """The most that two results of this size may differ.

    Args:
        terms: products that a sum adds up.
        depth: sums behind one another.
        dtype: what was computed in.
    """
    return size * torch.finfo(dtype).eps * _LAMBDA * terms**0.5 * depth


def assert_same(found: Tensor, expected: Tensor, *, terms: int, depth: int = 1) -> None:
    """`found` is `expected`, up to rounding in the dtype of `found`; whole numbers are equal."""
    if not found.is_floating_point():
        assert torch.equal(found, expected)
        return
    size = float(expected.detach()[expected.isfinite()].abs().max())
    atol = bound(size, terms=terms, depth=depth, dtype=found.dtype)
    torch.testing.assert_close(found, expected.to(found.dtype), atol=atol, rtol=0.0)


def chain(net: nn.Module) -> dict[str, int]:
    """`terms` and `depth` of a network: the widest of its layers, and all of them behind one another.

    A layer of linear attention is a recurrence of its own: row by row through a chunk of the prompt.
    """
    layers = [module for module in net.modules() if isinstance(module, nn.Linear)]
    recurrent = sum("DeltaNet" in type(module).__name__ for module in net.modules())
    return {"terms": max(layer.in_features for layer in layers), "depth": len(layers) + _CHUNK * recurrent}


def assert_same_output(found: Tensor, expected: Tensor, net: nn.Module) -> None:
    """Two outputs of a network are the same, up to its rounding."""
    assert_same(found, expected, **chain(net))
