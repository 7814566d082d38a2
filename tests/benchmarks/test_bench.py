"""`python -m benchmarks`: every part runs on shapes made small, resumes, and turns into tables. No time is asserted."""

from __future__ import annotations

import json
import math
from collections import Counter
from contextlib import ExitStack
from dataclasses import replace

import pytest
import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks import capture, clock, decisions, ends, long, profile, rig, run, shapes, stages
from benchmarks.clock import Journal
from benchmarks.memory import peak_bytes
from benchmarks.plots import PLOTS
from benchmarks.tables import TABLES
from gridprune.bench.clock import Ratio, Timing
from gridprune.errors import SettingError, UnknownNameError
from gridprune.methods.registry import available, create
from scripts import results


@pytest.fixture
def small(monkeypatch):
    """The real shapes with narrow layers."""
    narrow = {"hidden_size": 32, "intermediate_size": 16}
    for config in (shapes._CLIP_L, shapes._VICUNA, shapes._QWEN, shapes._QWEN_VISION):
        for key, value in narrow.items():
            monkeypatch.setitem(config, key, value)
    monkeypatch.setitem(shapes._CLIP_L, "num_attention_heads", 2)
    monkeypatch.setitem(shapes._CLIP_L, "projection_dim", 64)
    monkeypatch.setitem(shapes._VICUNA, "num_attention_heads", 2)
    monkeypatch.setitem(shapes._VICUNA, "num_key_value_heads", 2)
    monkeypatch.setitem(shapes._QWEN_VISION, "num_heads", 2)
    monkeypatch.setitem(shapes._QWEN_VISION, "out_hidden_size", 32)
    monkeypatch.setitem(shapes._QWEN, "num_attention_heads", 4)
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}
    monkeypatch.setitem(shapes._QWEN, "rope_parameters", rope)


KEYS = (
    "ratio_to_native",
    "ratio_to_native_built",
    "extra_outside_modules",
    "speedup",
    "speedup_prefill",
    "speedup_flops",
)
RESEARCH = ("research_over_pruned", "speedup_research")


@pytest.mark.parametrize(("name", "keys"), [("llava-next-7b", (*KEYS, *RESEARCH)), ("qwen2.5-vl-7b", KEYS)])
def test_a_shape_is_measured(small, name, keys):
    shape = replace(shapes.get_shape(name), pairs=2)
    journal = Journal()
    part = stages.measure(shape, 1, lambda message: None, journal)
    assert part["shape"]["visual_tokens"] == shape.tokens
    pairs = {f"{shape.tokens}/{k}" for k in shape.keeps}
    assert all(set(part[key]) == pairs for key in keys)
    assert all(key in keys or key not in part for key in RESEARCH)  # there is no [CLS] row in Qwen's tower
    assert part["pairs"] == len(journal.values[f"pruned {shape.keeps[0]}"]) == 2
    assert len(journal.values["unpruned"]) == 1
    for k in shape.keeps:
        held = part["kv_bytes"][str(k)]
        assert held["measured"] * shape.layers == held["all_layers"] * held["measured_layers"]
    assert min(part["peak_bytes"].values()) > 0

    def again(*call):
        raise AssertionError("everything was measured already")

    del journal.values[f"kv {shape.keeps[0]}"]  # the cache is gone, one of its shape takes its place
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clock, "seconds", again)
        assert stages.measure(shape, 1, lambda message: None, journal) == part


def test_research_code_keeps_the_largest_of_the_cls_row(small):
    """Eager attention, every map kept; and the tower is left as it was."""
    bench = rig.Rig(shapes.get_shape("llava-1.5-7b"))
    calls, seen = ends.variants(bench), []
    bench.family.base.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["inputs_embeds"]), with_kwargs=True
    )
    with torch.no_grad():
        calls["research 64"]()
        bench.family.base.vision_tower.set_attn_implementation("eager")
        output = bench.family.base.get_image_features(**bench.vision, output_attentions=True, return_dict=True)
        bench.family.base.vision_tower.set_attn_implementation("sdpa")
        kept = output.attentions[-2][0, :, 0, 1:].mean(0).topk(64).indices.sort().values
        expected = bench.family.embeddings(output, [bench.map])[0][kept]
    assert torch.equal(seen[0][0, 30 : 30 + 64], expected)


class Kernels(TorchDispatchMode):
    """Counts kernels by name and shapes while `on`."""

    def __init__(self):
        super().__init__()
        self.on, self.seen = False, Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if self.on and function is not torch.ops.aten.detach.default:  # what is read is detached, which costs nothing
            shapes_in = tuple(tuple(a.shape) for a in pytree.tree_leaves(args) if isinstance(a, torch.Tensor))
            self.seen[function.__name__, shapes_in] += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["llava-1.5-7b", "llava-next-7b", "qwen2.5-vl-7b"])
def test_tower_and_layers_do_the_work_of_k_native_tokens(small, name):
    """The same kernels on the same shapes: what pruning costs lies outside, and the bench may read it there."""
    bench = rig.Rig(shapes.get_shape(name))
    k = bench.shape.keeps[-1]
    calls, seen = ends.variants(bench), []
    ends.rows(bench, k)
    blocks = [*bench.inside["layer"], *bench.inside.get("projector", []), *bench.inside["block"]]
    for call in (f"pruned {k}", f"native {k}"):
        with torch.no_grad(), Kernels() as kernels, ExitStack() as undo:
            for block in blocks:
                undo.callback(block.register_forward_pre_hook(lambda *_, k=kernels: setattr(k, "on", True)).remove)
                undo.callback(block.register_forward_hook(lambda *_, k=kernels: setattr(k, "on", False)).remove)
            calls[call]()
        seen.append(kernels.seen)
    assert seen[0] == seen[1]
    assert any("attention" in name for name, _ in seen[0])


def test_a_missing_block_takes_as_long_as_one_of_its_kind(small):
    """Qwen's tower: 28 blocks within windows, 4 over the whole image, one of each is built."""
    bench = rig.Rig(shapes.get_shape("qwen2.5-vl-7b"))
    timing = {
        name: Timing((value,))
        for name, value in {
            **{"call": 100.0, "call/tower": 10.0, "call/block": 1.0, "call/full block": 2.0},
            **{"call/language": 50.0, "call/layer": 3.0},
        }.items()
    }
    assert bench.tower(timing, "call").median == 10 + 27 * 1 + 3 * 2
    assert bench.prefill(timing, "call").median == 50 + 27 * 3
    assert bench.whole(timing, "call").median == 100 + 27 * 1 + 3 * 2 + 27 * 3


def test_interleaving_goes_on_where_it_stopped(monkeypatch):
    monkeypatch.setattr(clock, "LONG", 0.0)  # every call counts
    calls, saved = [], []
    layer = torch.nn.Linear(2, 2)

    def call(name):
        calls.append(name)
        layer(torch.zeros(1, 2))

    variants = {name: (lambda name=name: call(name)) for name in "abc"}
    journal = Journal({"a": [1.0, 1.0], "b": [2.0]}, lambda: saved.append(1))
    timing = clock.interleave(variants, 2, fewer={"c": 1}, inside={"layer": [layer]}, journal=journal)
    assert calls == ["c", "b"]  # the second round goes backwards
    assert len(saved) == 2
    assert timing["a"].seconds == (1.0, 1.0)
    assert set(timing) == {"a", "b", "c", "b/layer", "c/layer"}
    assert not layer._forward_hooks
    assert not layer._forward_pre_hooks


def test_a_part_that_was_cut_off_is_kept(tmp_path, monkeypatch):
    out = tmp_path / "bench.json"

    def cut(shape, rounds, progress, journal):
        journal.add({"unpruned": 1.5})
        raise KeyboardInterrupt

    def finished(shape, rounds, progress, journal):
        assert journal.values == {"unpruned": [1.5]}
        return {**{key: {} for key in KEYS}, "shape": {"visual_tokens": 576}, "decision_share_of_prefill": 0.1}

    monkeypatch.setattr(run.stages, "measure", cut)
    with pytest.raises(KeyboardInterrupt):
        run.bench(("tiny",), rounds=1, quick=True, out=out)
    assert json.loads(out.read_text())["unfinished"] == {"tiny": {"unpruned": [1.5]}}
    monkeypatch.setattr(run.stages, "measure", finished)
    assert "unfinished" not in run.bench(("tiny",), rounds=1, quick=True, out=out)
    assert json.loads(out.read_text())["decision_share_of_prefill"] == {"576": 0.1}


def test_the_share_of_a_long_prompt(small):
    shape = shapes.get_shape("llava-1.5-7b")
    part = long.measure(1, lambda message: None, shape=shape, side=30)
    assert part["shape"]["visual_tokens"] == 900
    stages_seconds = part["stages_seconds"]
    asked = sum(stages_seconds[name][0] for name in ("cues", "decision", "text"))
    assert part["decision_share_of_prefill"] == pytest.approx(asked / part["prefill"], rel=0.01)
    assert part["prefill"] > 20 * stages_seconds["prefill/layer"][0]


def test_parts_are_kept_resumed_and_summed_up(tmp_path, monkeypatch):
    calls = []

    def measured(part, *rest):
        calls.append(part)
        return real(part, *rest)

    real = run._measure
    monkeypatch.setattr(run, "_measure", measured)
    monkeypatch.setitem(shapes.SHAPES, "tiny", replace(shapes.SHAPES["tiny"], pairs=2))
    monkeypatch.setattr(decisions, "available", lambda: ["gridprune", "divprune", "fastv", "evs"])
    out = tmp_path / "results" / "bench.json"
    run.bench(("published",), rounds=1, quick=True, out=out)
    result = run.bench(run.QUICK, rounds=1, quick=True, out=out)
    assert calls == ["published", "decisions", "profile", "capture", "tiny"]
    assert json.loads(out.read_text()) == result
    run.bench(run.QUICK, rounds=1, quick=True, out=out)
    assert len(calls) == 5
    assert set(result["decision_ms"]) == {"576", "2880"}
    assert set(result["ratio_to_native"]) == set(result["speedup"]) == {"576/192", "576/128", "576/64"}
    assert set(result["capture_overhead"]) == {"embedded CLIP, 192 px"}
    assert 0 < result["decision_share_of_prefill"]["576"] < 1
    assert all(row["equal"] for row in result["parts"]["published"].values())
    assert "stage" in result["parts"]["decisions"]["fastv"]["skipped"]
    assert "videos" in result["parts"]["decisions"]["evs"]["skipped"]
    with pytest.raises(SettingError, match="another kind"):
        run.bench(("capture",), out=out)
    again = run.bench(("published",), rounds=1, quick=True, out=out, fresh=True)
    assert len(calls) == 6
    assert set(again["parts"]) == set(result["parts"])  # the others stay
    with pytest.raises(UnknownNameError, match="llava-next-7b"):
        run.bench(("everything",))

    (tmp_path / "docs").mkdir()
    specs = [f"bench/{name}" for name in (*TABLES, *PLOTS)]
    blocks = [f"<!-- results:{spec} -->\n<!-- /results:{spec} -->" for spec in specs]
    (tmp_path / "docs" / "speed.md").write_text("\n".join(blocks) + "\n")
    assert results.write(tmp_path)
    assert results.check(tmp_path) == []
    assert "| `gridprune` |" in (tmp_path / "docs" / "speed.md").read_text()
    out.write_text(json.dumps({**again, "rounds": 9}))
    assert results.check(tmp_path) == [f"docs/images/bench-{plot}.png is stale" for plot in PLOTS]


def test_blocks_say_that_nothing_was_measured(tmp_path):
    (tmp_path / "docs").mkdir()
    page = tmp_path / "docs" / "speed.md"
    page.write_text("".join(f"<!-- results:bench/{n} -->\n<!-- /results:bench/{n} -->\n" for n in (*TABLES, *PLOTS)))
    assert len(results.check(tmp_path)) == len(TABLES) + len(PLOTS)
    results.write(tmp_path)
    assert page.read_text().count("Not measured yet") == len(TABLES) + len(PLOTS)
    assert results.check(tmp_path) == []


def test_a_method_that_would_take_too_long_is_cut_off():
    found = decisions.every_method((64, 128, 4096), 1, 1e-9, lambda message: None, ["divprune"])["divprune"]
    assert set(found["ms"]) == {"64"}
    assert "more than" in found["stopped"]


def test_a_larger_cap_goes_on_with_the_sizes_left_out():
    held = decisions.every_method((64, 128), 1, 1e-9, lambda message: None, ["divprune"])
    assert decisions.unfinished({**{key: {} for key in available()}, **held}, cap=1.0)
    assert not decisions.unfinished({**{key: {} for key in available()}, **held}, cap=1e-9)
    first = held["divprune"]["ms"]["64"]
    saved = []
    decisions.every_method(
        (64, 128), 1, 1.0, lambda message: None, ["divprune"], held=held, save=lambda: saved.append(1)
    )
    assert set(held["divprune"]["ms"]) == set(held["divprune"]["bytes"]) == {"64", "128"}
    assert held["divprune"]["ms"]["64"] == first
    assert "stopped" not in held["divprune"]
    assert saved == [1]


def test_every_method_has_its_cues_in_the_bench():
    cues, token_map = decisions.random_cues(36, width=16)
    for name in available():
        method = create(name)
        if not decisions._no_decision(method):
            assert method.select(cues, token_map, method.count(cues, token_map)).indices.shape[0] == 1


@pytest.mark.parametrize("name", ["divprune", "cdpruner"])
def test_published_procedures_choose_what_ours_choose(name):
    for n in (36, 144):
        cues, token_map = decisions.random_cues(n, width=64)
        k = n // 4
        ours = create(name).select(cues, token_map, k).indices[0]
        assert torch.equal(ours, decisions.PUBLISHED[name](cues, k))


def test_profile_counts_kernels_by_kind_and_no_views():
    x = torch.rand(8, 8)
    with profile.Kernels() as kernels:
        (x @ x).view(-1).sort().values[:3].add_(1)
    assert kernels.calls == {"products": 1, "sorts": 1, "other kernels": 1}
    assert all(seconds > 0 for seconds in kernels.seconds.values())


def test_profile_has_every_procedure():
    found = profile.profiles((36,), lambda message: None)
    names = [f"{name}, {which}/36" for name in decisions.PUBLISHED for which in ("published", "here")]
    assert list(found["rows"]) == ["gridprune/36", *names]
    assert found["rows"]["gridprune/36"]["kinds"]["products"] == 0
    assert found["rows"]["divprune, published/36"]["kinds"]["products"] > 0
    assert found["cheapest_us"] > 0


def test_capture_of_every_kind_of_tower(small, monkeypatch):
    monkeypatch.setattr(capture, "_LARGE", {"qwen": capture._qwen, **capture._SMALL})
    found = capture.overheads(1, lambda message: None)
    assert found["qwen"]["blocks"] == 32
    assert found["embedded CLIP, 192 px"]["blocks_built"] == 6


def test_memory_counts_what_is_alive_at_once():
    x = torch.zeros(1000)

    def work():
        a = x + 1  # 4000 bytes
        b = a.view(10, 100).T  # none
        del a
        c = b + 1  # 4000 more
        del b
        return (c + 1) + x.view(100, 10)  # again; the first are gone

    assert peak_bytes(lambda: x.view(10, 100)) == 0
    assert peak_bytes(work) == 12000


def test_exponents_and_ratios():
    assert decisions._slope([(10, 1.0), (100, 100.0), (1000, 10000.0)]) == pytest.approx(2)
    assert math.isnan(decisions._slope([(10, 1.0)]))
    assert Ratio.of(Timing((2.0, 6.0, 4.0)), Timing((1.0, 2.0, 1.0))).to_list() == [3.0, 2.0, 4.0]
