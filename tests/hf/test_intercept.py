"""Switching on and off: exact undo, nesting, threads, wrong calls."""

from __future__ import annotations

import asyncio
import contextvars
import copy
import gc
import pickle
import threading
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from gridprune import prune
from gridprune.compat import CACHE
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
    return case.call([*shuffled(1), case.image(0), *shuffled(2)])


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


@pytest.mark.parametrize(
    "ask", [run, lambda net: net.generate(**call(), max_new_tokens=1)], ids=["forward", "generate"]
)
def test_an_interrupted_call_leaves_no_trace(net, ask):
    """Hooks that are always called are not called for what is no `Exception`, such as Ctrl-C in a notebook."""

    def interrupt(*args):
        raise KeyboardInterrupt

    labels = call()["input_ids"]
    with torch.no_grad(), prune(net, SOME) as pruning:
        loss = net(**call(), labels=labels).loss
        handle = net.model.language_model.register_forward_hook(interrupt)
        with pytest.raises(KeyboardInterrupt):
            net(**call(), labels=labels * 0)
        handle.remove()
        pruning.reports.clear()
        ask(net)
        assert len(pruning.reports) == 1
        assert torch.equal(net(**call(), labels=labels).loss, loss)


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
    calls = [LLAVA.call([*shuffled(i), LLAVA.image(i), *shuffled(2)]) for i in range(4)]
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


# -- whose call it is --------------------------------------------------------------------------------------------------


def few(keep):
    return create("fastervlm", keep=keep)


def kept(pruning):
    return [report.kept for report in pruning.reports]


@pytest.mark.parametrize("how", ["generate", "forward"])
def test_tasks_have_their_own_prunings_in_blocks_that_do_not_nest(net, how):
    before, log = state(net), []
    ask = (lambda: net.generate(**call(), max_new_tokens=1)) if how == "generate" else lambda: run(net)

    async def work(keep, first, entered, leave):
        await first.wait()
        with prune(net, few(keep)) as pruning:
            entered.set()
            for _ in range(3):
                await asyncio.to_thread(ask)
                await asyncio.sleep(0)
            await leave.wait()
            await asyncio.to_thread(ask)
        log.append(keep)
        return kept(pruning)

    async def both():
        now, entered, left = asyncio.Event(), asyncio.Event(), asyncio.Event()
        now.set()
        first = asyncio.create_task(work(4, now, entered, entered))  # leaves first
        second = asyncio.create_task(work(20, entered, asyncio.Event(), left))
        found = [await first]
        left.set()
        return [*found, await second]

    assert asyncio.run(both()) == [[4] * 4, [20] * 4]
    assert log == [4, 20]
    assert state(net) == before


def test_threads_have_their_own_prunings(net):
    before, meet, found = state(net), threading.Barrier(3, timeout=60), {}

    def work(keep):
        meet.wait()
        with prune(net, few(keep)) as pruning:
            meet.wait()
            for _ in range(3):
                run(net)
            meet.wait()
        found[keep] = kept(pruning)

    threads = [threading.Thread(target=work, args=(keep,)) for keep in (4, 9, 20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {keep: [keep] * 3 for keep in (4, 9, 20)}
    assert state(net) == before


def elsewhere(function):
    """What a function gives or raises in a thread that took no context along."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


def elsewhere_in(context, function):
    return elsewhere(lambda: context.run(function))


def test_a_thread_without_a_pruning_is_answered_where_only_one_can_be_meant(net):
    with prune(net, few(20)) as outer:
        elsewhere(lambda: run(net))
        with prune(net, few(4)) as inner:
            elsewhere(lambda: run(net))
        elsewhere(lambda: run(net))
    assert kept(outer) == [20, 20]
    assert kept(inner) == [4]


@pytest.mark.parametrize(
    "ask", [run, lambda net: net.generate(**call(), max_new_tokens=1)], ids=["forward", "generate"]
)
def test_a_thread_without_a_pruning_is_refused_where_several_can_be_meant(net, ask):
    before = state(net)
    one, other = contextvars.copy_context(), contextvars.copy_context()
    first, second = prune(net, few(4)), prune(net, few(20))
    one.run(first.__enter__)
    other.run(second.__enter__)
    with pytest.raises(BusyError, match=r"2 prunings are applied .*to_thread"):
        elsewhere(lambda: ask(net))
    elsewhere_in(one, lambda: ask(net))
    elsewhere_in(other.copy(), lambda: ask(net))
    one.run(first.__exit__)
    elsewhere(lambda: ask(net))
    assert kept(first) == [4]
    assert kept(second) == [20, 20]
    elsewhere(second.__exit__)  # as clean-up code of servers does
    assert state(net) == before


def test_notebook_cells_share_what_is_applied(net):
    """Every cell may have a context of its own."""
    before = state(net)
    cell = lambda function: contextvars.copy_context().run(function)  # noqa: E731
    first, second = prune(net, few(20)), prune(net, few(4))
    cell(first.apply)
    cell(lambda: run(net))
    cell(second.apply)
    cell(lambda: run(net))
    cell(first.remove)
    cell(lambda: run(net))
    elsewhere(lambda: run(net))
    cell(second.remove)
    assert kept(first) == [20]
    assert kept(second) == [4] * 3
    assert state(net) == before
    assert run(net).shape[1] == call()["input_ids"].shape[1]


def test_a_block_covers_what_is_applied_everywhere(net):
    everywhere = prune(net, few(20))
    contextvars.copy_context().run(everywhere.apply)
    with prune(net, few(4)) as block:
        run(net)
        elsewhere(lambda: run(net))
    run(net)
    everywhere.remove()
    assert kept(block) == [4, 4]
    assert kept(everywhere) == [20]


def test_what_was_left_is_not_held(net):
    """Contexts outlive blocks: a task that was started in one must not keep it alive."""
    with prune(net, SOME) as pruning:
        later = contextvars.copy_context()
        gone = weakref.ref(pruning)
    del pruning
    gc.collect()
    assert gone() is None
    assert later.run(run, net).shape[1] == call()["input_ids"].shape[1]


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


def test_broken_image(net):
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


def test_encoded_images_are_passed_on_with_a_warning(net):
    given = call()
    encoded = net.get_image_features(given.pop("pixel_values"), return_dict=True)
    with prune(net, SOME), pytest.warns(UserWarning, match="mm_encoder_outputs"):
        net(**given, mm_encoder_outputs={"image": encoded})


def test_embeddings_behind_a_pruned_prompt_are_refused(net):
    with torch.no_grad(), prune(net, SOME):
        cache = net(**call()).past_key_values
        with pytest.raises(UnsupportedCallError, match="inputs_embeds"):
            net(inputs_embeds=torch.zeros(1, 2, 32), **{CACHE: cache})


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
            net(input_ids=torch.tensor([[11]]), **{CACHE: cache})


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
