"""The most bytes of tensors that a computation holds at once."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from gridprune.bench.clock import measured


def peak(call: Callable[[], Any]) -> int:
    """The most bytes `call` holds beyond what there was: GPU memory, or tensors on a CPU."""
    if not torch.cuda.is_available():
        return peak_bytes(call)
    return measured(call, torch.device("cuda")).peak_bytes or 0


def peak_bytes(call: Callable[[], Any]) -> int:
    """The most bytes of tensors `call` holds at once beyond its inputs; what a kernel allocates within is not seen."""
    with _Live() as live:
        call()
    return live.most


class _Live(TorchDispatchMode):
    """Counts storages from the first tensor on them to the last."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._tensors: Counter[int] = Counter()  # by address of the storage

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {_address(value) for value in _tensors((args, kwargs))}
        result = function(*args, **(kwargs or {}))
        for made in _tensors(result):
            address = _address(made)
            if address in given and address not in self._tensors:
                continue  # a view of an input
            if address not in self._tensors:
                self.now += made.untyped_storage().nbytes()
                self.most = max(self.most, self.now)
            self._tensors[address] += 1
            weakref.finalize(made, self._gone, address, made.untyped_storage().nbytes())
        return result

    def _gone(self, address: int, size: int) -> None:
        self._tensors[address] -= 1
        if not self._tensors[address]:
            del self._tensors[address]
            self.now -= size


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def _address(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
