"""What `generate` counts and hands back: lengths, streamers, output objects; positions; fixed settings of one model."""

from __future__ import annotations

import pytest
import torch
from transformers import GenerationConfig

from gridprune import prune
from gridprune.methods.registry import create
from rounding import assert_same_output

from .kit import in_full, model, reference, shuffled, write
from .models import LLAVA, LLAVA_NEXT

SOME = create("fastervlm", keep=10)
ROW = [*shuffled(1), LLAVA.image(0), *shuffled(2)]
PROMPT = 46


@pytest.fixture
def net():
    return model(LLAVA)


def generate(net, **arguments):
    with prune(net, SOME) as pruning:
        return net.generate(**LLAVA.call(ROW), do_sample=False, **arguments), pruning


@pytest.mark.parametrize(
    "arguments",
    [
        {"max_new_tokens": 4},
        {"max_length": PROMPT + 4},
        {"generation_config": GenerationConfig(max_length=PROMPT + 4)},
        {"generation_config": GenerationConfig(max_new_tokens=4)},
        {"max_new_tokens": 4, "min_length": PROMPT + 2},
    ],
    ids=["new", "length", "config", "config-new", "min"],
)
def test_lengths_count_the_original_prompt(net, arguments):
    sequences, _ = generate(net, **arguments)
    assert sequences.shape == (1, PROMPT + 4)
    assert sequences[0, :PROMPT].tolist() == LLAVA.ids(ROW)


def test_lengths_of_the_models_own_configuration(net):
    before = net.generation_config
    net.generation_config = GenerationConfig(max_length=PROMPT + 3)
    try:
        sequences, _ = generate(net)
        assert net.generation_config.max_length == PROMPT + 3
    finally:
        net.generation_config = before
    assert sequences.shape == (1, PROMPT + 3)


def test_a_given_configuration_is_not_changed(net):
    config = GenerationConfig(max_length=PROMPT + 4)
    generate(net, generation_config=config)
    assert config.max_length == PROMPT + 4


def test_min_length_holds_back_the_end(net):
    first, _ = generate(net, max_new_tokens=1)
    stop = int(first[0, -1])
    early, _ = generate(net, max_new_tokens=4, eos_token_id=stop)
    late, _ = generate(net, max_new_tokens=4, min_length=PROMPT + 3, eos_token_id=stop)
    assert early.shape[1] == PROMPT + 1
    assert late.shape[1] >= PROMPT + 3


def test_output_objects(net):
    output, _ = generate(net, max_new_tokens=3, return_dict_in_generate=True, output_scores=True)
    assert output.sequences.shape == (1, PROMPT + 3)
    assert len(output.scores) == 3


def test_streamers_see_the_original_prompt(net):
    class Stream:
        def __init__(self):
            self.seen, self.ended = [], False

        def put(self, value):
            self.seen.append(value.flatten().tolist())

        def end(self):
            self.ended = True

    stream = Stream()
    sequences, _ = generate(net, max_new_tokens=3, streamer=stream)
    assert [token for part in stream.seen for token in part] == sequences[0].tolist()
    assert stream.ended


def test_inputs_under_their_other_name(net):
    call = LLAVA.call(ROW)
    expected, _ = generate(net, max_new_tokens=2)
    with prune(net, SOME):
        found = net.generate(call.pop("input_ids"), **call, max_new_tokens=2, do_sample=False)
    assert torch.equal(found, expected)


def test_padding_without_a_mask_is_inferred(net):
    call = LLAVA.call(ROW, [*shuffled(3, 12), LLAVA.image(1), *shuffled(4)])
    with prune(net, SOME):
        expected = net.generate(**call, max_new_tokens=3, do_sample=False)
        del call["attention_mask"]
        assert torch.equal(net.generate(**call, max_new_tokens=3, do_sample=False), expected)


# -- positions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [LLAVA, LLAVA_NEXT], ids=lambda case: case.name)
def test_original_positions(case):
    net = model(case)
    row = [*shuffled(1), case.image(0), *shuffled(2), case.image(1), *shuffled(3)]
    with torch.no_grad(), prune(net, SOME, positions="original") as pruning:
        pruned = net(**case.call(row)).logits
        masks = [report.kept_mask for report in pruning.reports]
        moved = net.generate(
            **case.call(row), max_new_tokens=3, do_sample=False, return_dict_in_generate=True, output_logits=True
        )
        uncached = net.generate(**case.call(row), max_new_tokens=3, do_sample=False, use_cache=False)
    expected = reference(case, net, row, masks, positions="original").logits
    assert (pruned - in_full(case, net, row, masks, expected)).abs().max() == 0.0
    assert (pruned[:, -1] - reference(case, net, row, masks).logits[:, -1]).abs().max() > 1e-3
    assert_same_output(moved.logits[0], expected[:, -1], net)
    assert torch.equal(uncached, moved.sequences)
    longer = [*row, *moved.sequences[0, -3:].tolist()[:1]]
    later = reference(case, net, longer, masks, positions="original").logits[:, -1]
    assert_same_output(moved.logits[1], later, net)


def test_original_positions_of_ragged_batches():
    net = model(LLAVA)
    rows = [ROW, [*shuffled(3, 12), LLAVA.image(1), *shuffled(4), LLAVA.image(2), *shuffled(1)]]
    with torch.no_grad(), prune(net, SOME, positions="original"):
        batch = net(**LLAVA.call(*rows)).logits
        for i, row in enumerate(rows):
            single = net(**LLAVA.call(row)).logits[0]
            assert_same_output(batch[i, -len(single) :], single, net)


# -- methods that do more than drop tokens -----------------------------------------------------------------------------


def test_merging_before_the_language_model(net):
    with torch.no_grad(), prune(net, create("pooling", keep=9)) as pruning:
        pruned = net(**LLAVA.call(ROW))
    features = LLAVA.features(net, [LLAVA.image(0)])[0]
    pooled = torch.nn.functional.avg_pool2d(features.T.view(1, -1, 6, 6), 2)[0].flatten(1).T
    table = net.get_input_embeddings()
    with torch.no_grad():
        parts = [table(torch.tensor(shuffled(1))), pooled, table(torch.tensor(shuffled(2)))]
        expected = net(inputs_embeds=torch.cat(parts)[None]).logits
    assert pruning.reports[0].merged
    columns = write(LLAVA, net, ROW, [report.kept_mask for report in pruning.reports]).columns
    assert_same_output(pruned.logits[:, columns], expected, net)
