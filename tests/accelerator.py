"""A make-believe accelerator: tensors that hold CPU values, say they lie elsewhere, and refuse what a GPU refuses.

Inside :class:`Accelerator` every operation really runs, on the CPU, so methods may look at values as they do on a GPU;
an operation that is given a CPU tensor together with an accelerator's raises, as CUDA does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

DEVICE = torch.device("lazy", 0)  # a device type that this build of torch knows, and nothing runs on
_MOVES = ("_to_copy", "copy_")
_INDEXING = ("index", "index_put", "index_put_", "_index_put_impl_")  # on a GPU indices may lie on the CPU


class _Remote(Tensor):
    """A tensor on the accelerator; `held` are its values."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: Tensor) -> _Remote:
        layout = {"strides": held.stride(), "storage_offset": held.storage_offset(), "dtype": held.dtype}
        remote = torch.Tensor._make_wrapper_subclass(cls, held.shape, device=DEVICE, **layout)
        remote.held = held
        return remote

    def tolist(self) -> Any:
        return self.held.tolist()

    def data_ptr(self) -> int:
        return self.held.data_ptr()

    def __repr__(self) -> str:
        return f"{self.held!r} on {DEVICE}"

    def __format__(self, form: str) -> str:
        return format(self.held, form)

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{function} outside of `Accelerator`")


class _Listed(TorchFunctionMode):
    """Lets `torch.tensor` take a list of the accelerator's numbers."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.tensor:
            args = _each(args, lambda given: given.held if isinstance(given, _Remote) else given)
        return function(*args, **(kwargs or {}))


def _casts(own: Callable[..., bool]) -> Callable[..., bool]:
    """Whether autocast is on, also asked about a device that torch knows no autocast for."""
    return lambda *kind: DEVICE.type not in kind and own(*kind)


class Accelerator(TorchDispatchMode):
    """Makes `DEVICE` work: ``with Accelerator(): x = x.to(DEVICE)``."""

    def __enter__(self) -> Any:
        with ExitStack() as undo:
            torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=DEVICE) comes by here, too
            undo.callback(torch._C._set_only_lift_cpu_tensors, False)
            undo.enter_context(_Listed())
            undo.enter_context(patch.object(torch, "is_autocast_enabled", _casts(torch.is_autocast_enabled)))
            self._undo = undo.pop_all()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._undo.close()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given: dict[int, Tensor] = {}  # by what holds their values

        def here(tensor: Tensor) -> Tensor:
            held = tensor.held if isinstance(tensor, _Remote) else tensor
            given[id(held)] = tensor
            return held

        args, kwargs = _each(args, here), _each(dict(kwargs or {}), here)
        remote = any(isinstance(each, _Remote) for each in given.values())
        local = any(each.dim() and not isinstance(each, _Remote) for each in given.values())  # numbers lie anywhere
        name = function.__name__.split(".")[0]
        if remote and local and not _may_mix(name, args, given):
            shapes = ", ".join(f"{list(each.shape)} on {each.device}" for each in given.values())
            raise RuntimeError(f"{name} mixes devices: {shapes}")
        if kwargs.get("device") is not None:
            remote = torch.device(kwargs["device"]).type == DEVICE.type
            kwargs["device"] = torch.device("cpu")
        result = function(*args, **kwargs)
        if not remote:
            return result
        return _each(
            result, lambda made: given[id(made)] if id(made) in given else _Remote(made)
        )  # or changed in place


def _each(nest: Any, function: Callable[[Tensor], Any]) -> Any:
    """`nest` with every tensor in its lists, tuples and dictionaries replaced."""
    if isinstance(nest, Tensor):
        return function(nest)
    if isinstance(nest, (list, tuple)):
        return type(nest)([_each(item, function) for item in nest])
    return {key: _each(item, function) for key, item in nest.items()} if isinstance(nest, dict) else nest


def _may_mix(name: str, args: Any, given: dict[int, Tensor]) -> bool:
    """Moves do; and on a GPU the indices, but neither the table nor the values, may lie on the CPU."""
    table = [args[0], *args[2:3]]
    remote = all(isinstance(given[id(each)], _Remote) or each.dim() == 0 for each in table if isinstance(each, Tensor))
    return name in _MOVES or (name in _INDEXING and remote)


@contextmanager
def defaulting_to(default: torch.dtype | torch.device) -> Iterator[None]:
    """Tensors that are not told otherwise get this dtype, or are made on this device."""
    if isinstance(default, torch.device):
        with default:
            yield
        return
    before = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
