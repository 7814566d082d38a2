"""Attention mass: against the stock model on a prompt in which every kept token stands as often as it counts.

Copies of a token at one position, all of which see each other, are alike in every layer; a softmax over s copies is one
over the token with s times the weight. So the stock model says what is right, with no weight anywhere.
"""

from __future__ import annotations

import copy
import math

import pytest
import torch

from gridprune import prune
from gridprune.compat import CACHE
from gridprune.errors import SettingError, UnsupportedModelError
from gridprune.hf.attention_mass import weighed
from gridprune.methods import create
from rounding import assert_same, assert_same_output

from .kit import model, shuffled
from .models import GEMMA3, LLAVA, QWEN2_5_VL

METHOD = create("divprune", keep=5)


def stands_for(features, kept):
    """How many tokens each kept one stands for: itself, and the dropped ones that no other kept one is nearer to."""
    counts = dict.fromkeys(kept, 1)
    for i in range(len(features)):
        if i not in counts:
            cosines = {j: float(torch.cosine_similarity(features[i], features[j], dim=0)) for j in kept}
            counts[max(cosines, key=cosines.get)] += 1
    return counts


def repeated(net, case, image, before, after, kept):
    """Embeddings and positions of a prompt whose kept tokens stand as often as they count."""
    features = case.features(net, [image])[0]
    counts = stands_for(features, kept)
    table = net.get_input_embeddings().weight
    items = [(table[t], 1) for t in before] + [(features[j], counts[j]) for j in kept] + [(table[t], 1) for t in after]
    embeddings = [e for e, times in items for _ in range(times)]
    return embeddings, [i for i, (_, times) in enumerate(items) for _ in range(times)], counts


def reference(net, embeddings, positions):
    """Logits of the last token, copies of a token seeing each other."""
    at = torch.tensor(positions)
    seen = at[None, :] <= at[:, None]
    mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
    return net(
        inputs_embeds=torch.stack(embeddings)[None], attention_mask=mask[None, None], position_ids=at[None]
    ).logits[0, -1]


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_equals_a_prompt_with_copies_through_decoding(attention):
    net, image, before, after = model(LLAVA), LLAVA.image(0), list(shuffled(1)), list(shuffled(2))
    call = LLAVA.call([*before, image, *after])
    net.set_attn_implementation(attention)
    try:
        with prune(net, METHOD, attention_mass=True) as pruning:
            first = net(**call)
            steps = net.generate(**call, max_new_tokens=4, do_sample=False)[0, -4:].tolist()
            next_one = net(input_ids=torch.tensor([[steps[0]]]), **{CACHE: first.past_key_values}).logits[0, -1]
            plain = net(**{**call, "use_cache": False}).logits[0, -1]
    finally:
        net.set_attn_implementation("sdpa")
    kept = pruning.reports[0].kept_indices.tolist()
    embeddings, positions, counts = repeated(net, LLAVA, image, before, after, kept)
    assert len(set(counts.values())) > 1
    assert sum(counts.values()) == len(pruning.reports[0].token_map)
    expected = reference(net, embeddings, positions)
    assert_same_output(first.logits[0, -1], expected, net)
    assert_same_output(plain, expected, net)
    for token in steps:
        assert token == int(expected.argmax())
        embeddings.append(net.get_input_embeddings().weight[token])
        positions.append(positions[-1] + 1)
        expected = reference(net, embeddings, positions)
        if token is steps[0]:
            assert_same_output(next_one, expected, net)
    with prune(net, METHOD):
        assert not torch.allclose(net(**call).logits[0, -1], first.logits[0, -1], atol=1e-2)


@torch.no_grad()
def test_padded_rows_and_beams():
    """A row of a padded batch, and its beams, are what it is alone."""
    net = model(LLAVA)
    long, short = [*shuffled(1), LLAVA.image(0), *shuffled(2)], [5, LLAVA.image(1), 7]
    settings = {"max_new_tokens": 3, "do_sample": False, "num_beams": 2}
    with prune(net, METHOD, attention_mass=True):
        both = net.generate(**LLAVA.call(long, short), **settings)
        alone = [net.generate(**LLAVA.call(row), **settings) for row in (long, short)]
    assert both[:, -3:].tolist() == [one[0, -3:].tolist() for one in alone]


def test_softmax_by_hand():
    logits, counts = [0.3, -1.0, 2.0, 0.5], [1, 4, 2]
    mask = torch.zeros(1, 1, 1, 4)
    mask[..., 0] = -torch.inf
    bias = torch.tensor([[math.log(count) for count in counts]])
    found = (torch.tensor(logits) + weighed(mask, bias, 1, 4)).softmax(-1).flatten()
    weights = [0.0, 4 * math.exp(-1.0), 2 * math.exp(2.0), math.exp(0.5)]
    assert_same(found, torch.tensor(weights, dtype=torch.float64) / sum(weights), terms=4, depth=3)
    causal = weighed(None, torch.zeros(1, 2), 2, 3)[0, 0]
    assert (causal == 0).tolist() == [[True, True, False], [True, True, True]]


@torch.no_grad()
def test_all_is_as_before_and_keeping_all_changes_nothing():
    net = model(LLAVA)
    call = LLAVA.call([3, LLAVA.image(0), 4])
    attributes = {name: set(part.__dict__) for name, part in net.named_modules()}
    stock = net(**call).logits
    with prune(net, create("keep-all"), attention_mass=True):
        assert torch.equal(net(**call).logits, stock)
    with pytest.raises(RuntimeError), prune(net, METHOD, attention_mass=True):
        raise RuntimeError
    assert {name: set(part.__dict__) for name, part in net.named_modules()} == attributes
    assert not any(part._forward_pre_hooks for part in net.modules())
    assert torch.equal(net(**call).logits, stock)


@torch.no_grad()
def test_an_inner_pruning_without_mass_has_none():
    net = model(LLAVA)
    call = LLAVA.call([3, LLAVA.image(0), 4])
    with prune(net, METHOD):
        expected = net(**call).logits
    with prune(net, METHOD, attention_mass=True):
        assert not torch.equal(net(**call).logits, expected)
        with prune(net, METHOD):
            assert torch.equal(net(**call).logits, expected)


@torch.no_grad()
def test_rope_of_several_axes_takes_it_too():
    net = model(QWEN2_5_VL)
    call = QWEN2_5_VL.call([3, QWEN2_5_VL.image(0), 4])
    with prune(net, create("divprune", keep=3)):
        plain = net(**call).logits
    with prune(net, create("divprune", keep=3), attention_mass=True):
        assert not torch.allclose(net(**call).logits, plain, atol=1e-3)


def test_what_cannot_be_weighed_is_refused():
    net = copy.deepcopy(model(LLAVA))
    net.get_decoder().config._attn_implementation = "flash_attention_2"
    with (
        pytest.raises(UnsupportedModelError, match=r"flash_attention_2.*sdpa"),
        prune(net, METHOD, attention_mass=True),
    ):
        pass
    with pytest.raises(UnsupportedModelError, match="window"), prune(model(GEMMA3), METHOD, attention_mass=True):
        pass
    with pytest.raises(SettingError, match="attention_mass"):
        prune(model(LLAVA), create("fastv", keep=5), attention_mass=True)


def test_checkpointing_is_refused():
    net = copy.deepcopy(model(LLAVA)).train()
    for layer in net.get_decoder().layers:
        layer.gradient_checkpointing = True
    with pytest.raises(UnsupportedModelError, match="checkpointing"), prune(net, METHOD, attention_mass=True):
        pass
