"""Training with pruned tokens: every parameter gets the gradient of the prompt written out token by token."""

from __future__ import annotations

import copy
import re
from typing import Any

import peft
import pytest
import torch
from torch import Tensor, nn

from gridprune import prune
from gridprune.methods.checks import checked_select
from gridprune.methods.registry import create
from gridprune.selection import selector as images
from gridprune.selection.encoder_cache import EncoderCache

from .kit import in_full, model, reference
from .models import IDEFICS3, INTERNVL, LLAVA, QWEN2_5_VL, QWEN3_VL
from .test_contract import KEEP_ALL, SOME, one, two

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),  # PEFT's own call
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable:FutureWarning"),  # older versions know no other
]
written_out = reference.__wrapped__  # with gradients
PARTS = ("vision_tower|visual.blocks|vision_model", "projector|merger|connector", "language_model|text_model")
BOTH = pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "not-reentrant"])


def gradients(net: nn.Module, logits: Tensor) -> dict[str, Tensor]:
    """Of all parameters, from a random weight for every logit."""
    weight = torch.randn(logits.shape[1:], generator=torch.Generator().manual_seed(3))
    (logits * weight).sum().backward()
    found = {name: parameter.grad for name, parameter in net.named_parameters() if parameter.grad is not None}
    net.zero_grad()
    return found


def check(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    rounding = 1e-6 * max(float(gradient.abs().max()) for gradient in expected.values())  # biases of keys: 0 but for it
    for name, gradient in expected.items():
        within = max(1e-3 * float(gradient.abs().max()), rounding)
        torch.testing.assert_close(found[name], gradient, atol=within, rtol=0, msg=f"{name}: {{}}".format)


def expected_logits(case: Any, net: nn.Module, row: Any, masks: list[Tensor]) -> Tensor:
    """The reference's logits at the columns of the whole prompt."""
    return in_full(case, net, row, masks, written_out(case, net, row, masks).logits)


def masks_of(pruning: Any) -> list[Tensor]:
    return [report.kept_mask for report in pruning.reports]


def test_every_parameter_learns(case, net):
    row = one(case)
    for method in (SOME, KEEP_ALL):
        with prune(net, method) as pruning:
            found = gradients(net, net(**case.call(row)).logits)
        check(found, gradients(net, expected_logits(case, net, row, masks_of(pruning))))


# -- adapters, gradient checkpointing ----------------------------------------------------------------------------------


def adapted(case) -> Any:
    """The case's model with LoRA on every linear layer: tower, projector and language model."""
    config = peft.LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
    torch.manual_seed(0)
    wrapped = peft.get_peft_model(copy.deepcopy(model(case)), config)
    wrapped.config.use_cache = wrapped.config.get_text_config().use_cache = False
    return wrapped


@BOTH
@pytest.mark.parametrize("case", [LLAVA, QWEN2_5_VL, QWEN3_VL, INTERNVL, IDEFICS3], ids=lambda case: case.name)
def test_adapters_learn_under_gradient_checkpointing(case, reentrant):
    wrapped, row = adapted(case), two(case)
    net = wrapped.get_base_model()
    with prune(wrapped, SOME) as pruning:
        plain = gradients(wrapped, wrapped(**case.call(row)).logits)
        checkpointing(wrapped, reentrant)
        logits = wrapped(**case.call(row)).logits
    found = gradients(wrapped, logits)  # layers are computed again, behind the block
    masks = masks_of(pruning)[:2]
    check(found, gradients(wrapped, expected_logits(case, net, row, masks)))
    expected = gradients(wrapped.eval(), expected_logits(case, net, row, masks))
    check(plain, expected)
    for part in PARTS:
        assert any(re.search(part, name) for name in expected)


def checkpointing(wrapped: Any, reentrant: bool) -> None:
    wrapped.train()
    wrapped.enable_input_require_grads()
    wrapped.gradient_checkpointing_enable({"use_reentrant": reentrant})


# -- methods that make tokens ------------------------------------------------------------------------------------------


@pytest.fixture
def chosen(monkeypatch):
    """The selections that were made, in order."""
    made = []
    monkeypatch.setattr(images, "checked_select", lambda *args: made.append(checked_select(*args)) or made[-1])
    return made


@pytest.mark.parametrize("name", ["visionzip", "prumerge-fixed", "vscan-tower", "merge-rest", "pooling"])
def test_merged_tokens_learn(name, chosen):
    net, method, row = model(LLAVA), create(name, keep=9), one(LLAVA)
    given = LLAVA.call(row)
    with prune(net, method) as pruning:
        found = gradients(net, net(**given).logits)
    (selection,) = chosen
    merge, k = selection.merge, selection.indices.shape[1]
    if merge.space == "tower_features":
        tokens = net.model.vision_tower(given["pixel_values"], output_hidden_states=True).hidden_states[-2][0, 1:]
    else:
        tokens = torch.cat(LLAVA.features(net, [row[5]]))
    token = torch.arange(36) if merge.token is None else merge.token[0]
    parts = zip(merge.group[0].tolist(), merge.weight[0].tolist(), token.tolist())
    slots = [torch.zeros_like(tokens[0]) for _ in range(k)]
    for slot, weight, source in parts:
        if slot >= 0:
            slots[slot] = slots[slot] + weight * tokens[source]
    merged = torch.stack(slots)
    merged = net.model.multi_modal_projector(merged) if merge.space == "tower_features" else merged
    logits = net(inputs_embeds=around(net, row, merged)).logits
    check(found, gradients(net, in_full(LLAVA, net, row, masks_of(pruning), logits)))


def around(net, row, image: Tensor) -> Tensor:
    """The embeddings of a prompt: five words, an image, words."""
    table = net.get_input_embeddings()
    return torch.cat([table(torch.tensor(row[:5])), image, table(torch.tensor(row[6:]))])[None]


# -- what is no part of the graph --------------------------------------------------------------------------------------


def test_generation_and_reports_hold_no_graph():
    net = model(LLAVA)
    with prune(net, create("prumerge", keep=9)) as pruning:
        net(**LLAVA.call(one(LLAVA)))
        output = net.generate(
            **LLAVA.call(one(LLAVA)), max_new_tokens=1, return_dict_in_generate=True, output_hidden_states=True
        )
    assert not output.hidden_states[0][0].requires_grad
    for report in pruning.reports:
        held = [value for value in vars(report).values() if isinstance(value, Tensor)]
        assert held
        assert not any(value.requires_grad for value in held)


def test_an_encoder_that_learns_is_not_remembered():
    net, given = model(LLAVA), LLAVA.call(one(LLAVA))
    cache = EncoderCache()
    with prune(net, SOME, cache=cache):
        with torch.no_grad():
            short = net(**given).logits
        first = gradients(net, net(**given).logits)  # not the features of before, which have no gradients
        check(gradients(net, net(**given).logits), first)  # nor those whose graph is used up
        assert cache.hits == 0
        with torch.no_grad():
            assert torch.equal(net(**given).logits, short)
            assert cache.hits == 1
            with torch.autocast("cpu", torch.bfloat16):
                net(**given)
            assert cache.hits == 1
    assert any("vision_tower" in name for name in first)
    net.model.vision_tower.requires_grad_(False)
    net.model.multi_modal_projector.requires_grad_(False)
    try:
        with prune(net, SOME, cache=cache):
            for _ in range(3):
                gradients(net, net(**given).logits)
    finally:
        net.requires_grad_(True)
    assert cache.hits == 3
