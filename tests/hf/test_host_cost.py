"""What a pruned call costs the host, counted on a make-believe accelerator: waiting for the device, and launches."""

from __future__ import annotations

import functools
from unittest.mock import patch

import pytest
import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

import accelerator
from accelerator import DEVICE, Accelerator
from gridprune import GridPrune, prune
from gridprune.core.graphs import Graphs
from gridprune.methods import create
from recorder import Still

from . import models
from .kit import model, shuffled
from .test_cues import clip_text
from .test_devices import moved

READS = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select", "unique")
GUIDED, ASKED = GridPrune(keep="40%"), {"clip": clip_text(), "question": "what is red"}
CASES = [
    (models.LLAVA, GUIDED, ASKED),
    (models.LLAVA_NEXT, GUIDED, ASKED),
    (models.QWEN2_5_VL, create("fastervlm", keep="40%"), {}),
    (models.QWEN3_VL, create("fastervlm", keep="40%"), {}),
]


class Host(TorchDispatchMode):
    """Counts operations on the accelerator, and those among them whose result the host waits for."""

    def __init__(self):
        super().__init__()
        self.launches = self.reads = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name, kwargs = function.__name__.split(".")[0], kwargs or {}
        if any(isinstance(each, accelerator._Remote) for each in pytree.tree_leaves((args, kwargs))):
            away = name == "_to_copy" and torch.device(kwargs.get("device") or DEVICE).type == "cpu"
            self.launches += not away
            self.reads += away or name in READS
        return function(*args, **kwargs)

    def listed(self, tensor):
        self.reads += 1
        return tensor.held.tolist()


def counted(call):
    call()  # what is looked up once
    with Host() as host, patch.object(accelerator._Remote, "tolist", lambda tensor: host.listed(tensor)):
        call()
    return host


def answer(net, call, pruning):
    with pruning:
        net(**call)


@pytest.mark.parametrize(("case", "method", "settings"), CASES, ids=lambda given: getattr(given, "name", ""))
def test_a_call_waits_for_little_and_not_longer_for_more_images(case, method, settings):
    """Ids, mask, sizes, and the decision are read: beyond what the stock model reads, at most three waits."""
    net, reads, launches = model(case), [], []
    with Accelerator(), torch.no_grad():
        there = moved(net)
        for rows in (1, 4):
            call = case.call(*[[*shuffled(1), case.image(0), *shuffled(2)]] * rows)
            call = {name: value.to(DEVICE) for name, value in call.items()}
            stock = counted(functools.partial(there, **call))
            ours = counted(functools.partial(answer, there, call, prune(there, method, **settings)))
            reads.append(ours.reads - stock.reads)
            launches.append(ours.launches - stock.launches)
    assert max(reads) <= 3
    assert reads[1] <= reads[0]
    assert launches[0] <= 140
    assert launches[1] <= launches[0] + 12


@pytest.mark.parametrize("accelerate", [False, True])
@pytest.mark.parametrize(("case", "method", "settings"), CASES, ids=lambda given: getattr(given, "name", ""))
def test_what_is_recorded_is_launched_as_one(case, method, settings, accelerate):
    """Inputs are copied in and results out; an accelerated call launches far less than the stock model."""
    net = model(case)
    if accelerate and "llava" not in case.name:
        pytest.skip("images of any size")
    with Accelerator(), torch.no_grad():
        there = moved(net)
        call = case.call(*[[*shuffled(1), case.image(0), *shuffled(2)]] * 4)
        call = {name: value.to(DEVICE) for name, value in call.items()}
        stock = counted(functools.partial(there, **call))
        pruning = prune(there, method, accelerate=accelerate, **settings)
        for selector in pruning._acting.selectors:
            selector.graphs = Graphs(Still())
        for _ in range(3):
            answer(there, call, pruning)
        ours = counted(functools.partial(answer, there, call, pruning))
    assert ours.launches - stock.launches <= (-100 if accelerate else 20)
