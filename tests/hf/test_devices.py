"""Live models on another device, and under defaults that scripts set for the whole process."""

from __future__ import annotations

import copy

import pytest
import torch

from accelerator import DEVICE, Accelerator, defaulting_to
from gridprune import GridPrune, families, prune
from gridprune.methods import create

from . import models
from .kit import Uneven, in_full, model, reference
from .test_contract import forward, one, two
from .test_cues import clip_text

DEFAULTS = (torch.float64, torch.bfloat16, torch.float16, torch.device("meta"))


def moved(net):
    """A copy of the model on the accelerator."""
    net = copy.deepcopy(net)
    for module in net.modules():
        for tensors in (module._parameters, module._buffers, module.__dict__):
            found = {name: value for name, value in tensors.items() if isinstance(value, torch.Tensor)}
            tensors |= {name: value.detach().to(DEVICE) for name, value in found.items()}
    return net


def geometry(net, call):
    """What tells the images' maps apart, boxes included."""
    found = []
    for stream in families.find(net).streams:
        vision = stream.vision(call)
        places = [] if vision is None else stream.locate(call["input_ids"], vision)
        found += [(place.token_map.key, place.token_map.boxes) for place in places]
    return found


def test_defaults_of_the_process_do_not_move_a_token(case, net):
    call = case.call(two(case), one(case, 2))
    expected = geometry(net, call)
    for default in DEFAULTS:
        with defaulting_to(default):
            found = geometry(net, call)
        assert [key for key, _ in found] == [key for key, _ in expected]
        assert all(torch.equal(ours, theirs) for (_, ours), (_, theirs) in zip(found, expected)), default


@pytest.mark.parametrize("default", [torch.bfloat16, torch.device("meta")], ids=str)
def test_pruned_forward_equals_reference_under_the_defaults_of_the_process(case, net, default):
    row = two(case)
    call = case.call(row)
    with defaulting_to(default):
        try:
            with torch.no_grad():
                net(**call)
        except NotImplementedError as error:
            assert default == torch.device("meta")
            pytest.skip(f"the stock model makes tensors without saying where: {error}")
        pruned, masks = forward(net, call)
    expected = in_full(case, net, row, masks, reference(case, net, row, masks).logits)
    assert torch.equal(pruned.logits, expected)


GUIDED = GridPrune(keep="40%")
ON_ACCELERATOR = [
    (models.LLAVA, GUIDED, {"clip": clip_text(), "question": "What is red?"}),
    (models.LLAVA, create("s2prune", keep="40%"), {}),
    (models.LLAVA, create("prumerge-fixed", keep="40%"), {}),
    (models.LLAVA_NEXT, create("eadp", keep="40%"), {"clip": clip_text(), "question": "What is red?"}),
    (models.QWEN2_5_VL, Uneven(), {"positions": "original"}),
    (models.QWEN3_VL_VIDEOS, create("fastervlm", keep="40%"), {}),
]


@pytest.mark.parametrize(("case", "method", "settings"), ON_ACCELERATOR, ids=lambda given: getattr(given, "name", ""))
def test_the_same_on_an_accelerator(case, method, settings):
    """Ragged rows, prefill and decoding; also where tensors are made there unless they are told otherwise."""
    net, call = model(case), case.call(two(case), one(case, 2))

    def answer(net, call):
        with torch.no_grad(), prune(net, method, **settings) as pruning:
            ids = net.generate(**call, max_new_tokens=3, do_sample=False)
        return ids, [report.kept_mask for report in pruning.reports]

    expected, masks = answer(net, call)
    with Accelerator():
        there = moved(net), {name: value.to(DEVICE) for name, value in call.items()}
        for default in (torch.device("cpu"), DEVICE):
            with defaulting_to(default):
                found, own = answer(*there)
            assert torch.equal(found.cpu(), expected)
            assert all(torch.equal(ours, theirs) for ours, theirs in zip(own, masks, strict=True))
