"""Models that other libraries hold: LoRA adapters, weights kept on the CPU, compiled language models."""

from __future__ import annotations

import copy

import accelerate
import peft
import pytest
import torch
from peft.tuners.tuners_utils import BaseTuner

from gridprune import GridPrune, prune
from gridprune.errors import UnsupportedModelError
from gridprune.methods.registry import create
from rounding import assert_same_output

from .kit import model, shuffled
from .models import GEMMA3, LLAVA, LLAVA_NEXT, ONEVISION, QWEN2_5_VL
from .test_cues import clip_text
from .test_intercept import state
from .words import VICUNA, processor

METHOD = GridPrune(keep="30%")
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT's own call


def call(case):
    return case.call([*shuffled(1), case.image(0), *shuffled(2)])


def given(case):
    """What the family's relevance comes from."""
    text = {"clip": clip_text()} if case in (LLAVA, LLAVA_NEXT) else {"processor": processor(VICUNA)}
    return {**text, "question": "what?"}


@torch.no_grad()
def run(net, case, **settings):
    """Logits of a direct call and of a generation, pruned."""
    with prune(net, METHOD, **given(case), **settings) as pruning:
        logits = net(**call(case)).logits
        output = net.generate(**call(case), max_new_tokens=3, do_sample=False)
    return logits, output, list(pruning.reports)


# -- PEFT --------------------------------------------------------------------------------------------------------------


def lora(case, **settings):
    """The case's model with LoRA on its language model, weights of the adapters drawn, and its merged twin."""
    config = peft.LoraConfig(r=2, target_modules=r".*language_model.*\.(q_proj|v_proj)", **settings)
    wrapped = peft.get_peft_model(copy.deepcopy(model(case)), config).eval()
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(0, 0.5, generator=torch.Generator().manual_seed(1))
    return wrapped, copy.deepcopy(wrapped).merge_and_unload()


@pytest.mark.parametrize("kind", [None, "CAUSAL_LM"])
@pytest.mark.parametrize("past", [False, True], ids=["called", "gone-past"])
@pytest.mark.parametrize("case", [LLAVA, QWEN2_5_VL], ids=lambda case: case.name)
def test_lora_equals_its_merged_twin(case, kind, past, monkeypatch):
    if past:  # how tuners of older PEFT reach the model
        monkeypatch.setattr(BaseTuner, "forward", lambda self, *args, **kwargs: self.model.forward(*args, **kwargs))
    wrapped, merged = lora(case, task_type=kind)
    base = wrapped.get_base_model()
    before = state(base)
    logits, output, reports = run(wrapped, case)
    expected, tokens, _ = run(merged, case)
    assert_same_output(logits, expected, wrapped)
    assert torch.equal(output, tokens)
    assert len(reports) == 2
    assert state(base)[0].keys() == before[0].keys()
    with torch.no_grad():
        stock = wrapped(**call(case)).logits
    assert logits.shape == stock.shape
    assert not torch.allclose(logits[:, -1], stock[:, -1], atol=1e-2)


def test_arguments_without_names():
    wrapped, _ = lora(LLAVA)
    given = call(LLAVA)
    with torch.no_grad(), prune(wrapped, create("fastervlm", keep=8)) as pruning:
        expected = wrapped(**given).logits
        assert torch.equal(wrapped(given["input_ids"], given["pixel_values"], given["attention_mask"]).logits, expected)
    assert len(pruning.reports) == 2


def test_a_failed_call_leaves_no_trace():
    wrapped, _ = lora(LLAVA, task_type="CAUSAL_LM")
    with torch.no_grad(), prune(wrapped, create("fastervlm", keep=8)) as pruning:
        handle = wrapped.get_base_model().lm_head.register_forward_pre_hook(lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            wrapped(**call(LLAVA))
        handle.remove()
        cache = wrapped(**call(LLAVA), use_cache=True).past_key_values
    assert cache.get_seq_length() == call(LLAVA)["input_ids"].shape[1] - 36 + 8
    assert len(pruning.reports) == 2


def test_adapters_that_count_tokens_are_refused():
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3, token_dim=32, num_layers=2)
    config.num_attention_heads, config.num_transformer_submodules = 4, 1
    wrapped = peft.get_peft_model(copy.deepcopy(model(LLAVA)), config)
    with pytest.raises(UnsupportedModelError, match="PROMPT_TUNING"):
        prune(wrapped, create("random", keep=3))


# -- accelerate --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [LLAVA, LLAVA_NEXT, ONEVISION, QWEN2_5_VL, GEMMA3], ids=lambda case: case.name)
def test_weights_kept_elsewhere(case):
    """LLaVA-NeXT and LLaVA-OneVision read a parameter outside of any forward call, which stock `generate` cannot."""
    expected, tokens, _ = run(model(case), case)
    offloaded = accelerate.cpu_offload(copy.deepcopy(model(case)), execution_device="cpu")
    assert next(offloaded.parameters()).device.type == "meta"
    logits, output, _ = run(offloaded, case)
    assert torch.equal(logits, expected)
    assert torch.equal(output, tokens)
    assert all(parameter.device.type == "meta" for parameter in offloaded.parameters())


def test_device_maps():
    expected, tokens, _ = run(model(LLAVA), LLAVA)
    parts = {"model.vision_tower": "cpu", "model.multi_modal_projector": "cpu", "lm_head": "cpu"}
    parts["model.language_model"] = "cpu"
    mapped = accelerate.dispatch_model(copy.deepcopy(model(LLAVA)), parts, main_device="cpu", force_hooks=True)
    logits, output, _ = run(mapped, LLAVA)
    assert torch.equal(logits, expected)
    assert torch.equal(output, tokens)


# -- torch.compile -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_place", [True, False], ids=["in-place", "wrapped"])
@pytest.mark.parametrize("case", [LLAVA, QWEN2_5_VL], ids=lambda case: case.name)
def test_a_compiled_language_model(case, in_place):
    """The traced graph, without a code generator: what is compiled is the same."""
    expected, tokens, _ = run(model(case), case)
    compiled = copy.deepcopy(model(case))
    inner = compiled.model
    if in_place:
        inner.language_model.compile(backend="eager")
    else:
        inner.language_model = torch.compile(inner.language_model, backend="eager")
    logits, output, _ = run(compiled, case)
    assert_same_output(logits, expected, compiled)
    assert torch.equal(output, tokens)
    with pytest.raises(UnsupportedModelError, match="language model is compiled"):
        prune(compiled, create("fastv", keep="50%"))


def test_a_compiled_tower_is_not_read():
    compiled = copy.deepcopy(model(LLAVA))
    compiled.model.vision_tower.compile(backend="eager")
    with pytest.raises(UnsupportedModelError, match="vision tower"):
        prune(compiled, create("fastervlm", keep=3))
    with torch.no_grad(), prune(compiled, create("divprune", keep=3)) as pruning:
        compiled(**call(LLAVA))
    assert pruning.reports[0].kept == 3


def test_a_model_compiled_as_a_whole_is_refused():
    compiled = copy.deepcopy(model(LLAVA))
    compiled.compile(backend="eager")
    with pytest.raises(UnsupportedModelError, match="as a whole"):
        prune(compiled, create("random", keep=3))
