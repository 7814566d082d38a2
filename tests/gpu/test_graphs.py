"""CUDA graphs on a real GPU: the same tokens, embeddings and outputs as kernel by kernel, whatever happens between."""

from __future__ import annotations

import copy
import threading
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar

import pytest
import torch

from gridprune import GridPrune, prune
from gridprune.core.graphs import Graphs
from gridprune.errors import GridPruneError
from gridprune.methods import create
from gridprune.methods.base import Method, Selection
from gridprune.methods.registry import describe
from hf import models
from hf.kit import model, shuffled
from hf.test_cues import clip_text
from hf.test_siglip import siglip
from hf.words import tokenizer
from rounding import assert_same_output

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
    pytest.mark.filterwarnings("error:gridprune could not record"),
]

WITHOUT_TENSORS = ("keep-all", "random", "uniform")  # nothing of theirs is on the device
SAFE = [entry["name"] for entry in describe() if entry["graph_safe"] and entry["name"] not in ("evs", "vidcom2")]
CASES = [models.LLAVA, models.LLAVA_NEXT, models.QWEN2_5_VL, models.QWEN3_VL]
ONE_SIZE = [models.LLAVA, models.VIP_LLAVA, models.LLAVA_NEXT, models.ONEVISION, models.INTERNVL, models.GEMMA3]
ONE_SIZE += [models.PALIGEMMA]
QUESTION, KEEP, CALLS = "what is red", "40%", 5
DTYPES = [torch.float32, torch.bfloat16]
BATCHES = [1, 8]


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def on_gpu(case, dtype=torch.float32):
    return copy.deepcopy(model(case)).to("cuda", dtype)


@lru_cache(maxsize=2)
def lasting(case, dtype):
    """For tests that leave it as it is."""
    return on_gpu(case, dtype)


def inputs(case, dtype, batch, seed):
    """Images of one geometry and other pixels in every row and call."""
    images = [replace(case.image(0), seed=100 * seed + row) for row in range(batch)]
    found = case.call(*[[*shuffled(1), image, *shuffled(2)] for image in images])
    return {name: value.to("cuda", dtype if value.is_floating_point() else None) for name, value in found.items()}


def settings_of(case):
    found = {"question": QUESTION, "processor": tokenizer()}
    if case in (models.LLAVA, models.LLAVA_NEXT, models.VIP_LLAVA):
        found["clip"] = clip_text().to("cuda")
    return found


def eager(pruning):
    """The same pruning, kernel by kernel."""
    for selector in pruning._acting.selectors:
        selector.graphs = None
    return pruning


def answer(net, call, pruning):
    before = len(pruning.reports)
    with pruning:
        logits = net(**call).logits
    return logits, [report.kept_indices for report in list(pruning.reports)[before:]]


def answers(net, calls, pruning):
    return [answer(net, call, pruning) for call in calls]


def assert_equal(net, found, expected):
    for number, ((logits, kept), (own_logits, own_kept)) in enumerate(zip(found, expected, strict=True)):
        assert all(torch.equal(a, b) for a, b in zip(kept, own_kept, strict=True)), f"tokens of call {number}"
        assert_same_output(logits, own_logits, net)


@pytest.mark.parametrize(("dtype", "batch"), [(torch.float32, 8), (torch.bfloat16, 1)], ids=str)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("name", SAFE)
def test_a_recorded_decision_keeps_the_same_tokens(name, case, dtype, batch):
    net, method = lasting(case, dtype), create(name, keep=KEEP)
    calls = [inputs(case, dtype, batch, seed) for seed in range(CALLS)]
    try:
        plain = eager(prune(net, method, **settings_of(case)))
        expected = answers(net, calls, plain)
    except GridPruneError as error:  # names what this family cannot give; anything else is a fault
        pytest.skip(str(error)[:80])
    pruning = prune(net, method, **settings_of(case))
    found = answers(net, calls, pruning)
    assert_equal(net, found, expected)
    unrecorded = name in WITHOUT_TENSORS or "sensitivity" in method.needs
    assert unrecorded or len(pruning._graphs) == 1


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float16], ids=str)
@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_text_embeddings_are_those_of_the_tower(kind, dtype):
    from gridprune.cues.siglip_text import SiglipText

    text = clip_text() if kind == "clip" else SiglipText.from_model(siglip(), tokenizer())
    text.text_model.to(dtype)
    text.to("cuda")
    for words in range(1, 12):
        question = " ".join(["red"] * words)
        segments = text._segments(question)
        given = {name: value.cuda() for name, value in text.tokens(segments).items()}
        same = getattr(text.text_model(**given), text.pooled)
        plain = text.tokenizer(segments, padding=True, truncation=True, max_length=text.context, return_tensors="pt")
        if kind == "siglip":
            plain = given
        alone = getattr(text.text_model(**{name: plain[name].cuda() for name in given}), text.pooled)
        for _ in range(CALLS):
            found = text.embed_segments(segments)
            assert torch.equal(found, same), "graph and kernels, of the same padding"
        # Padding changes the shape of products, so that they may be added up in another order, and nothing else.
        size = float(alone.abs().max())
        torch.testing.assert_close(found, alone, rtol=0, atol=16 * torch.finfo(dtype).eps * size)
    assert len(text._graphs) >= 1


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", ONE_SIZE, ids=lambda case: case.name)
def test_an_accelerated_call_answers_the_same(case, dtype, batch):
    net, method = lasting(case, dtype), create("fastervlm", keep=KEEP)
    calls = [inputs(case, dtype, batch, seed) for seed in range(CALLS)]
    expected = answers(net, calls, eager(prune(net, method)))
    pruning = prune(net, method, accelerate=True)
    assert_equal(net, answers(net, calls, pruning), expected)
    assert len(pruning._graphs) == 2, "the encoder and the decision"
    with prune(net, method):
        plain = net.generate(**calls[0], max_new_tokens=4, do_sample=False)
    with pruning:
        assert torch.equal(net.generate(**calls[0], max_new_tokens=4, do_sample=False), plain)


def accelerated(net, method=None):
    return prune(net, method or GridPrune(keep=KEEP), accelerate=True, **settings_of(models.LLAVA))


def test_weights_that_change_in_place_are_seen():
    net = on_gpu(models.LLAVA)
    calls = [inputs(models.LLAVA, torch.float32, 2, seed) for seed in range(CALLS)]
    pruning = accelerated(net)
    before = answers(net, calls, pruning)
    graphs = len(pruning._graphs)
    net.model.multi_modal_projector.linear_1.weight.mul_(1.5)
    net.model.vision_tower.encoder.layers[0].mlp.fc1.weight.mul_(0.5)
    found = answers(net, calls, pruning)
    assert_equal(net, found, answers(net, calls, eager(prune(net, pruning.method, **settings_of(models.LLAVA)))))
    assert len(pruning._graphs) == graphs, "the graphs of before, which read the weights where they are"
    assert not torch.allclose(found[0][0], before[0][0])


@pytest.mark.parametrize("how", ["parameter", "assign", "dtype"])
def test_weights_that_are_replaced_are_seen(how):
    net = on_gpu(models.LLAVA)
    calls = [inputs(models.LLAVA, torch.float32, 2, seed) for seed in range(CALLS)]
    pruning = accelerated(net)
    answers(net, calls, pruning)
    linear = net.model.multi_modal_projector.linear_1
    if how == "parameter":
        linear.weight = torch.nn.Parameter(linear.weight * 2)
    elif how == "assign":
        net.load_state_dict({name: value * 1.25 for name, value in net.state_dict().items()}, assign=True)
    else:
        net.to(torch.bfloat16)
        calls = [inputs(models.LLAVA, torch.bfloat16, 2, seed) for seed in range(CALLS)]
    expected = answers(net, calls, eager(prune(net, pruning.method, **settings_of(models.LLAVA))))
    assert_equal(net, answers(net, calls, pruning), expected)


def test_threads_on_streams_of_their_own():
    net = on_gpu(models.LLAVA)
    calls = [inputs(models.LLAVA, torch.float32, 2, seed) for seed in range(8)]
    expected = answers(net, calls, eager(prune(net, GridPrune(keep=KEEP), **settings_of(models.LLAVA))))
    pruning = accelerated(net)
    answers(net, calls, pruning)
    torch.cuda.synchronize()
    wrong = []

    def ask(first):
        with torch.no_grad(), torch.cuda.stream(torch.cuda.Stream()):
            for _ in range(10):
                for number in range(first, len(calls), 2):
                    with pruning:
                        logits = net(**calls[number]).logits
                    torch.cuda.current_stream().synchronize()
                    if not torch.allclose(logits, expected[number][0], atol=1e-4):
                        wrong.append(number)

    threads = [threading.Thread(target=ask, args=(first,)) for first in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_graphs_beyond_the_bytes_are_given_up():
    net = on_gpu(models.LLAVA)
    pruning = accelerated(net)
    pruning._graphs._most_bytes = 1 << 23  # two small graphs, and no third
    for batch in (1, 2, 3):
        calls = [inputs(models.LLAVA, torch.float32, batch, seed) for seed in range(CALLS)]
        expected = answers(net, calls, eager(prune(net, pruning.method, **settings_of(models.LLAVA))))
        assert_equal(net, answers(net, calls, pruning), expected)
        assert len(pruning._graphs) <= 2


@dataclass(frozen=True, kw_only=True)
class Looks(Method):
    """Reads a value on the host and does not say so."""

    name: ClassVar[str] = "looks"
    reads: ClassVar[frozenset[str]] = frozenset({"saliency"})

    def select(self, cues, token_map, k):
        assert cues.require("saliency").sum().item() > 0
        return Selection(cues.require("saliency").topk(k, dim=1).indices.sort(dim=1).values)


def test_what_cannot_be_recorded_is_told_once_and_harms_no_other():
    net = on_gpu(models.LLAVA)
    calls = [inputs(models.LLAVA, torch.float32, 2, seed) for seed in range(CALLS)]
    expected = answers(net, calls, eager(prune(net, Looks(keep=KEEP))))
    pruning = prune(net, Looks(keep=KEEP))
    with pytest.warns(UserWarning, match="could not record a CUDA graph") as told:
        assert_equal(net, answers(net, calls, pruning), expected)
    assert len(told) == 1
    assert len(pruning._graphs) == 0
    other = prune(net, create("fastervlm", keep=KEEP), accelerate=True)
    other._acting.selectors[0].graphs = pruning._graphs
    assert_equal(
        net, answers(net, calls, other), answers(net, calls, eager(prune(net, create("fastervlm", keep=KEEP))))
    )
    assert len(pruning._graphs) == 2


def test_gradients_autocast_and_inference_mode():
    net = on_gpu(models.LLAVA)
    calls = [inputs(models.LLAVA, torch.float32, 2, seed) for seed in range(CALLS)]
    pruning = accelerated(net)
    with torch.inference_mode():
        first = answers(net, calls, pruning)
    assert_equal(net, answers(net, calls, pruning), first)
    with torch.autocast("cuda", torch.bfloat16):
        found = answers(net, calls, pruning)
        assert_equal(net, found, answers(net, calls, eager(prune(net, pruning.method, **settings_of(models.LLAVA)))))
    with torch.enable_grad(), pruning:
        net(**calls[0]).logits.sum().backward()
    assert net.model.multi_modal_projector.linear_1.weight.grad.abs().sum() > 0


def test_results_survive_the_next_replay():
    graphs, table = Graphs(), torch.arange(8.0, device="cuda")
    found = [graphs.run("double", lambda x: (x * 2 + table, [x + 1]), table + step) for step in range(CALLS)]
    assert len(graphs) == 1
    for step, (double, (more,)) in enumerate(found):
        assert torch.equal(double, (table + step) * 2 + table)
        assert torch.equal(more, table + step + 1)
