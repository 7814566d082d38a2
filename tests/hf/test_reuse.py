"""Work that is not done twice, and blocks that are not run at all: the results stay the very same."""

from __future__ import annotations

import copy

import pytest
import torch

from gridprune import prune
from gridprune.errors import SettingError
from gridprune.families import find
from gridprune.families.base import Blocks
from gridprune.methods.registry import create
from gridprune.selection.encoder_cache import EncoderCache

from .kit import model, shuffled
from .models import LLAVA, LLAVA_NEXT, QWEN2_5_VL, VIP_LLAVA

SOME = create("fastervlm", keep="30%")


def call(case, seed=0):
    torch.manual_seed(seed)
    return case.call([*shuffled(1), case.image(seed), *shuffled(2)])


def counted(module):
    """Count the forward calls of a module."""
    calls = []
    handle = module.register_forward_hook(lambda *args: calls.append(1))
    return calls, handle


def logits(net, inputs, **settings):
    with torch.no_grad(), prune(net, SOME, **settings):
        return net(**inputs).logits


@pytest.mark.parametrize("case", [LLAVA, LLAVA_NEXT, QWEN2_5_VL], ids=lambda case: case.name)
def test_an_image_that_comes_back_is_not_encoded_again(case):
    net, cache = model(case), EncoderCache(2)
    tower = find(net).tower.module
    first, second = call(case, 0), call(case, 1)
    plain = [logits(net, inputs) for inputs in (first, second)]
    calls, handle = counted(tower)
    with handle:
        for inputs, expected in ((first, plain[0]), (second, plain[1]), (first, plain[0])):
            assert torch.equal(logits(net, inputs, cache=cache), expected)
        assert (len(calls), cache.hits, cache.misses) == (2, 1, 2)
        for name, passes in (("divprune", 2), ("vispruner", 3), ("fastervlm", 3)):  # reads no block; more; less
            with torch.no_grad(), prune(net, create(name, keep="30%"), cache=cache):
                net(**first)
            assert (len(calls), len(cache)) == (passes, 2), name
    cache.clear()
    assert len(cache) == 0


def test_entries_do_not_mix_models_images_or_settings():
    one, two = model(LLAVA), copy.deepcopy(model(LLAVA))
    with torch.no_grad():
        for weight in two.parameters():
            weight.mul_(1.5)
    cache, inputs = EncoderCache(8), call(LLAVA)
    for net in (one, two):
        assert torch.equal(logits(net, inputs, cache=cache), logits(net, inputs))
    changed = {**inputs, "pixel_values": inputs["pixel_values"] + 1e-3}
    assert torch.equal(logits(one, changed, cache=cache), logits(one, changed))
    assert cache.hits == 0
    assert cache.misses == 3


def test_a_number_makes_a_cache_of_its_own():
    net = model(LLAVA)
    pruning = prune(net, SOME, cache=1)
    with torch.no_grad(), pruning:
        for _ in range(3):
            net(**call(LLAVA))
    assert (pruning.cache.hits, pruning.cache.misses) == (2, 1)


@pytest.mark.parametrize("wrong", [0, -1, True, 1.5])
def test_a_cache_holds_at_least_one_call(wrong):
    with pytest.raises(SettingError, match="at least 1"):
        EncoderCache(wrong)


def test_methods_that_do_not_use_the_encoder_call_refuse_a_cache():
    with pytest.raises(SettingError, match="leave `cache` out"):
        prune(model(LLAVA), create("fastv"), cache=2)


@pytest.mark.parametrize("case", [LLAVA, LLAVA_NEXT], ids=lambda case: case.name)
def test_blocks_behind_the_feature_layer_do_not_run(case):
    net = model(case)
    family, inputs = find(net), call(case)
    vision = family.vision(inputs)
    assert family.last_block(vision) == family.feature_block == family.tower.depth - 2
    full = family.features(vision)
    attention = family.tower.blocks[-1].self_attn
    calls, handle = counted(attention)
    with handle:
        read = Blocks(states=frozenset({family.feature_block}))
        encoded = family.encode(vision, family.token_maps(vision), read)
        assert calls == []
        assert all(torch.equal(a, b) for a, b in zip(encoded.output.pooler_output, full.pooler_output))
        last = family.tower.depth - 1  # a method that reads the last block gets it
        with torch.no_grad():
            seen = family.encode(vision, family.token_maps(vision), Blocks(states=frozenset({last})))
        assert len(calls) == 1
        assert len(seen.captured.states[last]) == 1
        family.features(vision)
        assert len(calls) == 2
    assert "forward" not in family.tower.blocks[-1].__dict__


def test_all_blocks_run_where_the_layer_is_not_one():
    net = model(VIP_LLAVA)
    assert find(net).last_block(find(net).vision(call(VIP_LLAVA))) is None
    net = model(LLAVA)
    assert find(net).last_block({**call(LLAVA), "vision_feature_layer": -1}) is None
