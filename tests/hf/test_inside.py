"""Dropping tokens inside the language models of all families, against the stock model with these tokens masked out.

A token that is dropped before a layer is one that no other token sees from that layer on: the reference runs the whole
prompt and hides its column, whatever else a layer does (windows, DeepStack, M-RoPE).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from gridprune import prune
from gridprune.errors import UnsupportedCallError, UnsupportedModelError
from gridprune.methods.in_llm.base import DropPoint, InsideMethod, LayerView
from rounding import assert_same_output

from .cases import NEWER, STILL, VIDEOS
from .kit import model, shuffled, variant
from .models import GEMMA3, QWEN3_VL

# Layers without attention, and layers that read keys of earlier ones, cannot leave tokens out.
REFUSED = {"qwen3.5", "qwen3.5-moe", "lfm2-vl", "gemma4-e"}


@dataclass(frozen=True, kw_only=True)
class Loudest(InsideMethod):
    """Two thirds of the visual tokens behind layer 1, a third behind layer 2: those of the largest states."""

    name: ClassVar[str] = "loudest"
    rows: ClassVar[str] = "none"

    def stop_layers(self, depth: int) -> tuple[int, ...]:
        return (1, 2)

    def stops(self, total: int, depth: int) -> tuple[DropPoint, ...]:
        return DropPoint(1, 2 * total // 3), DropPoint(2, total // 3)

    def choose(self, view: LayerView, k: int) -> Tensor:
        return view.states.norm(dim=-1).topk(k).indices.sort().values


@torch.no_grad()
def masked(net, call: dict[str, Tensor], visual: Tensor) -> tuple[Tensor, Tensor]:
    """Logits of the whole prompt and the columns that are left in the end, the tokens hidden by hand."""
    length, left = call["input_ids"].shape[1], [visual]
    stays = torch.ones(length, dtype=torch.bool)

    def before(index):
        def hook(layer, args, kwargs):
            hidden = args[0] if args else kwargs["hidden_states"]
            if index in (1, 2):
                loud = hidden[0, left[-1]].norm(dim=-1).topk((3 - index) * len(visual) // 3).indices.sort().values
                left.append(left[-1][loud])
                stays[visual] = False
                stays[left[-1]] = True
            mask = kwargs.get("attention_mask")
            seen = torch.ones(length, length).tril().bool() if mask is None else mask[0, 0]
            seen = seen if seen.dtype == torch.bool else seen == 0
            seen = (seen & stays) | torch.eye(length, dtype=torch.bool)
            return args, {**kwargs, "attention_mask": seen[None, None]}

        return hook

    layers = net.get_decoder().layers
    handles = [layer.register_forward_pre_hook(before(i), with_kwargs=True) for i, layer in enumerate(layers)]
    logits = net(**call).logits[0]
    for handle in handles:
        handle.remove()
    return logits[stays], stays.nonzero()[:, 0]


@pytest.mark.parametrize("case", [*STILL, *NEWER], ids=lambda case: case.name)
def test_equals_the_stock_model_with_masked_columns(case):
    net = model(case)
    call = case.call([*shuffled(1), case.image(0), *shuffled(2)])
    if case.name in REFUSED:
        with pytest.raises(UnsupportedModelError, match="pre-llm"):
            prune(net, Loudest(keep=1))
        return
    visual = (call["input_ids"][0] == case.placeholder).nonzero()[:, 0]
    expected, columns = masked(net, call, visual)
    with prune(net, Loudest(keep=1)) as pruning, torch.no_grad():
        logits = net(**call).logits[0]
    assert len(logits) == call["input_ids"].shape[1] == len(columns) + len(visual) - len(visual) // 3
    assert_same_output(logits[columns], expected, net)
    assert [report.kept for report in pruning.reports] == [len(visual) // 3]


def wide() -> Any:
    """Gemma 3 with windows that hold the whole prompt, as those of the real model hold an image or four."""
    net = GEMMA3.build()
    config = net.config.to_dict()
    config["text_config"]["sliding_window"] = 64
    return type(net)(type(net.config).from_dict(config))


@pytest.mark.parametrize("case", [QWEN3_VL, variant(GEMMA3, build=wide)], ids=lambda case: case.name)
def test_decoding_goes_on_with_what_is_left(case):
    net = model(case)
    call = case.call([*shuffled(1), case.image(0), *shuffled(2)])
    visual = (call["input_ids"][0] == case.placeholder).nonzero()[:, 0]
    with prune(net, Loudest(keep=1)):
        out = net.generate(**call, max_new_tokens=3, do_sample=False, return_dict_in_generate=True, output_logits=True)
    new = case.call([*shuffled(1), case.image(0), *shuffled(2), *out.sequences[0, -3:-1].tolist()])
    expected, _ = masked(net, new, visual)
    assert_same_output(torch.cat(out.logits), expected[-3:], net)


def test_windows_that_would_slide_over_dropped_tokens_are_refused():
    net, call = model(GEMMA3), GEMMA3.call([*shuffled(1), GEMMA3.image(0), *shuffled(2)])
    assert net.config.text_config.sliding_window < call["input_ids"].shape[1]
    with prune(net, Loudest(keep=1)), pytest.raises(UnsupportedCallError, match="last 12 tokens"):
        net.generate(**call, max_new_tokens=2)


@pytest.mark.parametrize("case", [case for case in VIDEOS if case.name[:7] != "qwen3.5"], ids=lambda case: case.name)
def test_clips_are_refused_by_name(case):
    net, call = model(case), case.call([*shuffled(1), case.image(0), *shuffled(2)])
    with prune(net, Loudest(keep=1)), pytest.raises(UnsupportedCallError, match="not of videos"):
        net(**call)
    with prune(net, Loudest(keep=1)), pytest.raises(UnsupportedCallError, match="not of videos"):
        net.generate(**call, max_new_tokens=1)
