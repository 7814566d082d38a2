"""What code that `generate` calls back sees: the prompt as it was given, as it would of the stock model."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    MaxLengthCriteria,
    RepetitionPenaltyLogitsProcessor,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.generation.logits_process import MinLengthLogitsProcessor, SuppressTokensAtBeginLogitsProcessor
from transformers.generation.streamers import BaseStreamer

from gridprune import prune
from gridprune.compat import CACHE
from gridprune.methods.in_llm.fastv import FastV
from gridprune.methods.registry import create

from .kit import Uneven, model, shuffled
from .models import GEMMA3, LLAVA, QWEN2_5_VL
from .test_contract import one, two

SOME = create("fastervlm", keep="30%")


class Watch(LogitsProcessor, BaseStreamer):
    """A logits processor, a prefix function and a streamer that note what they are given."""

    def __init__(self):
        self.called, self.prefixes, self.stream = [], [], []

    def __call__(self, input_ids, scores):
        self.called.append(input_ids.clone())
        return scores

    def allowed(self, row, ids):
        self.prefixes.append((row, ids.tolist()))
        return list(range(3, 99))

    def put(self, value):
        self.stream.append(value.flatten().tolist())

    def end(self):
        self.stream.append("end")


class Stops(StoppingCriteria):
    """A criterion that notes what it is given."""

    def __init__(self):
        self.called = []

    def __call__(self, input_ids, scores, **kwargs):
        self.called.append(input_ids.clone())
        return torch.zeros(len(input_ids), dtype=torch.bool)


def seen(net, call, block, **settings):
    """What a processor, a criterion and a prefix function saw on the way: prompts, and how long everything was."""
    processor, criterion, length = Watch(), Stops(), call["input_ids"].shape[1]
    with block:
        net.generate(
            **call,
            do_sample=False,
            logits_processor=LogitsProcessorList([processor]),
            stopping_criteria=StoppingCriteriaList([criterion]),
            prefix_allowed_tokens_fn=processor.allowed,
            **settings,
        )
    prompts = [(ids[:, :length].tolist(), ids.shape) for ids in (*processor.called, *criterion.called)]
    return prompts, [(row, ids[:length], len(ids)) for row, ids in processor.prefixes]


def check(case, net, **settings):
    call = case.call(one(case), [*shuffled(4, 9), *two(case, 1)])
    stock = seen(net, call, nullcontext(), max_new_tokens=2, **settings)
    assert seen(net, call, prune(net, Uneven()), max_new_tokens=2, **settings) == stock
    assert len(stock[1]) > 0


def test_callbacks_see_what_they_see_of_the_stock_model(case, net):
    check(case, net)


@pytest.mark.parametrize("case", [LLAVA, QWEN2_5_VL, GEMMA3], ids=lambda case: case.name)
def test_callbacks_see_what_they_see_of_the_stock_model_with_beams(case):
    check(case, model(case), num_beams=2)


def test_prefixes_of_several_samples_are_those_of_their_rows():
    net, rows = model(LLAVA), [one(LLAVA), two(LLAVA, 1)]
    call = LLAVA.call(*rows)
    watch = Watch()
    with prune(net, Uneven()):
        net.generate(
            **call, do_sample=True, num_return_sequences=2, max_new_tokens=1, prefix_allowed_tokens_fn=watch.allowed
        )
    assert [ids for _, ids in watch.prefixes] == call["input_ids"].repeat_interleave(2, dim=0).tolist()


def test_a_later_turn_shows_the_whole_prompt():
    net, first = model(LLAVA), one(LLAVA)
    with prune(net, SOME):
        opening = net.generate(**LLAVA.call(first), max_new_tokens=2, return_dict_in_generate=True)
    call = LLAVA.call([*first, *opening.sequences[0, -2:].tolist(), *shuffled(3), LLAVA.image(1), *shuffled(4)])
    cache = {CACHE: opening.past_key_values}
    prompts, prefixes = seen(net, {**call, **cache}, prune(net, SOME), max_new_tokens=2)
    assert prompts[0][0] == call["input_ids"].tolist()
    assert prefixes[0][1] == call["input_ids"][0].tolist()


@pytest.mark.parametrize("method", [SOME, FastV(keep="60%", layer=1)], ids=lambda method: method.name)
def test_a_streamer_sees_the_given_prompt(method):
    net, call, watch = model(LLAVA), LLAVA.call(one(LLAVA)), Watch()
    with prune(net, method):
        output = net.generate(**call, max_new_tokens=2, do_sample=False, streamer=watch)
    assert watch.stream == [call["input_ids"][0].tolist(), *[[token] for token in output[0, -2:].tolist()], "end"]


# -- calls of the model while it generates -----------------------------------------------------------------------------


@pytest.mark.parametrize("method", [SOME, FastV(keep="60%", layer=1)], ids=lambda method: method.name)
@pytest.mark.parametrize("case", [LLAVA, QWEN2_5_VL], ids=lambda case: case.name)
def test_calls_inside_a_callback_are_pruned_like_any_other(case, method):
    net = model(case)
    call, other = case.call(one(case)), case.call(two(case, 1))
    found = []

    def nested(ids, scores):
        found.append((net(**other).logits, net.generate(**other, max_new_tokens=2, do_sample=False)))
        return scores

    with torch.no_grad(), prune(net, method) as pruning:
        alone = net.generate(**call, max_new_tokens=3, do_sample=False)
        logits, made = net(**other).logits, net.generate(**other, max_new_tokens=2, do_sample=False)
        pruning.reports.clear()
        output = net.generate(**call, max_new_tokens=3, do_sample=False, logits_processor=[nested])
    assert torch.equal(output, alone)
    assert len(pruning.reports) == 1 + 3 * 4
    for own_logits, own_made in found:
        assert torch.equal(own_logits, logits)
        assert torch.equal(own_made, made)


# -- transformers' own, which count the prompt -------------------------------------------------------------------------

PROMPT = 46


def scores(net, *processors, method=SOME, rows=(), tokens=2, **settings):
    rows = rows or (one(LLAVA),)
    with prune(net, method):
        return net.generate(
            **LLAVA.call(*rows),
            max_new_tokens=tokens,
            do_sample=False,
            return_dict_in_generate=True,
            output_scores=True,
            output_logits=True,
            logits_processor=list(processors),
            **settings,
        )


def penalised(output, step, length, rows, start):
    """(B, V) which scores were changed, and which should have been: those of ids from column `start` on."""
    changed = output.scores[step] != output.logits[step]
    expected = torch.zeros_like(changed)
    for row in range(rows):
        expected[row, output.sequences[row, start : length + step]] = True
    return changed, expected & (output.logits[step] != 0)


@pytest.mark.parametrize("start", [0, 3, PROMPT - 4, PROMPT, PROMPT + 1])
def test_a_repetition_penalty_ignores_as_much_of_the_prompt_as_it_says(start):
    net = model(LLAVA)
    output = scores(net, RepetitionPenaltyLogitsProcessor(1.5, prompt_ignore_length=start), tokens=3)
    for step in range(3):
        changed, expected = penalised(output, step, PROMPT, 1, start)
        assert torch.equal(changed, expected)


def test_a_repetition_penalty_ignores_what_it_says_of_every_row():
    net, rows = model(LLAVA), (one(LLAVA), [*shuffled(4, 9), *two(LLAVA, 1)])
    length = LLAVA.call(*rows)["input_ids"].shape[1]
    output = scores(net, RepetitionPenaltyLogitsProcessor(1.5, prompt_ignore_length=length), method=Uneven(), rows=rows)
    changed, expected = penalised(output, 1, length, 2, length)
    assert torch.equal(changed, expected)


def test_a_given_processor_takes_the_place_of_the_same_setting():
    net = model(LLAVA)
    given = RepetitionPenaltyLogitsProcessor(1.5, prompt_ignore_length=PROMPT)
    alone, both = scores(net, given), scores(net, given, repetition_penalty=3.0)
    assert torch.equal(both.scores[1], alone.scores[1])
    assert given.prompt_ignore_length == PROMPT


def test_lengths_of_given_processors_count_the_given_prompt():
    net = model(LLAVA)
    stop = int(scores(net).sequences[0, PROMPT])
    held = scores(net, MinLengthLogitsProcessor(PROMPT + 1, torch.tensor([stop])))
    assert held.scores[0][0, stop] == -torch.inf
    assert held.scores[1][0, stop] > -torch.inf
    begun = scores(net, SuppressTokensAtBeginLogitsProcessor([stop], PROMPT))
    assert begun.scores[0][0, stop] == -torch.inf
    assert begun.scores[1][0, stop] > -torch.inf


def test_a_given_length_criterion_counts_the_given_prompt():
    net = model(LLAVA)
    with prune(net, SOME):
        output = net.generate(
            **LLAVA.call(one(LLAVA)), do_sample=False, stopping_criteria=[MaxLengthCriteria(PROMPT + 3)]
        )
    assert output.shape[1] == PROMPT + 3


def test_a_stop_that_counts_fires():
    """As a user would write it."""
    net, call = model(LLAVA), LLAVA.call(one(LLAVA))
    length = call["input_ids"].shape[1]

    def stop(ids, scores, **kwargs):
        return torch.full((len(ids),), ids.shape[1] >= length + 2)

    with prune(net, SOME):
        assert net.generate(**call, max_new_tokens=6, stopping_criteria=[stop]).shape[1] == length + 2
