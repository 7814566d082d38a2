"""A make-believe CUDA graph, on the make-believe accelerator: it refuses what no capture takes, and computes anew."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from accelerator import DEVICE, _Remote
from gridprune.core.graphs import Graphs, each_tensor, tensors_of

WAITING = (
    "_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select", "unique", "_unique2", "unique_dim",
    "bincount", "histc", "multinomial", "randperm", "rand", "randn", "randint", "normal_", "uniform_", "random_",
    "bernoulli_",
)  # fmt: skip


class Capturing(TorchDispatchMode):
    """Refuses what waits for the device, copies between it and the host, or draws at random."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name, kwargs = function.__name__.split(".")[0], kwargs or {}
        given = [each for each in pytree.tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        remote = [each for each in given if isinstance(each, _Remote)]
        local = [each for each in given if not isinstance(each, _Remote)]
        there = torch.device(kwargs.get("device") or "cpu").type == DEVICE.type
        moved = (name == "_to_copy" and ((there and local) or (remote and "device" in kwargs and not there))) or (
            name == "copy_" and remote and local
        )
        masked = name in ("index", "index_put", "index_put_") and any(
            each is not None and each.dtype == torch.bool for each in args[1]
        )
        mixed = remote and any(each.dim() for each in local)
        spread = function is torch.ops.aten.repeat_interleave.Tensor
        solved = name.startswith(("linalg_", "_linalg")) and name not in (
            "linalg_vector_norm",
            "linalg_norm",
            "linalg_cholesky_ex",
        )
        if (remote and (name in WAITING or masked or spread or solved)) or moved or mixed:
            raise RuntimeError(f"operation not permitted when stream is capturing: {function}")
        return function(*args, **kwargs)


class Replay:
    """A recorder; `recorded` counts what it recorded."""

    def __init__(self) -> None:
        self.recorded = self.replayed = 0

    def able(self, device: torch.device) -> bool:
        return device.type == DEVICE.type

    def record(self, function: Callable[[], Any], device: torch.device) -> tuple[Callable[[], object], Any]:
        function()  # as the real one does, which makes what is made once
        with Capturing():
            results = each_tensor(function(), torch.clone)
        self.recorded += 1

        def replay() -> None:
            self.replayed += 1
            with Capturing():
                for old, new in zip(tensors_of(results), tensors_of(function()), strict=True):
                    if old.device.type != "cpu":
                        old.copy_(new)

        return replay, results

    def turn(self, device: torch.device) -> Any:
        return nullcontext()


def make_believe() -> Graphs:
    """Graphs whose recorder is a :class:`Replay`."""
    return Graphs(Replay())
