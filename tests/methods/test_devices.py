"""Methods on a device that is not the CPU, and under process-wide defaults: the same tokens stay."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import inputs
import pytest
import torch
from test_contract import MAPS, NAMES, maps_for

from accelerator import DEVICE, Accelerator, defaulting_to
from gridprune.methods import Cues, Method, create
from gridprune.methods.checks import checked_select
from gridprune.methods.gridprune import GridPrune
from gridprune.methods.keep_all import KeepAll
from gridprune.methods.s2prune import S2Prune
from rounding import assert_same

SETTINGS = {
    **{name: create(name) for name in NAMES},
    "s2prune features": S2Prune(structure="features", score="norm"),
    "gridprune per view": GridPrune(scope="view", minimum=1, zone=5),
    "literal": GridPrune.literal(),
    "keep-all": KeepAll(),
}


def on(device: torch.device, cues: Cues) -> Cues:
    moved = {name: value.to(device) for name, value in cues.tensors().items()}
    return replace(cues, **moved, saliency_at={depth: value.to(device) for depth, value in cues.saliency_at.items()})


def decided(method: Method, cues: Cues, place: str, k: int) -> list[torch.Tensor]:
    """Everything a selection holds, on the CPU; the map is a new one, so that nothing is remembered."""
    token_map = replace(MAPS[place])
    selection = checked_select(method, cues, token_map, k)
    found = [selection.indices, selection.budgets, selection.scores]
    if selection.merge is not None:
        place = torch.arange(len(token_map) * 4, dtype=torch.float32, device="cpu").view(1, -1, 4)
        found.append(selection.merge.apply(place.expand(cues.batch, -1, -1).to(cues.device), k))
    assert all(value.device == cues.device for value in found if value is not None)
    return [value.cpu() for value in found if value is not None]


def cases(name: str) -> Iterator[tuple[str, Cues, int]]:
    """Maps that a method takes, cues for them, and how many tokens to keep."""
    for place in ("anyres", "video"):
        n = len(MAPS[place])
        if MAPS[place] in maps_for(SETTINGS[name]):
            yield place, inputs.cues("random", 2, n, 3), n if name == "keep-all" else 7


@pytest.mark.parametrize("name", SETTINGS)
def test_the_same_on_an_accelerator(name: str) -> None:
    """Also where tensors are made there unless they are told otherwise, as scripts for GPUs like to set it."""
    for place, cues, k in cases(name):
        expected = decided(SETTINGS[name], cues, place, k)
        with Accelerator():
            moved = on(DEVICE, cues)
            found = [decided(SETTINGS[name], moved, place, k)]
            with torch.device(DEVICE):
                found.append(decided(SETTINGS[name], moved, place, k))
        for theirs in found:
            for one, other in zip(theirs, expected, strict=True):
                assert_same(one, other, terms=len(MAPS[place]), depth=4)  # cosines, shares, weights, merged tokens


@pytest.mark.parametrize("name", SETTINGS)
def test_defaults_of_the_process_change_nothing(name: str) -> None:
    for place, cues, k in cases(name):
        expected = decided(SETTINGS[name], cues, place, k)
        for default in (torch.float64, torch.bfloat16, torch.float16, torch.device("meta")):
            with defaulting_to(default):
                found = decided(SETTINGS[name], cues, place, k)
            for one, other in zip(found, expected, strict=True):
                assert one.dtype == other.dtype
                assert torch.equal(one, other), default


def test_an_operation_on_two_devices_is_refused() -> None:
    here = torch.ones(3)
    with Accelerator():
        there = here.to(DEVICE)
        assert there.device == torch.tensor([1.0], device=DEVICE).device == DEVICE
        assert (there + 1).sum().item() == 6.0
        assert (there + torch.tensor(1.0)).cpu().tolist() == [2.0, 2.0, 2.0]
        for mixed in (lambda: there + here, lambda: here[there.long()], lambda: here.scatter(0, there.long(), here)):
            with pytest.raises(RuntimeError, match="mixes devices"):
                mixed()
