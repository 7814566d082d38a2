"""Switching on and off: exact undo, nesting, threads, wrong calls."""

from __future__ import annotations

import copy
import pickle
import threading
import warnings

import pytest
import torch
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from gridprune import prune
from gridprune.errors import (
    BudgetError,
    BusyError,
    MissingCueError,
    SettingError,
    UnsupportedCallError,
    UnsupportedModelError,
)
from gridprune.methods.registry import create

from .kit import Uneven, model, shuffled
from .models import LLAVA, LLAVA_NEXT, VIDEO_LLAVA

SOME = create("fastervlm", keep="30%")
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs")


def call(case=LLAVA):
    return case.call([*shuffled(1), case.picture(0), *shuffled(2)])


def state(net):
    """Everything that pruning could leave behind."""
    modules = {}
    for name, module in net.named_modules():
        values = {key: id(value) for key, value in module.__dict__.items() if not key.startswith("_")}
        hooks = {key: list(getattr(module, key).items()) for key in HOOKS}
        modules[name] = (set(module.__dict__), values, hooks)
    return modules, dict(ALL_ATTENTION_FUNCTIONS.items()), dict(ALL_ATTENTION_FUNCTIONS._local_mapping)


@pytest.fixture
def net():
    net = model(LLAVA)
    net.generate(**call(), max_new_tokens=1)  # the stock model notes a few things when it runs for the first time
    return net


def run(net):
    with torch.no_grad():
        return net(**call()).logits


def test_state_is_restored(net):
    before = state(net)
    with prune(net, SOME):
        assert state(net) != before
        run(net)
        net.generate(**call(), max_new_tokens=2)
    assert state(net) == before


def test_state_is_restored_after_an_error_in_the_middle(net):
    before = state(net)

    class Stop(Exception):
        pass

    def fail(*args):
        raise Stop

    with pytest.raises(Stop), prune(net, SOME):
        net.generate(**call(), max_new_tokens=3, stopping_criteria=[fail])
    handle = net.model.multi_modal_projector.register_forward_hook(fail)
    with pytest.raises(Stop), prune(net, SOME):
        run(net)
    handle.remove()
    assert state(net) == before


def test_a_generate_of_the_users_own_comes_back(net):
    own = lambda *args, **kwargs: "own"  # noqa: E731
    net.generate = own
    try:
        with prune(net, SOME):
            assert net.generate() == "own"
        assert net.__dict__["generate"] is own
    finally:
        del net.__dict__["generate"]


def test_nested_and_reentered(net):
    before = state(net)
    full = run(net)
    outer, inner = prune(net, SOME), prune(net, create("keep-all"))
    with outer:
        short = run(net)
        with inner:
            assert torch.equal(run(net), full)
            with outer:
                assert torch.equal(run(net), short)
            assert torch.equal(run(net), full)
        assert torch.equal(run(net), short)
    assert state(net) == before
    with outer:
        assert torch.equal(run(net), short)
    assert state(net) == before


def test_removed_out_of_order(net):
    before = state(net)
    first, second = prune(net, SOME).apply(), prune(net, create("keep-all")).apply()
    full = run(net)
    first.remove()
    assert torch.equal(run(net), full)
    second.remove()
    assert state(net) == before
    with pytest.raises(BusyError):
        second.remove()


def test_two_models_at_once(net):
    other = model(LLAVA_NEXT)
    expected = []
    for each, case in ((net, LLAVA), (other, LLAVA_NEXT)):
        with torch.no_grad(), prune(each, SOME):
            expected.append(each(**call(case)).logits)
    with torch.no_grad(), prune(net, SOME), prune(other, SOME):
        assert torch.equal(other(**call(LLAVA_NEXT)).logits, expected[1])
        assert torch.equal(net(**call()).logits, expected[0])


def test_one_pruning_from_two_threads(net):
    calls = [LLAVA.call([*shuffled(i), LLAVA.picture(i), *shuffled(2)]) for i in range(4)]
    with torch.no_grad(), prune(net, SOME):
        expected = [net(**each).logits for each in calls]
    wrong: list[int] = []

    def work(i):
        with torch.no_grad():
            found = [net(**calls[i]).logits for _ in range(5)]
        wrong.extend(i for logits in found if not torch.equal(logits, expected[i]))

    with prune(net, SOME):
        threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_second_pruning_from_another_thread_is_refused(net):
    caught = []

    def work():
        try:
            prune(net, SOME).apply()
        except BusyError as error:
            caught.append(error)

    with prune(net, SOME):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert len(caught) == 1


def test_copying_while_pruned_is_refused(net):
    with prune(net, SOME):
        with pytest.raises(BusyError):
            copy.deepcopy(net)
        with pytest.raises((BusyError, AttributeError, pickle.PicklingError)):
            pickle.dumps(net)


def test_text_free_methods_do_not_touch_the_tower(net):
    seen = []
    handle = net.model.vision_tower.register_forward_pre_hook(lambda *args: seen.append(state(net)[0]))
    with prune(net, create("random", keep=5)):
        run(net)
    handle.remove()
    tower = {name: parts for name, parts in seen[0].items() if name.startswith("model.vision_tower.")}
    assert tower == {name: parts for name, parts in state(net)[0].items() if name.startswith("model.vision_tower.")}


def test_features_are_bit_identical_while_read(net):
    images = call()["pixel_values"]
    with torch.no_grad():
        plain = net.get_image_features(images, return_dict=True).pooler_output[0]
        for attention in ("sdpa", "eager"):
            net.set_attn_implementation(attention)
            alone = net.get_image_features(images, return_dict=True).pooler_output[0]
            tower = prune(net, SOME).family.tower
            with tower.reading(states=[1], attention=[1]) as captured:
                read = net.get_image_features(images, return_dict=True).pooler_output[0]
            assert torch.equal(alone, read)
            assert captured.states[1][0].shape == (1, 37, 24)
        net.set_attn_implementation("sdpa")
    assert plain.shape == (36, 32)


# -- wrong calls -------------------------------------------------------------------------------------------------------


def test_unknown_models_are_refused():
    with pytest.raises(UnsupportedModelError, match="LlavaForConditionalGeneration"):
        prune(nn.Linear(2, 2), SOME)


def test_wrappers_are_refused_by_name(net):
    with pytest.raises(UnsupportedModelError, match="OptimizedModule"):
        prune(torch.compile(net), SOME)


def test_wrong_settings():
    with pytest.raises(SettingError, match="positions"):
        prune(model(LLAVA), SOME, positions="none")


def test_wrong_number_of_placeholders_leaves_the_model_as_it_was(net):
    before = state(net)
    broken = call()
    for key in ("input_ids", "attention_mask"):
        broken[key] = broken[key][:, 6:]
    with pytest.raises(UnsupportedCallError, match="placeholder"), prune(net, SOME):
        net(**broken)
    assert state(net) == before


def test_more_than_there_are(net):
    with pytest.raises(BudgetError, match="36"), prune(net, create("fastervlm", keep=37)):
        run(net)


def test_broken_picture(net):
    bad = call()
    bad["pixel_values"] = bad["pixel_values"] * float("nan")
    with pytest.raises(MissingCueError, match="NaN"), prune(net, SOME):
        net(**bad)


def test_embeddings_are_passed_on_with_a_warning(net):
    given = call()
    embeds = net.get_input_embeddings()(given.pop("input_ids"))
    with prune(net, SOME), warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="inputs_embeds"):
            net(inputs_embeds=embeds, **given)


def test_encoded_pictures_are_passed_on_with_a_warning(net):
    given = call()
    encoded = net.get_image_features(given.pop("pixel_values"), return_dict=True)
    with prune(net, SOME), pytest.warns(UserWarning, match="mm_encoder_outputs"):
        net(**given, mm_encoder_outputs={"image": encoded})


def test_embeddings_behind_a_pruned_prompt_are_refused(net):
    with torch.no_grad(), prune(net, SOME):
        cache = net(**call()).past_key_values
        with pytest.raises(UnsupportedCallError, match="inputs_embeds"):
            net(inputs_embeds=torch.zeros(1, 2, 32), past_key_values=cache)


def test_assisted_generation_is_refused(net):
    with pytest.raises(UnsupportedCallError, match="assistant"), prune(net, SOME):
        net.generate(**call(), assistant_model=net)


def test_masks_of_another_shape_are_refused(net):
    given = call()
    length = given["input_ids"].shape[1]
    given["attention_mask"] = torch.ones(1, 1, length, length, dtype=torch.bool)
    with pytest.raises(UnsupportedCallError, match="attention_mask"), prune(net, SOME):
        net(**given)


def test_cropped_caches_are_refused(net):
    with torch.no_grad(), prune(net, SOME):
        cache = net(**call()).past_key_values
        cache.crop(-4)
        with pytest.raises(UnsupportedCallError, match="cropped"):
            net(input_ids=torch.tensor([[11]]), past_key_values=cache)


def test_positional_arguments(net):
    given = call()
    with torch.no_grad(), prune(net, Uneven()):
        expected = net(**given).logits
        found = net(given["input_ids"], given["pixel_values"], given["attention_mask"]).logits
    assert torch.equal(found, expected)


def test_an_older_name_of_the_pixels_is_pruned_as_well():
    """Processors of Video-LLaVA still give `pixel_values_images`, which its encoder calls `pixel_values` today."""
    net, given = model(VIDEO_LLAVA), call(VIDEO_LLAVA)
    (name,) = (key for key in given if key.startswith("pixel_values"))
    renamed = {key: value for key, value in given.items() if key != name}
    renamed["pixel_values_images"] = given[name]
    with torch.no_grad(), prune(net, SOME) as pruning:
        expected, found = net(**given).logits, net(**renamed).logits
    assert torch.equal(found, expected)
    assert len(pruning.reports) == 2
