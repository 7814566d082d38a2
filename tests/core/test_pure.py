"""The selection is pure tensor code: no host synchronisation, no graph break, no loop over zones or tokens."""

import shutil
from functools import partial

import pytest
import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.memory import peak_bytes
from gridprune.core.token_map import TokenMap
from gridprune.methods import Cues, create
from gridprune.methods.gridprune import GridPrune

from .maps import anyres

METHODS = {
    "default": GridPrune(),
    "large zones": GridPrune(zone=5),
    "minimum": GridPrune(minimum=1),
    "literal": GridPrune.literal(),
    "fastervlm": create("fastervlm"),
    "relevance": create("relevance"),
    "both tails": create("relevance", reading="both"),
    "agreement": create("relevance", reading="agree"),
}
# Budgets first, then the best of each zone, in the open: on a GPU a captured graph makes their number a matter of
# microseconds.
KERNELS = {
    "default": 79,
    "large zones": 77,
    "minimum": 82,
    "literal": 84,
    "fastervlm": 16,
    "relevance": 16,
    "both tails": 19,
    "agreement": 26,
}
# Bytes a token that a decision holds at once; the cues are not counted.
ALIVE = {
    "default": 38,
    "large zones": 38,
    "minimum": 38,
    "literal": 32,
    "fastervlm": 20,
    "relevance": 20,
    "both tails": 24,
    "agreement": 24,
}
MAPS = {"grid": TokenMap.from_grid(12, 12), "ragged": anyres((5, 5), (2, 2), (5, 6), crop=(1, 3))}


class CountingNoSync(TorchDispatchMode):
    """Counts kernels, and refuses those that make the host wait for the device."""

    FORBIDDEN = ("_local_scalar_dense", "nonzero", "unique", "masked_select", "is_nonzero", "equal", "bincount")

    def __init__(self):
        super().__init__()
        self.calls = self.largest = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.__name__.split(".")[0]
        if name.lstrip("_") in {f.lstrip("_") for f in self.FORBIDDEN}:
            raise AssertionError(f"{name} waits for the device")
        self.calls += 1
        result = function(*args, **(kwargs or {}))
        made = [each for each in pytree.tree_leaves(result) if isinstance(each, torch.Tensor)]
        self.largest = max([self.largest, *(each.untyped_storage().nbytes() for each in made)])
        return result


def cues_for(token_map, batch=2, device="cpu"):
    n = len(token_map)
    return Cues(relevance=torch.randn(batch, n).to(device), saliency=torch.rand(batch, n).to(device))


@pytest.mark.parametrize("place", MAPS)
@pytest.mark.parametrize("name", METHODS)
def test_no_host_synchronisation(name, place):
    method, token_map = METHODS[name], MAPS[place]
    cues = cues_for(token_map)
    expected = method.select(cues, token_map, 50)  # the first call lays the zones out
    with CountingNoSync():
        assert method.select(cues, token_map, 50).indices.shape == expected.indices.shape


@pytest.mark.parametrize("place", MAPS)
@pytest.mark.parametrize("name", METHODS)
def test_runs_where_there_are_no_values_at_all(name, place):
    """On the meta device any look at a value raises."""
    method, token_map = METHODS[name], MAPS[place]
    selection = method.select(cues_for(token_map, device="meta"), token_map, 50)
    assert selection.indices.shape == (2, 50)
    assert selection.indices.dtype == torch.int64


@pytest.mark.parametrize("name", METHODS)
def test_the_number_of_kernels_does_not_depend_on_the_map(name):
    counts = []
    for side in (10, 20):
        token_map = TokenMap.from_grid(side, side)
        cues, k = cues_for(token_map), len(token_map) // 2
        METHODS[name].select(cues, token_map, k)
        with CountingNoSync() as counting:
            METHODS[name].select(cues, token_map, k)
        counts.append(counting.calls)
    assert counts[0] == counts[1] <= KERNELS[name]


def per_token(name, measured):
    """Bytes per token of a decision, on a small and on a large map."""
    found = []
    for side in (18, 66):
        token_map = TokenMap.from_grid(side, side)
        select = partial(METHODS[name].select, cues_for(token_map, batch=1), token_map, len(token_map) // 4)
        select()  # what is made once is not counted
        found.append(measured(select) / len(token_map))
    return found


@pytest.mark.parametrize("name", METHODS)
def test_memory_is_linear_in_the_tokens(name):
    """No tensor holds more than a fixed number of bytes per token: nothing of size N x N is ever made."""

    def largest(select):
        with CountingNoSync() as counting:
            select()
        return counting.largest

    assert max(per_token(name, largest)) <= 48


@pytest.mark.parametrize("name", METHODS)
def test_what_is_alive_at_once_is_linear_in_the_tokens(name):
    """All tensors of a decision that are held together, not only the largest one."""
    alive = per_token(name, peak_bytes)
    assert max(alive) <= ALIVE[name]
    assert alive[1] <= 1.05 * alive[0]


@pytest.mark.parametrize("place", MAPS)
@pytest.mark.parametrize("name", METHODS)
def test_compiles_without_a_graph_break(name, place):
    torch.compiler.reset()
    method, token_map = METHODS[name], MAPS[place]
    cues = cues_for(token_map)
    expected = method.select(cues, token_map, 50)

    def select(relevance, saliency):
        return method.select(Cues(relevance=relevance, saliency=saliency), token_map, 50).indices

    compiled = torch.compile(select, fullgraph=True, backend="eager")
    assert torch.equal(compiled(cues.relevance, cues.saliency), expected.indices)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None and shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_compiles_to_machine_code_without_a_graph_break():
    torch.compiler.reset()
    method, token_map = METHODS["default"], MAPS["grid"]
    cues = cues_for(token_map)
    expected = method.select(cues, token_map, 50)

    def select(relevance, saliency):
        return method.select(Cues(relevance=relevance, saliency=saliency), token_map, 50).indices

    # torch would take a graph from its cache that was compiled for other instructions
    compiled = torch.compile(select, fullgraph=True, options={"fx_graph_cache": False})
    assert torch.equal(compiled(cues.relevance, cues.saliency), expected.indices)
