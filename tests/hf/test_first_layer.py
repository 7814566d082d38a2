"""Relevance from the language model's first layer is what the stock model's own first layer would compute."""

from __future__ import annotations

import json
from contextlib import ExitStack

import pytest
import torch

from gridprune import families, prune
from gridprune.errors import CheckpointError, MissingCueError, UnsupportedModelError
from gridprune.methods.base import Needs
from gridprune.methods.registry import create
from gridprune.selection.collect import TextSide, collect, wanted_blocks

from .cases import CASES
from .kit import model
from .models import LLAVA, QWEN2_5_VL
from .words import VICUNA, processor, tokenizer

WORDS = tokenizer()("what is it?", add_special_tokens=False)["input_ids"]


def stock_queries_and_keys(net, decoder, call):
    """(L, H, d) and (L, H_kv, d) without rotary positions, as hooks see them while the stock model runs."""
    layer = next(layer for layer in decoder.layers if hasattr(layer, "self_attn"))
    attention, seen = layer.self_attn, {}

    def keep(name):
        def hook(module, args, output):
            seen.setdefault(name, output.detach())

        return hook

    def embeddings(module, args, kwargs):
        seen.setdefault("embeddings", (args[0] if args else kwargs["hidden_states"]).detach())

    names = {"q": ("q_norm", "q_layernorm", "q_proj"), "k": ("k_norm", "k_layernorm", "k_proj")}
    with ExitStack() as undo, torch.no_grad():
        undo.callback(decoder.layers[0].register_forward_pre_hook(embeddings, with_kwargs=True).remove)
        for side, found in names.items():
            module = next(getattr(attention, name) for name in found if hasattr(attention, name))
            undo.callback(module.register_forward_hook(keep(side)).remove)
        net(**call)
        if layer is not decoder.layers[0]:  # layers in front of it changed what it was given: once more, without them
            seen = {"embeddings": seen["embeddings"]}
            normed = getattr(layer, "input_layernorm", None) or layer.operator_norm
            length, size = seen["embeddings"].shape[1], attention.head_dim
            attention(
                hidden_states=normed(seen["embeddings"]),
                position_embeddings=(torch.ones(1, length, size), torch.zeros(1, length, size)),
                attention_mask=None,
            )
    length = seen["embeddings"].shape[1]
    return tuple(_per_token(seen[side][0], length, attention.head_dim) for side in names)


def _per_token(values, length, size):
    """(L, H, d): of projections (L, H d), of norms per head (L, H, d) or, in Gemma 3, (H, L, d)."""
    heads_first = values.dim() == 3 and values.shape[0] != length
    return values.transpose(0, 1) if heads_first else values.reshape(length, -1, size)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_family_gives_what_the_stock_model_computes(case):
    net = model(case)
    call = case.call([5, *WORDS, case.image(0), 7])
    family = next(s for s in families.find(net).streams if s.vision(call) is not None)
    vision = family.vision(call)
    maps, method = family.token_maps(vision), create("hawk", keep=2)
    with torch.no_grad():
        encoded = family.encode(vision, maps, wanted_blocks(family, Needs.of(method), TextSide()))
        cues = collect(family, Needs.of(method), encoded, [0], ["what is it?"], TextSide(None, tokenizer()))
    query, key = stock_queries_and_keys(net, family.base.get_decoder(), call)
    columns = family.locate(call["input_ids"], vision)[0].columns[maps[0].candidate_positions]
    heads, size = query.shape[1:]
    expected = torch.zeros(heads, len(columns))
    for head in range(heads):
        for place, column in enumerate(columns.tolist()):
            own = key[column, head * key.shape[1] // heads]
            products = [float(query[1 + word, head] @ own) for word in range(len(WORDS))]
            expected[head, place] = sum(products) / len(WORDS) / size**0.5
    torch.testing.assert_close(cues.head_relevance[0], expected, rtol=1e-3, atol=1e-4)


def test_no_text_tower_is_needed():
    net = model(LLAVA)
    with torch.no_grad(), prune(net, create("hawk", keep=5), processor=processor(VICUNA), question="what?") as pruning:
        net(**LLAVA.call([5, LLAVA.image(0)]))
    assert pruning.reports[0].kept == 5
    with pytest.raises(MissingCueError, match="processor"):
        prune(net, create("hawk", keep=5), question="what?")


def test_a_model_without_such_a_layer_is_refused_before_it_runs(monkeypatch):
    net = model(QWEN2_5_VL)
    for layer in net.model.language_model.layers:
        monkeypatch.delitem(layer._modules, "self_attn")
    with pytest.raises(UnsupportedModelError, match="Qwen2_5_VLTextModel"):
        prune(net, create("hawk", keep=4), processor=processor(VICUNA), question="what?")


def kept_by_hand(net, weights, k):
    """The k tokens with the largest weighted sum of the stock model's first-layer products, rows of length 1."""
    call = LLAVA.call([5, *WORDS, LLAVA.image(0)])
    query, key = stock_queries_and_keys(net, net.model.get_decoder(), call)
    columns = [i for i, number in enumerate(call["input_ids"][0].tolist()) if number == net.config.image_token_id]
    scores = [0.0] * len(columns)
    for head, weight in enumerate(weights):
        own = key[:, head * key.shape[1] // query.shape[1]]
        row = [sum(float(query[1 + word, head] @ own[column]) for word in range(len(WORDS))) for column in columns]
        length = sum(value * value for value in row) ** 0.5
        scores = [score + weight * value / length for score, value in zip(scores, row)]
    return sorted(sorted(range(len(columns)), key=lambda i: -scores[i])[:k])


def kept(net, method):
    with torch.no_grad(), prune(net, method, processor=processor(VICUNA), question="what is it?") as pruning:
        net(**LLAVA.call([5, *WORDS, LLAVA.image(0)]))
    return pruning.reports[0].kept_indices.tolist()


@pytest.fixture
def noted(tmp_path, monkeypatch):
    """A model from a folder, and its `gridprune.json`."""
    net = model(LLAVA)
    monkeypatch.setattr(net.config, "_name_or_path", str(tmp_path))
    return net, tmp_path / "gridprune.json"


def test_stored_weights_choose(noted):
    net, file = noted
    equal, chosen = (kept_by_hand(net, weights, 5) for weights in ([1, 1, 1, 1], [0, 0.7, -0.2, 0.1]))
    assert equal != chosen
    assert kept(net, create("hawk", keep=5)) == equal
    file.write_text(json.dumps({"reading": "plus", "head_weights": [0, 0.7, -0.2, 0.1]}))
    assert kept(net, create("hawk", keep=5)) == chosen
    assert kept(net, create("first-layer", base=create("relevance"), keep=5)) == chosen
    for settings in ({"weights": "equal"}, {"weights": [2, 2, 2, 2]}):
        assert kept(net, create("hawk", keep=5, **settings)) == equal
    rows_of_another_kind = [create("hawk", keep=5, norm="minmax", weights=weights) for weights in (None, "equal")]
    assert kept(net, rows_of_another_kind[0]) == kept(net, rows_of_another_kind[1])


@pytest.mark.parametrize("stored", ['{"head_weights": [1, 2, 3]}', "[1, 2, 3, 4]", "{"])
def test_what_is_stored_and_does_not_fit_is_refused_before_the_model_runs(noted, stored):
    net, file = noted
    file.write_text(stored)
    with pytest.raises(CheckpointError, match=r"gridprune\.json"):
        prune(net, create("hawk", keep=5), processor=processor(VICUNA), question="what?")
    prune(net, create("divprune", keep=5))  # reads none of it
