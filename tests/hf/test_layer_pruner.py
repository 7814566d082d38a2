"""Pruning inside the language model, against a forward pass written out layer by layer with dense attention maps."""

from __future__ import annotations

import copy
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
import transformers
from packaging.version import Version
from torch import Tensor
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from gridprune import prune
from gridprune.compat import CACHE
from gridprune.errors import BudgetError, SelectionError, UnsupportedCallError
from gridprune.families.limits import Limit
from gridprune.hf import layer_pruner as engine
from gridprune.hf.watch import watch
from gridprune.methods.fastervlm import FasterVLM
from gridprune.methods.in_llm import LayerView
from gridprune.methods.in_llm.base import layer_average
from gridprune.methods.in_llm.dart import DartInside
from gridprune.methods.in_llm.fastv import FastV
from gridprune.methods.in_llm.pyramiddrop import PyramidDrop
from gridprune.methods.in_llm.sparsevlm import SparseVLM
from gridprune.methods.registry import create
from rounding import assert_same_output

IMAGE, DEPTH, TOTAL = 5, 4, 16
METHODS = [(FastV, {"layer": 1}), (FastV, {"layer": 2}), (PyramidDrop, {}), (SparseVLM, {}), (DartInside, {"layer": 1})]


@pytest.fixture(scope="module", params=["sdpa", "eager"])
def model(request):
    torch.manual_seed(0)
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=4
    )
    text = LlamaConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=DEPTH,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=64,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=None,
    )
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_id=IMAGE, image_seq_length=TOTAL)
    built = LlavaForConditionalGeneration(config).eval()
    for parameter in built.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(0, 0.3)
    built.set_attn_implementation(request.param)
    return built


def call(rows: int = 1, pad: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = [[0] * (pad * r) + [1, 9, 10 + r] + [IMAGE] * TOTAL + [20, 21 + r, 22] for r in range(rows)]
    width = max(map(len, ids))
    mask = [[0] * (width - len(row) + pad * r) + [1] * (len(row) - pad * r) for r, row in enumerate(ids)]
    ids = [[0] * (width - len(row)) + row for row in ids]
    pixels = torch.randn(rows, 3, 16, 16, generator=generator)
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask), "pixel_values": pixels}


@torch.no_grad()
def reference(model, inputs: dict[str, Tensor], method, stops) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """One unpadded row: every layer written out, tokens dropped by hand. The logits of the tokens that are left at the
    end, what every layer gave, and the columns that it saw."""
    ids = inputs["input_ids"]
    features = torch.cat(model.model.get_image_features(inputs["pixel_values"], return_dict=True).pooler_output)
    hidden = model.get_input_embeddings()(ids).clone()
    hidden[ids == IMAGE] = features
    inputs_embeds, lm = hidden, model.model.language_model
    columns = torch.arange(ids.shape[1])
    cos, sin = lm.rotary_emb(hidden, position_ids=columns[None])
    by_layer = {stop.layer: stop for stop in stops}
    attention = keys = None
    states, seen = [hidden], [columns]
    for index, layer in enumerate(lm.layers):
        if index in by_layer:
            visual = (ids[0, columns] == IMAGE).nonzero()[:, 0]
            text = (ids[0, columns] != IMAGE).nonzero()[:, 0]
            rows = {"last": torch.tensor([len(columns) - 1]), "text": text, "none": torch.tensor([0])}[method.rows]
            view = LayerView(
                layer=index,
                attention=attention[rows][:, visual][None],
                states=hidden[:, visual],
                inputs=inputs_embeds[:, columns[visual]],
                keys=keys[:, visual],
                text_keys=keys[:, text],
                text_states=hidden[:, text],
                text_inputs=inputs_embeds[:, columns[text]],
                text_mask=torch.ones(1, len(text), dtype=torch.bool),
            )
            kept = visual[method.choose(view, by_layer[index].kept)[0]]
            stays = torch.cat([text, kept]).sort().values
            hidden, columns = hidden[:, stays], columns[stays]
        attend = layer.self_attn
        normed = layer.input_layernorm(hidden)
        heads = lambda x: x.view(1, len(columns), -1, attend.head_dim).transpose(1, 2)  # noqa: B023, E731
        q, k, v = heads(attend.q_proj(normed)), heads(attend.k_proj(normed)), heads(attend.v_proj(normed))
        q, k = apply_rotary_pos_emb(q, k, cos[:, columns], sin[:, columns])
        keys = k.transpose(1, 2).flatten(2)
        k, v = k.repeat_interleave(2, dim=1), v.repeat_interleave(2, dim=1)
        logits = q @ k.transpose(-1, -2) * attend.head_dim**-0.5
        causal = torch.ones(len(columns), len(columns)).tril().bool()
        weights = logits.masked_fill(~causal, float("-inf")).softmax(-1)
        attention = weights.mean(1)[0]
        hidden = hidden + attend.o_proj((weights @ v).transpose(1, 2).flatten(2))
        hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
        states.append(hidden)
        seen.append(columns)
    states[-1] = lm.norm(hidden)
    return model.lm_head(states[-1]), states, seen


def in_full(values: Tensor, columns: Tensor) -> Tensor:
    """(1, L, ...) from values at some columns: a dropped one gets those of the last before it that was kept."""
    full = [int((columns <= column).sum()) - 1 for column in range(3 + TOTAL + 3)]
    return values[:, full]


@pytest.mark.parametrize(("method_class", "settings"), METHODS)
def test_equals_the_layers_written_out(model, method_class, settings):
    method = method_class(keep=10, **settings)
    inputs = call()
    stops = method.stops(TOTAL, DEPTH)
    assert stops[-1].kept < TOTAL
    with prune(model, method) as pruning, torch.no_grad():
        output = model(**inputs, output_hidden_states=True)
    expected, states, seen = reference(model, inputs, method, stops)
    assert_same_output(output.logits, in_full(expected, seen[-1]), model)
    for mine, theirs, columns in zip(output.hidden_states, states, seen, strict=True):
        assert_same_output(mine, in_full(theirs, columns), model)
    (report,) = pruning.reports
    assert report.kept == stops[-1].kept
    assert report.layer_average == pytest.approx(layer_average(stops, TOTAL, DEPTH))
    assert abs(report.layer_average - 10) <= 1
    report.to_dict()
    report.overlay()


@pytest.mark.parametrize(("method_class", "settings"), METHODS)
def test_decoding_equals_one_long_prefill_with_the_same_tokens(model, method_class, settings):
    """The next token after a decoded one must see the short caches of later layers."""
    inputs = call()
    with prune(model, method_class(keep=10, **settings)), torch.no_grad():
        first = model(**inputs, use_cache=True)
        step = model(input_ids=torch.tensor([[30]]), **{CACHE: first.past_key_values}).logits[:, -1]
        masked = model(**call(), use_cache=True)
        mask = torch.ones(1, inputs["input_ids"].shape[1] + 1, dtype=torch.long)
        with_mask = model(
            input_ids=torch.tensor([[30]]), **{CACHE: masked.past_key_values}, attention_mask=mask
        ).logits[:, -1]
        lengths = [layer.keys.shape[2] for layer in first.past_key_values.layers]
    assert lengths[0] == inputs["input_ids"].shape[1] + 1
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[-1] < lengths[0]
    assert_same_output(step, with_mask, model)


@pytest.mark.parametrize(("method_class", "settings"), METHODS)
def test_a_padded_batch_equals_single_rows(model, method_class, settings):
    method = method_class(keep=10, **settings)
    batch = call(rows=2, pad=2)
    with prune(model, method):
        together = model.generate(**batch, max_new_tokens=4, do_sample=False)[:, -4:]
        for row in range(2):
            real = batch["attention_mask"][row].bool()
            alone = model.generate(
                input_ids=batch["input_ids"][row : row + 1, real],
                attention_mask=batch["attention_mask"][row : row + 1, real],
                pixel_values=batch["pixel_values"][row : row + 1],
                max_new_tokens=4,
                do_sample=False,
            )[:, -4:]
            assert torch.equal(together[row : row + 1], alone)


@pytest.mark.parametrize(("method_class", "settings"), METHODS)
def test_keeping_all_changes_nothing(model, method_class, settings):
    inputs = call()
    with torch.no_grad():
        expected = model(**inputs).logits
        with prune(model, method_class(keep=TOTAL, **settings)):
            assert torch.equal(model(**inputs).logits, expected)


def test_the_model_is_restored_also_after_an_error(model):
    before = {id(m): (dict(m.__dict__), len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()}
    registry = dict(ALL_ATTENTION_FUNCTIONS)
    with pytest.raises(BudgetError), prune(model, FastV(keep=2)):
        model.generate(**call(), max_new_tokens=2, do_sample=False)
    after = {id(m): (dict(m.__dict__), len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()}
    assert before.keys() == after.keys()
    for key, (attributes, *hooks) in before.items():
        assert attributes.keys() == after[key][0].keys()
        assert all(attributes[name] is after[key][0][name] for name in attributes if name != "training")
        assert hooks == list(after[key][1:])
    assert dict(ALL_ATTENTION_FUNCTIONS) == registry


def test_budgets_that_cannot_be_met_say_what_can(model):
    with prune(model, FastV(keep=4, layer=2)), pytest.raises(BudgetError, match="layer-averaged"):
        model(**call())


def test_rows_with_different_numbers_of_images_are_refused(model):
    inputs = call(rows=2)
    inputs["input_ids"][1, 4] = 9
    with prune(model, FastV(keep=12)), pytest.raises(UnsupportedCallError, match="equally many"):
        model(**{**inputs, "pixel_values": inputs["pixel_values"]})


# -- gradients ---------------------------------------------------------------------------------------------------------


def gradients(model, logits: Tensor) -> dict[str, Tensor]:
    """Of all parameters, from a random weight for every logit."""
    (logits * torch.randn(logits.shape, generator=torch.Generator().manual_seed(2))).sum().backward()
    found = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    model.zero_grad()
    return found


def check(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    rounding = 1e-5 * max(float(gradient.abs().max()) for gradient in expected.values())
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=rounding, rtol=1e-3, msg=f"{name}: {{}}".format)


@pytest.fixture(params=[None, True, False], ids=["plain", "reentrant", "not-reentrant"])
def learning(model, request):
    """The model in training, without and with both kinds of gradient checkpointing; its pixels want gradients too."""
    if request.param is not None:
        if Version(transformers.__version__) < Version("5.23"):
            pytest.skip("hooks run inside of checkpoints; refused, see below")
        model.train()
        model.gradient_checkpointing_enable({"use_reentrant": request.param})
        model.enable_input_require_grads()
    yield model
    if request.param is not None:
        model.gradient_checkpointing_disable()
        model.disable_input_require_grads()
        model.eval()


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_.*able:FutureWarning")  # older versions know no other
@pytest.mark.parametrize(("method_class", "settings"), METHODS)
def test_every_parameter_learns(learning, method_class, settings):
    method = method_class(keep=10, **settings)
    inputs = call()
    with prune(learning, method):
        logits = learning(**inputs, use_cache=False).logits
    found = gradients(learning, logits)  # layers are computed again behind the block
    left, _, seen = reference.__wrapped__(learning, inputs, method, method.stops(TOTAL, DEPTH))
    expected = gradients(learning, in_full(left, seen[-1]))
    assert any("vision_tower" in name for name in found)
    check(found, expected)


def test_checkpoints_that_hide_the_cut_are_refused(model, monkeypatch):
    monkeypatch.setattr(engine, "_CHECKPOINTS", Limit("layers are computed again without the cut"))
    monkeypatch.setattr(model.model.language_model.layers[2], "gradient_checkpointing", True)
    with prune(model, FastV(keep=10)):
        model(**call())  # nothing is checkpointed outside of training
        monkeypatch.setattr(model.model.language_model.layers[2], "training", True)
        with pytest.raises(UnsupportedCallError, match="gradient checkpointing"):
            model(**call())


# -- decisions ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Watched(FastV):
    """FastV that notes what it looked at."""

    seen: ClassVar[list[LayerView]] = []

    def choose(self, view: LayerView, k: int) -> Tensor:
        self.seen.append(view)
        return super().choose(view, k)


def test_decisions_are_fp32_under_autocast(model):
    """The attention of the last token, by hand from the queries and keys that the layer had."""
    shown: list[tuple[Tensor, Tensor]] = []
    attend = model.model.language_model.layers[0].self_attn
    stop = watch(attend, lambda query, key, mask: shown.append((query.float(), key.float())))
    Watched.seen.clear()
    with prune(model, Watched(keep=10, layer=1)), torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        model(**call())
    stop()
    ((query, key),), (view,) = shown, Watched.seen
    logits = query[:, :, -1:] @ key.repeat_interleave(2, dim=1).mT / query.shape[-1] ** 0.5
    expected = logits.softmax(-1).mean(1)[..., 3 : 3 + TOTAL]
    assert view.attention is not None
    torch.testing.assert_close(view.attention, expected)


@pytest.mark.parametrize(("method_class", "settings"), METHODS)
def test_autocast_changes_no_choice_on_the_same_view(model, method_class, settings, monkeypatch):
    choices: list[tuple[LayerView, int, Tensor]] = []
    plain = method_class.choose

    def noted(self, view, k):
        choices.append((view, k, plain(self, view, k)))
        return choices[-1][2]

    monkeypatch.setattr(method_class, "choose", noted)
    method = method_class(keep=10, **settings)
    with prune(model, method), torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        model(**call())
    assert choices
    for view, k, chosen in choices:
        assert torch.equal(plain(method, view, k), chosen)


@pytest.mark.parametrize("wrong", [[3] * 5, [5, 4, 3, 2, 1], [0, 1, 2, 3, TOTAL], [-1, 0, 1, 2, 3]])
def test_wrong_choices_are_refused(model, wrong, monkeypatch):
    monkeypatch.setattr(FastV, "choose", lambda self, view, k: torch.tensor([wrong]))
    with prune(model, FastV(keep=10)), pytest.raises(SelectionError, match="fastv"):
        model(**call())


def test_nobody_measured_seconds(model):
    with prune(model, FastV(keep=10)) as pruning, torch.no_grad():
        model(**call())
    assert '"seconds": {"encode": null, "decision": null}' in json.dumps(pruning.reports[0].to_dict())


# -- several at once ---------------------------------------------------------------------------------------------------


def answer(model, method) -> Tensor:
    with prune(model, method):
        return model.generate(**call(), max_new_tokens=3, do_sample=False)


def test_blocks_that_do_not_nest(model):
    """Leaving the first one must not take the second one's hooks along, nor undo what it changed."""
    first, second = PyramidDrop(keep=9), FastV(keep=10, layer=1)
    expected = answer(model, second)
    own = [layer.self_attn.config for layer in model.model.language_model.layers]
    one, other = prune(model, first).apply(), prune(model, second).apply()
    assert torch.equal(model.generate(**call(), max_new_tokens=3, do_sample=False), expected)
    one.remove()
    assert torch.equal(model.generate(**call(), max_new_tokens=3, do_sample=False), expected)
    other.remove()
    assert all(layer.self_attn.config is config for layer, config in zip(model.model.language_model.layers, own))
    assert [report.kept for report in other.reports] == [second.stops(TOTAL, DEPTH)[-1].kept] * 2
    assert not one.reports


def test_a_block_entered_twice(model):
    method = FastV(keep=10, layer=1)
    expected, pruning = answer(model, method), prune(model, method)
    with pruning, pruning:
        assert torch.equal(model.generate(**call(), max_new_tokens=3, do_sample=False), expected)


def test_another_kind_of_pruning_within(model):
    """A call that the inner block answers passes the outer one's hooks."""
    inner = FasterVLM(keep=9)
    with torch.no_grad():
        with prune(model, inner):
            expected = model(**call()).logits
        with prune(model, FastV(keep=10)), prune(model, inner):
            assert torch.equal(model(**call()).logits, expected)


def test_threads_prune_inside_at_different_layers(model):
    methods = [FastV(keep=8, layer=1), FastV(keep=12, layer=2), PyramidDrop(keep=9)]
    expected = [answer(model, method) for method in methods]
    meet = threading.Barrier(3, timeout=60)

    def work(method):
        meet.wait()
        with prune(model, method):
            meet.wait()
            found = [model.generate(**call(), max_new_tokens=3, do_sample=False) for _ in range(3)]
            meet.wait()
        return found

    with ThreadPoolExecutor(3) as pool:
        for right, found in zip(expected, pool.map(work, methods)):
            assert all(torch.equal(each, right) for each in found)


# -- what a caller pairs with his own tensors --------------------------------------------------------------------------


@pytest.mark.parametrize(("method_class", "settings"), METHODS)
def test_labels_of_dropped_tokens_do_not_count(model, method_class, settings):
    method, inputs = method_class(keep=10, **settings), call()
    labels = inputs["input_ids"].clone()
    logits, _, seen = reference(model, inputs, method, method.stops(TOTAL, DEPTH))
    kept = labels[0, seen[-1]]
    expected = torch.nn.functional.cross_entropy(logits[0, :-1], kept[1:])
    with torch.no_grad(), prune(model, method):
        plain = model(**inputs, labels=labels).loss
        counted = model(**inputs, labels=labels, num_items_in_batch=labels.shape[1] - 1).loss
        last = model(**inputs, logits_to_keep=torch.tensor([3, -1])).logits
    torch.testing.assert_close(plain, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(counted, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(last, in_full(logits, seen[-1])[:, [3, -1]], atol=2e-4, rtol=1e-4)
    assert torch.equal(labels, inputs["input_ids"])


def test_a_generation_hands_out_states_at_the_given_columns(model):
    method, inputs = FastV(keep=10, layer=1), call()
    settings = {"return_dict_in_generate": True, "output_hidden_states": True, "do_sample": False}
    with torch.no_grad(), prune(model, method):
        made = model.generate(**inputs, max_new_tokens=2, **settings)
        direct = model(**inputs, output_hidden_states=True)
    for mine, expected in zip(made.hidden_states[0][:-1], direct.hidden_states[:-1], strict=True):
        torch.testing.assert_close(mine, expected)
        assert mine.shape[1] == inputs["input_ids"].shape[1]
    assert [layer.shape[1] for layer in made.hidden_states[1]] == [1] * (DEPTH + 1)


def test_a_copied_cache_keeps_its_record(model):
    with prune(model, FastV(keep=10, layer=1)), torch.no_grad():
        cache = model(**call(), use_cache=True, return_dict=False)[1]
        mask = torch.ones(1, call()["input_ids"].shape[1] + 1, dtype=torch.long)
        later = {"input_ids": torch.tensor([[30]]), "attention_mask": mask}
        copied = model(**later, **{CACHE: copy.deepcopy(cache)}).logits
        assert torch.equal(model(**later, **{CACHE: cache}).logits, copied)


def test_a_cache_of_the_other_kind_is_refused(model):
    later = {"input_ids": torch.tensor([[30]])}
    with prune(model, FastV(keep=10, layer=1)), torch.no_grad():
        inside = model(**call(), use_cache=True).past_key_values
        with prune(model, create("random", keep=4)):
            before = model(**call(), use_cache=True).past_key_values
            with pytest.raises(UnsupportedCallError, match="inside the language model"):
                model(**later, **{CACHE: inside})
        with pytest.raises(UnsupportedCallError, match="before the language model"):
            model(**later, **{CACHE: before})
