"""What a direct call returns: at the columns of the prompt that was given, equal to the kept tokens written out."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import modeling_utils

from gridprune import prune
from gridprune.compat import CACHE
from gridprune.errors import UnsupportedCallError
from gridprune.methods.registry import create
from rounding import assert_same_output

from .kit import Uneven, in_full, model, reference, shuffled, write
from .models import LLAVA, QWEN2_5_VL, QWEN3_VL_MOE, STILL
from .test_contract import forward, generate, one, two

SOME = create("fastervlm", keep="30%")


def completed(case, prompts, completions):
    """Prompts padded on the left with completions padded on the right, as trainers of policies put them together."""
    left, right = case.call(*prompts), case.call(*completions, right=True)
    call = {**left, **{name: torch.cat([left[name], right[name]], 1) for name in ("input_ids", "attention_mask")}}
    return {**call, **case.extras(call["input_ids"])}


def whole(case, net, rows, masks):
    """For every row, the reference's logits at the columns of its own prompt."""
    found = []
    for row in rows:
        images = sum(not isinstance(item, int) for item in row)
        own, masks = masks[:images], masks[images:]
        found.append(in_full(case, net, row, own, reference(case, net, row, own).logits)[0])
    return found


# -- where things stand ------------------------------------------------------------------------------------------------


def test_padding_on_both_sides_moves_nothing(case, net):
    prompts, completions = [one(case), [*shuffled(4, 9), *two(case, 1)]], [shuffled(7, 2), shuffled(8, 5)]
    call = completed(case, prompts, completions)
    full, masks = forward(net, call)
    length = call["input_ids"].shape[1]
    assert full.logits.shape[1] == length
    expected = whole(case, net, [[*p, *c] for p, c in zip(prompts, completions)], masks)
    for asked in (6, torch.tensor([length - 6, length - 3, -2])):
        some, _ = forward(net, {**call, "logits_to_keep": asked})
        columns = torch.arange(length)[-6:] if isinstance(asked, int) else asked % length
        torch.testing.assert_close(some.logits, full.logits[:, columns], atol=2e-4, rtol=1e-4)
    for row, completion in enumerate(completions):
        mine = full.logits[row, length - 6 : length - 5 + len(completion)]
        torch.testing.assert_close(mine, expected[row][-len(completion) - 1 :], atol=3e-4, rtol=1e-4)


@pytest.mark.skipif(not hasattr(modeling_utils, "slice_logits_to_keep"), reason="transformers takes one for all rows")
def test_positions_of_logits_may_differ_by_row():
    net = model(LLAVA)
    call = LLAVA.call(one(LLAVA), [*shuffled(4, 9), *one(LLAVA, 1)])
    full, _ = forward(net, call)
    real = call["attention_mask"].bool()
    places = torch.tensor([[20, 50, 51], [3, 40, 52]])
    some, _ = forward(net, {**call, "logits_to_keep": places})
    torch.testing.assert_close(some.logits, full.logits.take_along_dim(places[..., None], dim=1))
    packed, _ = forward(net, {**call, "logits_to_keep": real})
    torch.testing.assert_close(packed.logits, full.logits[real])


def test_hidden_states_stand_at_the_given_columns(case, net):
    row = two(case)
    output, masks = forward(net, {**case.call(row), "output_hidden_states": True})
    expected = reference(case, net, row, masks, output_hidden_states=True)
    assert len(output.hidden_states) == len(expected.hidden_states)
    for mine, theirs in zip(output.hidden_states, expected.hidden_states):
        torch.testing.assert_close(mine, in_full(case, net, row, masks, theirs), atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("case", [LLAVA, QWEN2_5_VL], ids=lambda case: case.name)
def test_attention_maps_stand_at_the_given_columns(case):
    net, row = model(case), two(case)
    columns = None
    net.set_attn_implementation("eager")
    try:
        output, masks = forward(net, {**case.call(row), "output_attentions": True})
        expected = reference(case, net, row, masks, output_attentions=True).attentions[1]
        columns = write(case, net, row, masks).columns
        with prune(net, SOME):
            made = net.generate(
                **case.call(row, row),
                max_new_tokens=3,
                return_dict_in_generate=True,
                output_attentions=True,
                output_hidden_states=True,
            )
    finally:
        net.set_attn_implementation("sdpa")
    mine = output.attentions[1]
    assert mine.shape[2:] == (len(case.ids(row)),) * 2
    torch.testing.assert_close(mine[:, :, columns][..., columns], expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(mine.sum(-1)[:, :, columns], torch.ones_like(mine[..., 0])[:, :, columns])
    torch.testing.assert_close(made.attentions[0][1][1:], mine, atol=1e-4, rtol=1e-4)
    assert [step[1].shape[-1] for step in made.attentions] == [mine.shape[-1] + step for step in range(3)]
    assert made.hidden_states[0][1].shape[1] == mine.shape[-1]


def test_a_first_column_that_is_dropped_has_no_state():
    net = model(LLAVA)
    row = [LLAVA.image(0), *shuffled(2)]
    output, masks = forward(net, LLAVA.call(row), create("random", keep=3, seed=1))
    first = int(masks[0].nonzero()[0])
    assert first > 0
    assert output.logits[0, :first].abs().max() == 0
    assert output.logits[0, first].abs().max() > 0


def test_calls_of_the_model_without_its_head_are_pruned():
    net, call = model(LLAVA), LLAVA.call(one(LLAVA))
    with torch.no_grad(), prune(net, SOME) as pruning:
        logits = net.lm_head(net.model(**call).last_hidden_state)
        assert len(pruning.reports) == 1
        assert torch.equal(logits, net(**call).logits)


# -- tuples ------------------------------------------------------------------------------------------------------------


def test_a_tuple_is_the_same_output_and_leaves_the_same_record(case, net):
    row, new = one(case), shuffled(5)
    output, masks = forward(net, case.call(row))
    parts, _ = forward(net, {**case.call(row), "return_dict": False})
    assert isinstance(parts, tuple)
    assert torch.equal(parts[0], output.logits)
    later = {**case.call(new), "attention_mask": torch.ones(1, len(case.ids(row)) + len(new), dtype=torch.long)}
    cache = next(part for part in parts if hasattr(part, "get_seq_length"))
    with pytest.raises(UnsupportedCallError, match="holds a pruned prompt"):
        forward(net, {"inputs_embeds": torch.zeros(1, 1, 32), CACHE: cache})
    second, _ = forward(net, {**later, CACHE: cache})
    expected = reference(case, net, [*row, *new], masks).logits[:, -len(new) :]
    torch.testing.assert_close(second.logits, expected, atol=3e-4, rtol=1e-4)


# -- labels and counts -------------------------------------------------------------------------------------------------


def test_labels_of_dropped_tokens_do_not_count(case, net):
    """Neither in the mean nor in the count that a trainer gives along, and the caller's labels stay as they are."""
    row = two(case)
    call = case.call(row)
    labels = call["input_ids"].clone()
    given = int((labels[:, 1:] != -100).sum())
    for count in (None, torch.tensor(given)):
        items = {} if count is None else {"num_items_in_batch": count}
        pruned, masks = forward(net, {**call, "labels": labels, **items})
        kept = labels[:, write(case, net, row, masks).columns]
        items = {} if count is None else {"num_items_in_batch": kept.shape[1] - 1}
        expected = reference(case, net, row, masks, labels=kept, **items).loss
        assert kept.shape[1] < labels.shape[1]
        torch.testing.assert_close(pruned.loss, expected, atol=1e-5, rtol=1e-5)
        assert pruned.loss.dtype == expected.dtype
    assert torch.equal(labels, call["input_ids"])
    assert count == given


def test_a_loss_of_full_length_logits_is_that_of_the_kept_tokens(case, net):
    """What trainers compute by themselves, such as label smoothing: the pairs of column and next token are the right
    ones, also right behind an image whose last token was dropped."""
    row = [*shuffled(1), case.image(0), *shuffled(2), case.image(1), *shuffled(3)]
    call = case.call(row)
    labels = call["input_ids"].masked_fill(call["input_ids"] == case.placeholder, -100)
    pruned, masks = forward(net, call)
    kept = labels[:, write(case, net, row, masks).columns]
    mine = torch.nn.functional.cross_entropy(pruned.logits[0, :-1], labels[0, 1:], label_smoothing=0.1)
    theirs = reference(case, net, row, masks).logits
    expected = torch.nn.functional.cross_entropy(theirs[0, :-1], kept[0, 1:], label_smoothing=0.1)
    torch.testing.assert_close(mine, expected, atol=1e-5, rtol=1e-5)


def test_labels_that_are_shifted_already():
    net, row = model(LLAVA), one(LLAVA)
    call = LLAVA.call(row)
    plain, _ = forward(net, {**call, "labels": call["input_ids"]})
    ahead = torch.nn.functional.pad(call["input_ids"][:, 1:], (0, 1), value=-100)
    given = {"labels": call["input_ids"], "shift_labels": ahead}
    shifted, _ = forward(net, {**call, **given})
    torch.testing.assert_close(shifted.loss, plain.loss)
    counted, _ = forward(net, {**call, **given, "num_items_in_batch": ahead.shape[1] - 1})
    torch.testing.assert_close(counted.loss, plain.loss)
    with pytest.raises(UnsupportedCallError, match="labels"):
        forward(net, {**call, "labels": ahead[:, -4:], "logits_to_keep": 4})


@pytest.mark.parametrize("masked", [True, False], ids=["mask", "no-mask"])
def test_experts_are_balanced_over_kept_tokens(masked):
    net, row = model(QWEN3_VL_MOE), two(QWEN3_VL_MOE)
    call = QWEN3_VL_MOE.call(row)
    if not masked:
        del call["attention_mask"]
    output, masks = forward(net, {**call, "output_router_logits": True})
    written = write(QWEN3_VL_MOE, net, row, masks)
    assert [len(part) for part in output.router_logits] == [len(QWEN3_VL_MOE.ids(row))] * len(output.router_logits)
    chosen = torch.cat([part[written.columns].softmax(-1) for part in output.router_logits])
    share = torch.zeros(4).scatter_add_(0, chosen.topk(2).indices.flatten(), torch.ones(2 * len(chosen))) / len(chosen)
    torch.testing.assert_close(output.aux_loss, 4 * (share * chosen.mean(0)).sum())


def test_another_librarys_head_may_not_count_labels_of_dropped_tokens(monkeypatch):
    """A head as TRL puts in place returns no logits, and its trainer divides by the labels of the batch."""
    net = model(LLAVA)
    stock = net.forward

    class Scores(dict):
        pass

    def fused(input_ids=None, pixel_values=None, attention_mask=None, labels=None, **kwargs):
        net.model(input_ids=input_ids, pixel_values=pixel_values, attention_mask=attention_mask)
        return Scores(label_mask=labels != -100)

    monkeypatch.setattr(net, "forward", fused)
    call = LLAVA.call(one(LLAVA))
    with torch.no_grad(), prune(net, SOME):
        with pytest.raises(UnsupportedCallError, match="-100"):
            net(**call, labels=call["input_ids"])
        text = call["input_ids"].masked_fill(call["input_ids"] == LLAVA.placeholder, -100)
        assert torch.equal(net(**call, labels=text)["label_mask"], text != -100)
    monkeypatch.undo()
    assert net.forward == stock


def test_prompts_packed_into_a_row_are_refused():
    net = model(LLAVA)
    call = LLAVA.call([*one(LLAVA), *one(LLAVA, 1)])
    half = torch.arange(46)
    with prune(net, SOME), pytest.raises(UnsupportedCallError, match="packed"):
        net(**call, position_ids=torch.cat([half, half])[None])
    padded = LLAVA.call(one(LLAVA), [*shuffled(4, 9), *one(LLAVA, 1)])
    positions = (padded["attention_mask"].cumsum(-1) - 1).masked_fill(padded["attention_mask"] == 0, 1)
    with_positions, _ = forward(net, {**padded, "position_ids": positions})
    assert torch.equal(with_positions.logits, forward(net, padded)[0].logits)


# -- the cache by either name ------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:`past_key_values` is deprecated:FutureWarning")  # since transformers 5.24
def test_a_cache_is_found_by_its_older_name():
    net, row, new = model(LLAVA), one(LLAVA), shuffled(5)
    opening, masks = forward(net, LLAVA.call(row))
    opened = copy.deepcopy(opening.past_key_values)
    later = {**LLAVA.call(new), "attention_mask": torch.ones(1, len(LLAVA.ids(row)) + len(new), dtype=torch.long)}
    output, _ = forward(net, {**later, "past_key_values": opening.past_key_values})
    expected = reference(LLAVA, net, [*row, *new], masks).logits[0, -1]
    assert_same_output(output.logits[0, -1], expected, net)
    whole = [*row, *new]
    more, _ = generate(net, {**LLAVA.call(whole), "past_key_values": opened}, tokens=1)
    assert_same_output(more.logits[0][0], expected, net)


# -- M-RoPE is recorded, whatever was cut ------------------------------------------------------------------------------

MROPE = [case for case in STILL if case.name.startswith("qwen")]


def small_first(case):
    """A first image that keeps all of its four tokens, and a later one that does not."""
    small = case.image(0).__class__((4, 4), seed=3)
    return [*shuffled(1), small, *shuffled(2)], [*shuffled(5, 2), case.image(0), *shuffled(6)]


def turn(case, before, new, cache):
    call = case.call(new)
    mask = torch.ones(1, len(case.ids(before)) + call["input_ids"].shape[1], dtype=torch.long)
    return {**call, "attention_mask": mask, CACHE: cache}


@pytest.mark.parametrize("between", [False, True], ids=["at-once", "another-call-between"])
@pytest.mark.parametrize("case", MROPE, ids=lambda case: case.name)
def test_positions_go_on_where_a_turn_ended_in_which_all_was_kept(case, between):
    net, method = model(case), create("fastervlm", keep=4)
    first, new = small_first(case)
    with torch.no_grad(), prune(net, method) as pruning:
        cache = net(**case.call(first)).past_key_values
        if between:
            net(**case.call(two(case)))
            text = net(input_ids=torch.tensor([shuffled(8, 2)]), **{CACHE: cache}).logits
            first = [*first, *shuffled(8, 2)]
        output = net(**turn(case, first, new, cache))
    masks = [pruning.reports[0].kept_mask, pruning.reports[-1].kept_mask]
    assert bool(masks[0].all())
    assert not bool(masks[1].all())
    expected = reference(case, net, [*first, *new], masks).logits
    torch.testing.assert_close(output.logits[:, -3:], expected[:, -3:], atol=3e-4, rtol=1e-4)
    if between:
        expected = reference(case, net, first, masks[:1]).logits
        torch.testing.assert_close(text, expected[:, -2:], atol=3e-4, rtol=1e-4)


@pytest.mark.parametrize("case", [LLAVA, *MROPE], ids=lambda case: case.name)
def test_a_cache_that_was_filled_outside(case):
    """The whole prompt tells where its positions end; its new part alone does not."""
    net = model(case)
    first, new = [*shuffled(1), case.image(0), *shuffled(2)], [*shuffled(5, 2), case.image(1), *shuffled(6)]
    with torch.no_grad():
        cache = [net(**case.call(first)).past_key_values for _ in range(2)]
        net(**case.call(two(case)))
    with torch.no_grad(), prune(net, SOME) as pruning:
        made = net.generate(
            **case.call([*first, *new]),
            **{CACHE: cache[0]},
            max_new_tokens=1,
            return_dict_in_generate=True,
            output_logits=True,
        )
        everything = torch.ones(sum(token == case.placeholder for token in case.ids(first)))
        expected = reference(case, net, [*first, *new], [everything, pruning.reports[-1].kept_mask]).logits[:, -1]
        torch.testing.assert_close(made.logits[0], expected, atol=3e-4, rtol=1e-4)
        if case is LLAVA:
            output = net(**turn(case, first, new, cache[1]))
            torch.testing.assert_close(output.logits[:, -1], expected, atol=3e-4, rtol=1e-4)
            return
        with pytest.raises(UnsupportedCallError, match="inside the block"):
            net(**turn(case, first, new, cache[1]))
        later = case.call([*first, *new]) | case.vision([[case.image(1)]])
        with pytest.raises(UnsupportedCallError, match="all its images"):
            net.generate(**later, **{CACHE: cache[1]}, max_new_tokens=1)


@pytest.mark.parametrize("case", MROPE, ids=lambda case: case.name)
def test_rope_deltas_count_the_given_prompt(case):
    net, call = model(case), case.call(one(case), [*shuffled(4, 9), *two(case, 1)])
    with torch.no_grad():
        stock = net(**call)
    output, _ = forward(net, call, Uneven())
    if stock.get("rope_deltas") is None:  # some versions and models hand out none
        assert output.get("rope_deltas") is None
    else:
        assert torch.equal(output.rope_deltas.cpu(), stock.rope_deltas.cpu())
