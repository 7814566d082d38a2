"""Pure functions of tensors, replayed as CUDA graphs: a list of kernels that is launched once, and not one by one.

A GPU at a small batch waits for the host that launches its kernels. What runs again on tensors of the same shapes is
recorded once and then replayed: copy the inputs into buffers, launch one graph, copy its results out.
"""

from __future__ import annotations

import threading
import warnings
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from .token_map import TokenMap, Zones

FIRST_CALLS = 2  # that run as they are: what comes only once or twice is not worth a recording
MOST_BYTES = 1 << 30  # of inputs and results, in all graphs of one `Graphs`
_OF_A_GRAPH = 1 << 22  # that a graph counts for beside them
_MOST_KEYS = 1024
_BACK_OFF = 32  # calls before what was given up is recorded again: shapes in turns would record each other away
_ONE_RECORDING = threading.Lock()  # in the process: they share the state of random numbers

_WAITING = (
    "_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select", "_unique", "_unique2", "unique_dim",
    "unique_consecutive", "bincount", "histc", "multinomial", "randperm", "_linalg_check_errors",
)  # fmt: skip
_BY_PLACE = ("index", "index_put", "index_put_", "_index_put_impl_")


class KernelsAlone(TorchDispatchMode):
    """Raises a RuntimeError where work waits for the device, or copies between it and the host."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = function.__name__.split(".")[0], kwargs or {}
        given = tensors_of((list(args), kwargs))
        devices = {tensor.device for tensor in given if tensor.dim() or name == "copy_" or len(given) == 1}
        to = kwargs.get("device") if name == "_to_copy" else None
        if to is not None and (to.index is not None or any(to.type != device.type for device in devices)):
            devices.add(to)
        there = any(device.type != "cpu" for device in devices)
        masked = name in _BY_PLACE and any(one is not None and one.dtype == torch.bool for one in args[1])
        waits = name in _WAITING or masked or function is torch.ops.aten.repeat_interleave.Tensor
        if there and (waits or len(devices) > 1 or name == "lift_fresh"):
            raise RuntimeError(f"{function} waits for the device, or copies between it and the host")
        return function(*args, **kwargs)


class Recorder(Protocol):
    """Records what a function launches."""

    def able(self, device: torch.device) -> bool:
        """Whether the work of this device can be recorded here and now."""

    def record(self, function: Callable[[], Any], device: torch.device) -> tuple[Callable[[], object], Any]:
        """What launches the work of `function` again, and the results, which every launch writes anew.

        Raises:
            RuntimeError: the function waits for the device, or does what else cannot be recorded.
        """

    def turn(self, device: torch.device) -> Any:
        """A context: what is launched in it begins when the last turn's work is done."""


class CudaRecorder:
    """Records as `torch.cuda.CUDAGraph`. The graphs share their memory, so one of them at a time may be used."""

    def __init__(self) -> None:
        self._pool: Any = None
        self._streams: dict[torch.device, torch.cuda.Stream] = {}
        self._done: dict[torch.device, torch.cuda.Event] = {}

    def able(self, device: torch.device) -> bool:
        return device.type == "cuda" and not torch.cuda.is_current_stream_capturing()

    def record(self, function: Callable[[], Any], device: torch.device) -> tuple[Callable[[], object], Any]:
        with _ONE_RECORDING, torch.cuda.device(device):
            if device not in self._streams:
                self._streams[device] = torch.cuda.Stream(device)
            if self._pool is None:
                self._pool = torch.cuda.graph_pool_handle()
            side, graph = self._streams[device], torch.cuda.CUDAGraph()
            current = torch.cuda.current_stream(device)
            side.wait_stream(current)
            with torch.cuda.stream(side):
                function()  # libraries set themselves up on the stream that is recorded
                with KernelsAlone():  # a recording that fails leaves torch's allocator in disorder: fail before
                    function()
            current.wait_stream(side)
            torch.cuda.synchronize(device)
            try:
                with torch.cuda.graph(graph, pool=self._pool, stream=side, capture_error_mode="thread_local"):
                    results = function()
            except BaseException:
                self._pool = None  # what is left in there takes no other recording
                torch.cuda.set_stream(current)  # which `torch.cuda.graph` forgets
                raise
        return graph.replay, results

    @contextmanager
    def turn(self, device: torch.device) -> Iterator[None]:
        stream, done = torch.cuda.current_stream(device), self._done.get(device)
        if done is None:
            done = self._done[device] = torch.cuda.Event()
        stream.wait_event(done)  # of a turn on another stream, perhaps; nothing if there was none
        try:
            yield
        finally:
            done.record(stream)


@dataclass(eq=False)
class _Graph:
    """Attributes:
    function: what was recorded; it holds what the graph reads beside its inputs.
    inputs: the buffers. replay: launches the graph. results: what it writes. size: bytes that it counts for.
    """

    function: Callable[..., Any]
    inputs: list[Tensor]
    replay: Callable[[], object]
    results: Any
    size: int


class Graphs:
    """Runs pure functions of tensors, from the third call of a kind on as graphs; the results are the same.

    Nothing is recorded off a GPU, with gradients on, under autocast, or while something else is compiled or recorded:
    then the function just runs, as it does where recording fails, which is told once. The graphs unused for longest go
    when they get too large together. Safe to use from threads: one graph at a time is fed, launched and copied from.
    """

    def __init__(self, recorder: Recorder | None = None, most_bytes: int = MOST_BYTES) -> None:
        self._recorder: Recorder = recorder or CudaRecorder()
        self._most_bytes = most_bytes
        self._calls: Counter[Hashable] = Counter()
        self._failed: set[Hashable] = set()
        self._graphs: OrderedDict[Hashable, _Graph] = OrderedDict()
        self._lock = threading.RLock()

    def __len__(self) -> int:
        """How many graphs are held."""
        return len(self._graphs)

    def able(self, device: torch.device) -> bool:
        """Whether anything would be recorded here and now."""
        return (
            self._recorder.able(device)
            and not torch.is_grad_enabled()
            and not torch.is_autocast_enabled(device.type)
            and not torch.compiler.is_compiling()
        )

    def run(self, key: Hashable, function: Callable[..., Any], *inputs: Any) -> Any:
        """`function(*inputs)`, or its graph's results, copied out.

        Args:
            key: everything that the function depends on beside the shapes and values of its inputs: two functions of
                one key do the same. None: it just runs.
            function: launches the same kernels whatever the values are, reads nothing on the host, changes no input.
            inputs: tensors, and lists, tuples, dictionaries and dataclasses of tensors; those on the CPU are taken as
                part of the key. Results likewise.
        """
        given = [tensor for tensor in tensors_of(inputs) if tensor.device.type != "cpu"]
        if key is None or not given or len({one.device for one in given}) > 1 or not self.able(given[0].device):
            return function(*inputs)
        key = (key, _signature(inputs), torch.get_float32_matmul_precision(), torch.get_default_dtype())
        with self._lock:
            if key not in self._graphs and not self._recordable(key, given):
                graph = None
            else:
                graph = self._graphs.get(key) or self._recorded(key, function, inputs, given)
            if graph is not None:
                self._graphs.move_to_end(key)
                with self._recorder.turn(given[0].device):
                    for buffer, value in zip(graph.inputs, given):
                        buffer.copy_(value)
                    graph.replay()
                    return each_tensor(graph.results, _copied)
        return function(*inputs)

    def _recordable(self, key: Hashable, given: list[Tensor]) -> bool:
        """Count a call that has no graph; whether it is to be recorded."""
        self._calls[key] += 1
        if len(self._calls) > _MOST_KEYS:
            self._calls.clear()
        return self._calls[key] > FIRST_CALLS and key not in self._failed and _size(given) <= self._most_bytes

    def _recorded(self, key: Hashable, function: Callable[..., Any], inputs: Any, given: list[Tensor]) -> _Graph | None:
        device = given[0].device
        with torch.inference_mode(False), torch.no_grad(), self._recorder.turn(device):
            buffers = [torch.empty_like(tensor).copy_(tensor) for tensor in given]
            feed = iter(buffers)
            own = each_tensor(inputs, lambda tensor: tensor if tensor.device.type == "cpu" else next(feed))
            try:
                replay, results = self._recorder.record(lambda: function(*own), device)
            except RuntimeError as error:
                self._failed.add(key)
                warnings.warn(
                    f"gridprune could not record a CUDA graph, so that this work stays slower: {error}. A method of "
                    "your own that reads values on the host says so by `reads_values = True`.",
                    stacklevel=3,
                )
                return None
        size = _size([*buffers, *tensors_of(results)]) + _OF_A_GRAPH
        self._graphs[key] = graph = _Graph(function, buffers, replay, results, size)
        while len(self._graphs) > 1 and sum(each.size for each in self._graphs.values()) > self._most_bytes:
            self._calls[self._graphs.popitem(last=False)[0]] = -_BACK_OFF
        return graph


def each_tensor(nest: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """`nest` with every tensor in its lists, tuples, dictionaries and dataclasses changed; geometry stays as it is."""
    if isinstance(nest, Tensor):
        return change(nest)
    if isinstance(nest, (list, tuple)):
        return type(nest)(each_tensor(one, change) for one in nest)
    if isinstance(nest, dict):
        return {name: each_tensor(one, change) for name, one in nest.items()}
    if is_dataclass(nest) and not isinstance(nest, (type, TokenMap, Zones)):
        return replace(nest, **{one.name: each_tensor(getattr(nest, one.name), change) for one in fields(nest)})
    return nest


def tensors_of(nest: Any) -> list[Tensor]:
    """The tensors in it, in order."""
    found: list[Tensor] = []
    each_tensor(nest, lambda tensor: found.append(tensor) or tensor)  # type: ignore[func-returns-value]
    return found


def fingerprint(*weights: nn.Module | Tensor) -> Hashable:
    """Equal as long as modules, with their parts, and tensors are the same ones in the same memory.

    None if calling a module does what no recording repeats: hooks, adapters that may be switched, random numbers.
    """
    found: list[object] = []
    left = list(weights)
    while left:
        part = left.pop()
        if isinstance(part, Tensor):
            found.append((part.data_ptr(), part.dtype, part.shape))
            continue
        hooks = (*part._forward_hooks.values(), *part._forward_pre_hooks.values())
        others = any(not str(hook.__module__).startswith("transformers.") for hook in hooks)  # its own only look on
        if part.training or others or hasattr(type(part), "active_adapter"):
            return None
        found.append(id(part))
        for held in (part._parameters, part._buffers, part._modules):
            left += [one for one in held.values() if one is not None]
    return tuple(found)


def _copied(tensor: Tensor) -> Tensor:
    return tensor if tensor.device.type == "cpu" else tensor.clone()


def _size(tensors: list[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def _signature(nest: Any) -> Hashable:
    """What tells recordings of one function apart: shapes, strides and kinds of the tensors; values of those on the
    CPU."""
    return tuple(
        (tensor.shape, tensor.stride(), tensor.dtype, tensor.device)
        if tensor.device.type != "cpu"
        else (tensor.shape, tensor.dtype, tuple(tensor.flatten().tolist()))
        for tensor in tensors_of(nest)
    )
