"""`gridprune bench`: every part runs on shapes made small, resumes, and turns into tables. No time is asserted."""

from __future__ import annotations

import json
import math

import pytest
import torch

from gridprune.bench import results
from gridprune.errors import SettingError, UnknownNameError
from gridprune.methods.registry import available, create
from gridprune.speed import capture, decisions, run, shapes, stages
from gridprune.speed.clock import Ratio, Timing
from gridprune.speed.flops import kv_bytes, prefill_flops
from gridprune.speed.memory import peak_bytes
from gridprune.speed.plots import PLOTS
from gridprune.speed.tables import TABLES


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


@pytest.mark.parametrize("name", ["llava-next-7b", "qwen2.5-vl-7b"])
def test_a_shape_is_measured(small, name):
    shape = shapes.get_shape(name)
    part = stages.measure(shape, 1, lambda message: None)
    assert part["shape"]["visual_tokens"] == shape.tokens
    pairs = {f"{shape.tokens}/{k}" for k in shape.keeps}
    for key in ("ratio_to_native", "speedup", "speedup_prefill", "speedup_flops", "speedup_built"):
        assert set(part[key]) == pairs
    for k in shape.keeps:
        held = part["kv_bytes"][str(k)]
        assert held["measured"] * shape.layers == held["all_layers"] * held["measured_layers"]
    json.dumps(part)


def test_parts_are_kept_resumed_and_summed_up(tmp_path, monkeypatch):
    calls = []

    def measured(part, *rest):
        calls.append(part)
        return real(part, *rest)

    real = run._measure
    monkeypatch.setattr(run, "_measure", measured)
    monkeypatch.setattr(decisions, "available", lambda: ["gridprune", "divprune", "fastv", "evs"])
    out = tmp_path / "results" / "bench.json"
    run.bench(("published",), rounds=1, quick=True, out=out)
    result = run.bench(run.QUICK, rounds=1, quick=True, out=out)
    assert calls == ["published", "decisions", "capture", "tiny"]
    assert json.loads(out.read_text()) == result
    run.bench(run.QUICK, rounds=1, quick=True, out=out)
    assert len(calls) == 4
    assert set(result["decision_ms"]) == {"576", "2880"}
    assert set(result["ratio_to_native"]) == set(result["speedup"]) == {"576/192", "576/128", "576/64"}
    assert set(result["capture_overhead"]) == {"embedded CLIP, 192 px"}
    assert 0 < result["decision_share_of_prefill"]["576"] < 1
    assert all(row["equal"] for row in result["parts"]["published"].values())
    assert "stage" in result["parts"]["decisions"]["fastv"]["skipped"]
    assert "clips" in result["parts"]["decisions"]["evs"]["skipped"]
    with pytest.raises(SettingError, match="another kind"):
        run.bench(("capture",), out=out)
    with pytest.raises(UnknownNameError, match="llava-next-7b"):
        run.bench(("everything",))

    (tmp_path / "docs").mkdir()
    specs = [f"bench/{name}" for name in (*TABLES, *PLOTS)]
    blocks = [f"<!-- results:{spec} -->\n<!-- /results:{spec} -->" for spec in specs]
    (tmp_path / "docs" / "speed.md").write_text("\n".join(blocks) + "\n")
    assert results.write(tmp_path)
    assert results.check(tmp_path) == []
    assert "| `gridprune` |" in (tmp_path / "docs" / "speed.md").read_text()
    out.write_text(json.dumps({**result, "rounds": 9}))
    assert results.check(tmp_path) == ["docs/images/bench-speed-growth-plot.png is stale"]


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
        assert torch.equal(ours, decisions._PUBLISHED[name](cues, k))


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


def test_flops_and_kv_of_a_known_model():
    config = shapes.get_shape("tiny").make(1, 1).config.text_config
    width, inner = 192, 512
    by_hand = 10 * (2 * 4 * width * width + 2 * 3 * width * inner) + 4 * 10 * 10 * width
    assert prefill_flops(config, 10) == by_hand
    assert kv_bytes(config, 10, 4) == 2 * width * 10 * 4
