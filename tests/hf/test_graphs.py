"""Recorded decisions, questions and encoders of live models: nothing in them but kernels, and the tokens of before.

A make-believe recorder refuses whatever a CUDA graph cannot hold; `tests/gpu` runs the same on a GPU.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from functools import lru_cache

import pytest
import torch

from accelerator import DEVICE, Accelerator
from gridprune import GridPrune, families, prune
from gridprune.core.graphs import Graphs
from gridprune.errors import MissingCueError, SettingError, UnsupportedModelError
from gridprune.methods import create
from gridprune.methods.registry import describe
from gridprune.selection.collect import TextSide
from gridprune.selection.selector import Selector
from recorder import Replay, make_believe

from . import models
from .cases import CASES
from .kit import model, shuffled
from .test_cues import clip_text
from .test_devices import moved
from .test_siglip import siglip
from .words import tokenizer

KEEP, CALLS, QUESTION = "40%", 4, "what is red"
SAFE = [entry["name"] for entry in describe() if entry["graph_safe"]]
WITHOUT_TENSORS = ("keep-all", "random", "uniform")  # nothing of theirs is on the device
DECIDED = [models.LLAVA, models.LLAVA_NEXT, models.QWEN2_5_VL, models.QWEN3_VL_VIDEOS]
OF_VIDEOS = ("evs", "vidcom2")
PAIRS = [(case, name) for case in DECIDED for name in SAFE if (name in OF_VIDEOS) == bool(case.frames)]


@pytest.fixture(autouse=True)
def told_nothing():
    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("error", "gridprune could not record")
        yield


def recording(pruning, recorder=None):
    """The same pruning with a make-believe recorder."""
    pruning._graphs = Graphs(recorder or Replay())
    for selector in pruning._acting.selectors:
        selector.graphs = pruning._graphs
    return pruning


def inputs(case, seed, batch=2):
    images = [replace(case.image(0), seed=100 * seed + row) for row in range(batch)]
    return case.call(*[[*shuffled(1), image, *shuffled(2)] for image in images])


def answer(net, call, pruning, device=None):
    call = call if device is None else {name: value.to(device) for name, value in call.items()}
    with pruning:
        logits = net(**call).logits
    return logits.cpu(), [report.kept_indices for report in list(pruning.reports)[-len(call["input_ids"]) :]]


def assert_as_before(case, method, **recorded):
    """Calls with other pixels each are answered as without a recorder."""
    net, calls = model(case), [inputs(case, seed) for seed in range(CALLS)]
    with Accelerator():
        there = moved(net)
        plain = prune(there, method)
        for selector in plain._acting.selectors:
            selector.graphs = None
        expected = [answer(there, call, plain, DEVICE) for call in calls]
        pruning = recording(prune(there, method, **recorded))
        found = [answer(there, call, pruning, DEVICE) for call in calls]
    for (logits, kept), (own, own_kept) in zip(found, expected, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(kept, own_kept, strict=True))
        assert torch.equal(logits, own)
    return pruning._graphs


def text_of(case):
    return TextSide(clip_text() if case in (models.LLAVA, models.LLAVA_NEXT) else None, tokenizer())


def fits(case, method):
    """Whether a method runs on a case."""
    family, text = families.find(model(case)), text_of(case)
    merges = method.merges and method.merge_space == "tower_features"
    if (method.min_frames > 1) != bool(case.frames) or (merges and type(family).project is families.Family.project):
        return False
    try:
        Selector.of(family, text, method)
    except MissingCueError:
        return False
    return "sensitivity" not in method.needs  # forward-mode derivatives go past the make-believe accelerator


@lru_cache(maxsize=1)
def seen(case):
    """A selector for all safe methods that fit, and what it sees of images in several calls."""
    methods = [method for name in SAFE if fits(case, method := create(name, keep=KEEP))]
    with Accelerator():
        there = moved(model(case))
        stream = families.find(there).streams[-1 if case.frames else 0]
        selector, looks = Selector.of(stream, text_of(case), *methods), []
        for seed in range(CALLS):
            call = inputs(case, seed)
            maps = [place.token_map for place in stream.places(call["input_ids"], stream.vision(call))]
            call = {name: value.to(DEVICE) for name, value in call.items()}
            looks.append(selector.encode(stream.vision(call), maps))
    return selector, looks


@pytest.mark.parametrize(("case", "name"), PAIRS, ids=lambda given: getattr(given, "name", given))
def test_a_safe_method_is_kernels_alone(case, name):
    method = create(name, keep=KEEP)
    if not fits(case, method):
        pytest.skip("not for this family")
    plain, looks = seen(case)
    recorded = replace(plain, graphs=make_believe())
    with Accelerator():
        for encoded in looks:
            ours, theirs = (one.choose(method, encoded, [QUESTION] * 2) for one in (recorded, plain))
            for i, (choice, own) in enumerate(zip(ours, theirs, strict=True)):
                assert torch.equal(choice.kept, own.kept)
                assert torch.equal(plain.gather(encoded, i, choice).cpu(), plain.gather(encoded, i, own).cpu())
    assert name in WITHOUT_TENSORS or len(recorded.graphs) == 1


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_an_accelerated_call_answers_the_same(case):
    if not any(stream.one_size for stream in families.find(model(case)).streams):
        with pytest.raises(UnsupportedModelError, match="leave `accelerate` out"):
            prune(model(case), create("fastervlm", keep=KEEP), accelerate=True)
        return
    graphs = assert_as_before(case, create("fastervlm", keep=KEEP), accelerate=True)
    assert len(graphs) == (1 if case.frames else 2)  # videos are encoded as before


def test_what_accelerate_cannot_be_is_refused():
    with pytest.raises(UnsupportedModelError, match="Qwen2_5_VLForConditionalGeneration sees images of any size"):
        prune(model(models.QWEN2_5_VL), create("fastervlm"), accelerate=True)
    with pytest.raises(SettingError, match=r"fastv.*leave `accelerate` out"):
        prune(model(models.LLAVA), create("fastv"), accelerate=True)


def test_weights_that_change_are_seen():
    case, method = models.LLAVA, GridPrune(keep=KEEP)
    settings = {"question": QUESTION, "clip": clip_text()}
    calls = [inputs(case, seed) for seed in range(CALLS)]
    with Accelerator():
        there = moved(model(case))
        pruning = recording(prune(there, method, accelerate=True, **settings))

        def same_as_afresh():
            plain = prune(there, method, **settings)
            for selector in plain._acting.selectors:
                selector.graphs = None
            for call in calls:
                ours, theirs = answer(there, call, pruning, DEVICE)[0], answer(there, call, plain, DEVICE)[0]
                assert torch.equal(ours, theirs)
            return ours

        first, linear = same_as_afresh(), there.model.multi_modal_projector.linear_1
        recorded = pruning._graphs._recorder.recorded
        linear.weight.mul_(1.5)
        assert not torch.equal(same_as_afresh(), first)
        assert pruning._graphs._recorder.recorded == recorded  # where they lie, the graph reads them
        linear.__dict__.pop("weight", None)
        linear._parameters["weight"] = linear._parameters["weight"] * 2
        same_as_afresh()
        assert pruning._graphs._recorder.recorded == recorded + 1  # the encoder's
        settings["clip"].visual_projection = settings["clip"].visual_projection * -1
        same_as_afresh()
        assert pruning._graphs._recorder.recorded == recorded + 2  # the decision's


def test_a_tower_that_others_hook_runs_as_it_is():
    case, seen = models.LLAVA, []
    with Accelerator():
        there = moved(model(case))
        pruning = recording(prune(there, create("fastervlm", keep=KEEP), accelerate=True))
        for seed in range(CALLS):
            answer(there, inputs(case, seed), pruning, DEVICE)
        handle = there.model.vision_tower.register_forward_hook(lambda *call: seen.append(call))
        for seed in range(CALLS):
            answer(there, inputs(case, seed), pruning, DEVICE)
        handle.remove()
    assert len(seen) == CALLS


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_questions_are_recorded_by_length_and_read_the_same(kind):
    from gridprune.cues.siglip_text import SiglipText

    text = clip_text() if kind == "clip" else SiglipText.from_model(siglip(), tokenizer())
    asked = [" ".join(["red"] * words) for words in range(1, 16)]
    expected = [text.embed(question) for question in asked]
    with Accelerator():
        text.text_model = moved(text.text_model)
        text._graphs = make_believe()
        for _ in range(4):
            text.forget()
            for question, own in zip(asked, expected):
                found = text.embed(question).cpu()
                torch.testing.assert_close(found, own, rtol=0, atol=1e-5)  # padding: other shapes of the products
        lengths = {tuple(text.tokens(text._segments(question))["input_ids"].shape) for question in asked}
    assert text._graphs._recorder.recorded == len(text._graphs) <= len(lengths) < len(asked)


def test_a_question_cut_to_words_is_read_once():
    text = clip_text()
    assert text.embed_words("what is red") is text.embed_words("what is red")
    text.forget()
    assert len(text.embed_words("what is red")) == len("what is red")  # a token for each character
