"""The contract of live models, one column of the matrix per test, one row per family (`models.CASES`)."""

from __future__ import annotations

import copy
from contextlib import nullcontext

import pytest
import torch

from gridprune import families, prune
from gridprune.compat import CACHE
from gridprune.errors import UnsupportedCallError
from gridprune.families.limits import CHUNKED_PREFILL, LATER_IMAGES, PADDING_BEHIND_CACHE, STATIC_CACHE
from gridprune.methods.registry import create
from rounding import assert_same_output, bound, chain

from .kit import Sample, Uneven, in_full, reference, shuffled, write

KEEP_ALL = create("keep-all")
SOME = create("fastervlm", keep="30%")


def one(case, number=0):
    """A prompt with one image."""
    return [*shuffled(number), case.image(number), *shuffled(number + 1)]


def two(case, number=0):
    """A prompt with two images, different ones."""
    return [
        *shuffled(number, 3),
        case.image(number),
        *shuffled(number + 1, 2),
        case.image(number + 1),
        *shuffled(3),
    ]


def refused(limit, limits):
    """A context in which what the family declares as a limit must be refused, and everything else must work."""
    return pytest.raises(UnsupportedCallError, match=limit) if limit in limits else nullcontext()


def masks_of(pruning):
    return [report.kept_mask for report in pruning.reports]


def forward(net, call, method=SOME, **settings):
    with torch.no_grad(), prune(net, method, **settings) as pruning:
        return net(**call), masks_of(pruning)


def generate(net, call, method=SOME, tokens=4, settings=None, **arguments):
    with prune(net, method, **(settings or {})) as pruning:
        output = net.generate(
            **call,
            max_new_tokens=tokens,
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
            **arguments,
        )
    return output, masks_of(pruning)


def stack(output):
    """(rows, tokens, vocabulary) logits of a generation."""
    return torch.stack(output.logits, dim=1)


def expected_logits(case, net, row, masks):
    """The reference's logits at the columns of the whole prompt."""
    return in_full(case, net, row, masks, reference(case, net, row, masks).logits)


# -- identical to the unpruned model -----------------------------------------------------------------------------------


def test_keep_all_forward_is_bit_identical(case, net):
    call = case.call(two(case), one(case, 2))
    with torch.no_grad():
        plain = net(**call).logits
    pruned, _ = forward(net, call, KEEP_ALL)
    assert torch.equal(pruned.logits, plain)


def test_keep_all_generate_is_bit_identical(case, net):
    call = case.call(two(case), one(case, 2))
    plain = net.generate(**call, max_new_tokens=5, do_sample=False, return_dict_in_generate=True, output_logits=True)
    pruned, _ = generate(net, call, KEEP_ALL, tokens=5)
    assert torch.equal(pruned.sequences, plain.sequences)
    assert torch.equal(stack(pruned), stack(plain))


def test_prompt_without_images_runs_as_it_is(case, net):
    call = case.call(shuffled(1))
    with torch.no_grad():
        plain = net(**call).logits
    pruned, masks = forward(net, call)
    assert torch.equal(pruned.logits, plain)
    assert masks == []


# -- equal to a prompt written by hand ---------------------------------------------------------------------------------


def test_pruned_forward_equals_reference(case, net):
    row = two(case)
    pruned, masks = forward(net, case.call(row))
    assert not all(mask.all() for mask in masks)
    assert (pruned.logits - expected_logits(case, net, row, masks)).abs().max() == 0.0


def test_pruned_generate_equals_reference(case, net):
    row = one(case)
    output, masks = generate(net, case.call(row), tokens=3)
    written = list(row)
    for step in range(3):
        expected = reference(case, net, written, masks).logits[0, -1]
        assert_same_output(output.logits[step][0], expected, net)
        written.append(int(expected.argmax()))
    assert output.sequences[0].tolist() == [*case.ids(row), *written[len(row) :]]


def test_uneven_counts_equal_reference(case, net):
    row = two(case)
    for salt in range(8):  # which counts the images get is a matter of their pixels
        pruned, masks = forward(net, case.call(row), Uneven(salt=salt))
        if masks[0].sum() != masks[1].sum():
            break
    assert masks[0].sum() != masks[1].sum()
    assert (pruned.logits - expected_logits(case, net, row, masks)).abs().max() == 0.0


def test_labels_and_loss_equal_reference(case, net):
    row = one(case)
    call = case.call(row)
    labels = torch.where(call["input_ids"] == case.placeholder, -100, call["input_ids"])
    pruned, masks = forward(net, {**call, "labels": labels})
    kept = labels[:, write(case, net, row, masks).columns]
    torch.testing.assert_close(pruned.loss, reference(case, net, row, masks, labels=kept).loss)


def test_rounding_cannot_hide_a_wrong_token(case, net):
    """What the text behind the images makes of one other token is far more than tests of the same output allow."""
    row = two(case)
    _, masks = forward(net, case.call(row))
    expected = reference(case, net, row, masks).logits[0, -3:]
    kept, dropped = masks[0].nonzero()[0], (~masks[0]).nonzero()[0]
    masks[0][kept], masks[0][dropped] = False, True
    wrong = reference(case, net, row, masks).logits[0, -3:]
    assert (wrong - expected).abs().max() > 10 * bound(float(expected.abs().max()), **chain(net))


# -- rows do not know of each other ------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [SOME, Uneven()], ids=lambda method: method.name)
def test_ragged_batch_equals_single_rows(case, net, method):
    rows = [one(case), [*shuffled(4, 9), *two(case, 1)], one(case, 3)]
    batch, masks = forward(net, case.call(*rows), method)
    number = 0
    for i, row in enumerate(rows):
        single, own = forward(net, case.call(row), method)
        assert all(torch.equal(a, b) for a, b in zip(masks[number:], own))
        number += len(own)
        length = single.logits.shape[1]
        assert_same_output(batch.logits[i, -length:], single.logits[0], net)


def test_ragged_batch_generates_as_single_rows(case, net):
    rows = [one(case), [*shuffled(4, 9), *two(case, 1)], one(case, 3)]
    batch, _ = generate(net, case.call(*rows), Uneven())
    for i, row in enumerate(rows):
        single, _ = generate(net, case.call(row), Uneven())
        assert_same_output(stack(batch)[i], stack(single)[0], net)


def test_right_padding_in_forward(case, net):
    rows = [one(case), [*shuffled(4, 9), *two(case, 1)]]
    batch, _ = forward(net, case.call(*rows, right=True))
    for i, row in enumerate(rows):
        single, _ = forward(net, case.call(row))
        length = single.logits.shape[1]
        assert_same_output(batch.logits[i, :length], single.logits[0], net)


def test_without_a_mask(case, net):
    row = two(case)
    call = case.call(row)
    del call["attention_mask"]
    pruned, masks = forward(net, call)
    assert (pruned.logits - expected_logits(case, net, row, masks)).abs().max() == 0.0


# -- caches and turns --------------------------------------------------------------------------------------------------


def test_cache_holds_kept_tokens_only(case, net):
    row = two(case)
    output, masks = generate(net, case.call(row), tokens=4)
    cut = sum(int((~mask).sum()) for mask in masks)
    assert output.past_key_values.get_seq_length() == len(case.ids(row)) - cut + 3


@pytest.mark.parametrize("images", ["text", "new", "all"])
def test_second_turn_of_generate_equals_from_scratch(case, net, limits, images):
    first = one(case)
    opening, masks = generate(net, case.call(first), tokens=3)
    answer = opening.sequences[0, len(case.ids(first)) :].tolist()
    new = [*shuffled(5)] if images == "text" else [*shuffled(5, 2), case.image(1), *shuffled(6)]
    whole = [*first, *answer, *new]
    call = case.call(whole)
    if images == "text":
        call = {**case.call(shuffled(1)), **case.extras(call["input_ids"])}
        call |= {"input_ids": case.call(whole)["input_ids"], "attention_mask": case.call(whole)["attention_mask"]}
    elif images == "new":
        call |= case.vision([[item for item in new if isinstance(item, Sample)]])
    with refused(LATER_IMAGES, limits if images != "text" else {}) as refusal:
        second, more = generate(net, {**call, CACHE: opening.past_key_values}, tokens=2)
    if refusal is not None:
        return
    expected = reference(case, net, whole, [*masks, *more]).logits[0, -1]
    assert_same_output(second.logits[0][0], expected, net)
    assert second.sequences[0, : len(case.ids(whole))].tolist() == case.ids(whole)


@pytest.mark.parametrize("with_image", [False, True], ids=["text", "image"])
def test_second_turn_of_forward_equals_from_scratch(case, net, limits, with_image):
    rows = [one(case), [*shuffled(4, 9), *one(case, 1)]]
    call = case.call(*rows)
    opening, masks = forward(net, call)
    new = [[*shuffled(5, 2), case.image(1), *shuffled(6)], [*shuffled(7), case.image(2), *shuffled(8, 2)]]
    if not with_image:
        new = [shuffled(5), shuffled(6)]
    later = case.call(*new)
    for name in ("attention_mask", *case.extras(call["input_ids"])):
        later[name] = torch.cat([call[name], later[name]], dim=1)
    later[CACHE] = opening.past_key_values
    limit = next((each for each in (LATER_IMAGES, PADDING_BEHIND_CACHE) if with_image and each in limits), "")
    if with_image and not limit and families.find(net).window and len(case.sizes) > 1:  # rows of different lengths
        limit, limits = PADDING_BEHIND_CACHE, {PADDING_BEHIND_CACHE: "padding would fill the window"}
    with refused(limit, limits) as refusal:
        output, more = forward(net, later)
    if refusal is not None:
        return
    more = more or [None, None]
    for i, (before, after) in enumerate(zip(rows, new)):
        kept = [mask for mask in (masks[i], more[i]) if mask is not None]
        expected = reference(case, net, [*before, *after], kept).logits[0]
        assert_same_output(output.logits[i, -3:], expected[-3:], net)


def test_a_copied_cache_keeps_its_record(case, net):
    row = one(case)
    opening, masks = forward(net, case.call(row))
    new = shuffled(5)
    later = {**case.call(new), "attention_mask": torch.ones(1, len(case.ids(row)) + len(new), dtype=torch.long)}
    output, _ = forward(net, {**later, CACHE: copy.deepcopy(opening.past_key_values)})
    expected = reference(case, net, [*row, *new], masks).logits[0, -1]
    assert_same_output(output.logits[0, -1], expected, net)


def test_static_cache(case, net, limits):
    call = case.call(one(case), two(case, 1))
    dynamic, _ = generate(net, call)
    with refused(STATIC_CACHE, limits) as refusal:
        static, _ = generate(net, call, cache_implementation="static")
    if refusal is not None:
        return
    assert_same_output(stack(static), stack(dynamic), net)


def test_chunked_prefill(case, net, limits):
    call = case.call(two(case))
    whole, _ = generate(net, call, Uneven())
    with refused(CHUNKED_PREFILL, limits) as refusal:
        chunked, _ = generate(net, call, Uneven(), prefill_chunk_size=7)
    if refusal is not None:
        return
    assert_same_output(stack(chunked), stack(whole), net)


# -- several sequences a row -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{"num_beams": 3}, {"num_beams": 3, "num_return_sequences": 2}], ids=["1", "2"])
def test_beams_with_uneven_budgets(case, net, settings):
    rows = [one(case), two(case, 1)]

    def sequences(call):
        with prune(net, Uneven()):
            return net.generate(**call, max_new_tokens=4, do_sample=False, **settings)

    batch = sequences(case.call(*rows))
    copies = settings.get("num_return_sequences", 1)
    singles = [sequences(case.call(row))[:, len(case.ids(row)) :] for row in rows]
    assert torch.equal(batch[:, -4:], torch.cat(singles))
    assert len(batch) == 2 * copies


def test_several_samples_of_uneven_rows(case, net):
    """The first step's logits of every copy are those of its own row."""
    rows = [one(case), two(case, 1)]
    with prune(net, Uneven()):
        torch.manual_seed(0)
        out = net.generate(
            **case.call(*rows),
            max_new_tokens=1,
            do_sample=True,
            num_return_sequences=2,
            return_dict_in_generate=True,
            output_logits=True,
        )
    for i, row in enumerate(rows):
        single, _ = generate(net, case.call(row), Uneven(), tokens=1)
        for copy_ in (2 * i, 2 * i + 1):
            assert_same_output(out.logits[0][copy_], single.logits[0][0], net)


# -- other ways to run -------------------------------------------------------------------------------------------------


def test_attention_implementations_agree(case, net):
    call = case.call(two(case))
    sdpa, masks = forward(net, call)
    net.set_attn_implementation("eager")
    try:
        eager, own = forward(net, call)
    finally:
        net.set_attn_implementation("sdpa")
    assert all(torch.equal(a, b) for a, b in zip(masks, own))
    assert_same_output(eager.logits, sdpa.logits, net)


def test_save_and_reload_inside_and_outside(case, net, tmp_path):
    call = case.call(one(case))
    expected, _ = forward(net, call)
    with prune(net, SOME):
        net.save_pretrained(tmp_path / "inside")
    again = type(net).from_pretrained(tmp_path / "inside", attn_implementation="sdpa").eval()
    found, _ = forward(again, call)
    assert_same_output(found.logits, expected.logits, net)
