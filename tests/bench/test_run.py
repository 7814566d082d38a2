"""What is measured, and what follows from the samples: numbers by hand, and calls counted on a make-believe device."""

from __future__ import annotations

import functools
import io
from unittest.mock import patch

import pytest
import torch
from rich.console import Console

from accelerator import DEVICE, Accelerator
from gridprune import prune
from gridprune.bench import calls, run, show
from gridprune.bench.calls import Call
from gridprune.bench.clock import Sample
from gridprune.errors import SettingError, UnknownNameError
from gridprune.methods import create
from hf import models
from hf.kit import model, shuffled
from hf.test_cues import clip_text
from hf.test_devices import moved
from hf.test_host_cost import counted

CPU = torch.device("cpu")


def row_of(case):
    return [*shuffled(1), case.image(0), *shuffled(2)]


# -- calls -----------------------------------------------------------------------------------------------------------


CASES = (models.LLAVA, models.LLAVA_NEXT, models.QWEN2_5_VL, models.QWEN3_VL, models.GEMMA3, models.IDEFICS3)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_native_call_is_the_pruned_one_without_deciding(case):
    """Every row of a batch; to the last bit, at the first use and at later ones."""
    net = model(case)
    inputs = calls.repeated(case.call(row_of(case)), 2)
    assert inputs.keys() == case.call(row_of(case), row_of(case)).keys()
    assert all(torch.equal(given, inputs[name]) for name, given in case.call(row_of(case), row_of(case)).items())
    pruning, short = prune(net, create("uniform", keep=3)), {}
    with torch.no_grad():
        expected = calls.first_token(net, inputs, pruning).logits[:, -1]
        for _ in range(2):
            found = calls.native(pruning, inputs, short)
            assert torch.equal(found.logits[:, -1], expected)
    assert len(pruning.reports) == 4  # two rows each of the pruned call, and of the one that the first native one made
    assert found.past_key_values.get_seq_length() == short["input_ids"].shape[1]


def guided(net, questions):
    return prune(net, create("gridprune", keep=4), question=questions, clip=clip_text())


def test_a_new_question_is_read_for_every_row_and_a_cached_one_for_none():
    net, asked = model(models.LLAVA), []
    inputs = calls.repeated(models.LLAVA.call(row_of(models.LLAVA)), 3)
    pruning = guided(net, [f"what is red {row}" for row in range(3)])
    plain = prune(net, create("random", keep=4))
    found = [*calls.pruned({"gridprune": pruning, "random": plain}, pruning, inputs, 4)]
    assert [(call.what, call.method, call.question) for call in found] == [
        ("native", None, None),
        ("pruned", "gridprune", "new"),
        ("pruned", "gridprune", "cached"),
        ("pruned", "random", None),
    ]
    own = pruning.text.clip.embed_segments
    with patch.object(pruning.text.clip, "embed_segments", lambda parts: asked.append(parts) or own(parts)):
        seen = []
        for call in (found[1], found[2], found[1], found[0]):
            with torch.no_grad():
                call.run()
            seen.append(len(asked))
    assert seen == [3, 3, 6, 6]  # one text pass a row, none, one a row again, none


def test_what_is_timed_launches_no_more_than_it_says():
    """On a device: the unpruned call is the stock model's, the native one tower and language model, nothing more."""
    net = model(models.LLAVA)
    with Accelerator(), torch.no_grad():
        there = moved(net)
        inputs = {name: value.to(DEVICE) for name, value in models.LLAVA.call(row_of(models.LLAVA)).items()}
        pruning = guided(there, "what is red")
        pruning.text.clip.text_model = moved(pruning.text.clip.text_model)
        family = pruning.family
        stock = counted(functools.partial(there, **inputs, use_cache=True, logits_to_keep=1))
        plain, tower = (counted(call.run) for call in calls.unpruned(there, family, inputs))
        native, new, cached = (counted(call.run) for call in calls.pruned({"gridprune": pruning}, pruning, inputs, 4))
        short = calls.shortened(pruning, inputs)
        language = counted(functools.partial(there, **short, use_cache=True, logits_to_keep=1))
    assert (plain.launches, plain.reads) == (stock.launches, stock.reads)
    assert native.launches == tower.launches + language.launches
    assert native.reads == tower.reads + language.reads
    assert native.launches < cached.launches < new.launches


# -- what the samples say --------------------------------------------------------------------------------------------


class Script:
    """Calls that take the seconds that are written down, or find no memory."""

    def __init__(self, **seconds):
        self.seconds = {name: iter(values) for name, values in seconds.items()}
        self.ran = []

    def call(self, name, what, **named):
        return Call(what, functools.partial(self.ran.append, name), **named)

    def measured(self, run, device):
        run()
        return Sample(next(self.seconds[self.ran[-1]]))


def test_rows_by_hand(monkeypatch):
    script = Script(
        stock=[8.0, 12.0], tower=[1.0, 1.0], native=[2.0, 4.0], ours=[4.0, 5.0],
        one=[9.0, 13.0], many=[15.0, 21.0], short=[5.0, 6.0], long=[8.0, 12.0],
    )  # fmt: skip
    monkeypatch.setattr(run, "measured", script.measured)
    held = {"keep": 64, "method": "gridprune"}

    def no_memory():
        raise torch.OutOfMemoryError("CUDA out of memory")

    found = [
        script.call("stock", "unpruned"),
        script.call("tower", "tower"),
        script.call("one", "answer", tokens=1),
        script.call("many", "answer", tokens=4),
        script.call("native", "native", keep=64),
        script.call("ours", "pruned", question="cached", **held),
        Call("pruned", no_memory, keep=64, method="random"),
        script.call("short", "answer", tokens=1, static=True, **held),
        script.call("long", "answer", tokens=4, static=True, **held),
    ]
    told = []
    samples = run.timed(found, 2, CPU, told.append)
    order = ["stock", "tower", "one", "many", "native", "ours", "short", "long"]
    assert script.ran == [*order, *order, *reversed(order)]  # a call each to warm up, then there and back
    assert told[6] == "random 64, warming up"
    rows = run.rows(samples, 576)
    assert [(row["call"], row["method"], row["fits"]) for row in rows] == [
        ("unpruned", None, True),
        ("tower", None, True),
        ("native", None, True),
        ("pruned", "gridprune", True),
        ("pruned", "random", False),
    ]
    stock, tower, native, ours, random = rows
    assert stock["seconds"] == [10.0, 8.0, 12.0]
    assert stock["token_seconds"] == [2.333, 2.0, 2.667]  # (15 - 9) / 3 and (21 - 13) / 3
    assert stock["answer_seconds"] == [18.0, 15.0, 21.0]
    assert stock["faster"] is tower["faster"] is native["over_native"] is None
    assert native["faster"] == [3.5, 3.0, 4.0]
    assert ours["faster"] == [2.2, 2.0, 2.4]
    assert ours["over_native"] == [1.625, 1.25, 2.0]
    assert "token_seconds" not in ours
    assert ours["static_token_seconds"] == [1.5, 1.0, 2.0]
    assert random["seconds"] is random["faster"] is random["over_native"] is None
    assert all(row["peak_bytes"] is row["launch_share"] is None for row in rows)  # a CPU does not tell
    assert not any(map(run.waits, rows))


@pytest.mark.parametrize(("room", "most"), [(0, 0), (1, 1), (2, 2), (7, 7), (100, 96), (1000, 960), (10**9, 4096)])
def test_the_largest_batch_to_an_eighth(room, most):
    tried = []
    found = run.largest(lambda batch: tried.append(batch) or batch <= room)
    assert found == most
    assert len(tried) == len(set(tried)) <= 15


def test_memory_that_is_not_enough_is_given_back(monkeypatch):
    emptied = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(1))

    def full():
        raise torch.OutOfMemoryError("CUDA out of memory")

    assert not run.fits(full)
    assert emptied == [1]
    assert run.fits(lambda: None)
    with pytest.raises(ZeroDivisionError):
        run.fits(lambda: 1 / 0)


# -- in words --------------------------------------------------------------------------------------------------------


def on_a_gpu(share):
    sample = [Sample(0.0558, 0.0557, share * 0.0557, 430 * 2**20)]
    held = {"keep": 64, "method": "relevance-weighted(fastervlm, power=2)"}
    samples = {
        Call("unpruned", print): sample,
        Call("native", print, 64): [Sample(0.0279, 0.0279, 0.01, 100 * 2**20)],
        Call("pruned", print, question="new", **held): [Sample(0.0372, 0.0372, 0.03, 110 * 2**20)],
        Call("pruned", print, question="cached", **held): [],
        **{
            Call("answer", print, tokens=tokens, static=static): [Sample(tokens / 40)]
            for tokens in (1, 16)
            for static in (False, True)
        },
    }
    return {
        "model": "llava-hf/llava-1.5-7b-hf", "visual_tokens": 576, "text_tokens": 38, "dtype": "bfloat16",
        "attention": {"language": "sdpa", "vision": "sdpa"}, "rounds": 1, "largest_batch": {"all": 40, "64": 210},
        "machine": {"accelerator": "NVIDIA H100 80GB HBM3", "processor": "", "threads": 16},
        "calls": [{"batch": 8, **row} for row in run.rows(samples, 576)],
    }  # fmt: skip


def shown(found):
    console = Console(width=80, file=io.StringIO())
    show.table(found, console)
    return console.file.getvalue()


def test_the_table_fits_into_80_columns_and_says_who_waited():
    text = shown(on_a_gpu(0.98))
    assert max(map(len, text.splitlines())) <= 80
    lines = {line.split()[0]: line.split() for line in text.splitlines() if line.strip()}
    assert lines["unpruned"] == ["unpruned", "576", "55.8", "25.0", "25.0", "430", "98", "%"]
    assert lines["native"][-4:] == ["2.00", "100", "36", "%"]
    assert "OOM" in text
    assert "Batch 8: without pruning the GPU waits for the host" in text
    assert "all visual tokens 40, 64 visual tokens 210" in " ".join(text.split())
    assert "waits" not in shown(on_a_gpu(0.5))


def test_the_table_says_what_is_lost_in_noise():
    found = on_a_gpu(0.5)
    assert "rough" not in shown(found)
    found["calls"][0] |= {"seconds": [0.1, 0.09, 0.12], "token_seconds": [-0.001, -0.002, 0.003]}
    text = shown(found)
    assert "unpruned 576 100.0 ?" in " ".join(text.split())
    assert "Batch 8: rough, half of the unpruned calls took 90 to 120 ms." in " ".join(text.split())


def test_what_cannot_be_measured_is_refused():
    for text in ("", "random,random", "evs"):
        with pytest.raises(SettingError):
            run.parse_methods(text)
    with pytest.raises(UnknownNameError, match="gridprune"):
        run.parse_methods("gridprun")
    assert [spec.label for spec in run.parse_methods("gridprune(zone=2, alpha=0), random")] == [
        "gridprune(zone=2, alpha=0)",
        "random",
    ]
    assert run.parse_batches("1, 8,32") == [1, 8, 32]
    for text in ("", "0", "1,1", "-1", "two", "1.5"):
        with pytest.raises(SettingError, match="--batch"):
            run.parse_batches(text)
