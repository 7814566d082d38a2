"""What every registered method that acts before the language model must hold to."""

from __future__ import annotations

from dataclasses import replace

import inputs
import pytest
import torch

from gridprune.core.token_map import TokenMap
from gridprune.errors import MissingCueError, UnsupportedCallError
from gridprune.methods import Cues, Method, create, get
from gridprune.methods.checks import checked_select
from gridprune.methods.registry import BUILT_IN, difference
from rounding import assert_same

NAMES = sorted(n for n in BUILT_IN if get(n).stage == "pre-llm" and n != "keep-all")
MAPS = {"grid": TokenMap.from_grid(5, 6), "anyres": inputs.anyres(), "holes": inputs.holes(), "video": inputs.video()}


def maps_for(method: Method) -> list[TokenMap]:
    return [m for name, m in MAPS.items() if method.min_frames == 1 or name == "video"]


def only_declared(method: Method, cues: Cues) -> Cues:
    kept = {name: cues.require(name) for name in method.needs}
    saliency_at = {depth: cues.saliency_at[depth] for depth in method.saliency_depths}
    return Cues(**kept, saliency_at=saliency_at, heads=cues.heads, images=cues.batch)


@pytest.mark.parametrize("kind", inputs.KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_exact_ascending_unique(name: str, kind: str) -> None:
    method = create(name)
    for seed, token_map in enumerate(maps_for(method)):
        n = len(token_map)
        cues = only_declared(method, inputs.cues(kind, 2, n, seed))
        for k in {1, 2, 3, 11, n // 2, n - 1, n}:
            selection = checked_select(method, cues, token_map, k)
            indices = selection.indices
            assert indices.shape == (2, k)
            assert indices.dtype == torch.int64
            assert bool((indices.diff(dim=1) > 0).all())
            assert int(indices.min()) >= 0
            assert int(indices.max()) < n
            assert (selection.merge is not None) == method.merges
            if selection.merge is not None:
                assert selection.merge.space == method.merge_space
                merged = selection.merge.apply(torch.randn(2, n, 4), k)
                assert merged.shape == (2, k, 4)
                assert bool(merged.isfinite().all())


@pytest.mark.parametrize("name", NAMES)
def test_a_row_of_a_batch_is_the_image_alone(name: str) -> None:
    method = create(name)
    for kind in ("random", "duplicates"):
        token_map = maps_for(method)[0]
        n = len(token_map)
        cues = inputs.cues(kind, 3, n, seed=7)
        for k in (1, 8, n - 1):
            together = method.select(cues, token_map, k)
            again = method.select(cues, token_map, k)
            assert torch.equal(together.indices, again.indices)
            for image in range(3):
                alone = method.select(cues.image(image), token_map, k)
                assert torch.equal(alone.indices[0], together.indices[image])
                if together.merge is not None and alone.merge is not None:
                    x = torch.randn(3, n, 4, generator=torch.Generator().manual_seed(0))
                    a, b = alone.merge.apply(x[image : image + 1], k)[0], together.merge.apply(x, k)[image]
                    assert_same(a, b, terms=n, depth=2)  # weights, then sums of tokens


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_cue_is_named(name: str) -> None:
    method = create(name)
    token_map = maps_for(method)[0]
    cues = only_declared(method, inputs.cues("random", 1, len(token_map)))
    for need in method.needs:
        with pytest.raises(MissingCueError, match=need):
            checked_select(method, replace(cues, **{need: None}), token_map, 3)
    if method.saliency_depths:
        with pytest.raises(MissingCueError, match="depth"):
            checked_select(method, replace(cues, saliency_at={}), token_map, 3)
        with pytest.raises(MissingCueError, match="depth"):
            method.select(replace(cues, saliency_at={}), token_map, 3)


@pytest.mark.parametrize("name", NAMES)
def test_declarations(name: str) -> None:
    method = create(name)
    assert method.name == name
    assert type(method).__doc__
    assert method.cost
    assert method.explain()["keep"] == method.keep
    assert method.needs <= set(Cues.__dataclass_fields__)
    token_map = maps_for(method)[0]
    cues = inputs.cues("random", 1, len(token_map))
    k = method.count(cues, token_map)
    assert 1 <= k <= len(token_map)
    if method.fixed_count:
        assert k == method.budget.resolve(len(token_map))
    else:
        with pytest.raises(UnsupportedCallError, match="one image"):
            method.count(inputs.cues("random", 2, len(token_map)), token_map)


@pytest.mark.parametrize("name", NAMES)
def test_decides_where_the_cues_lie(name: str) -> None:
    """Tensors without memory stand for an accelerator: mixing devices fails, and so does asking for a value."""
    method = create(name)
    if method.reads_values:
        cues = inputs.cues("random", 2, 30)
        away = {cue: value.to("meta") for cue, value in cues.tensors().items()}
        with pytest.raises((RuntimeError, NotImplementedError), match=r"(?i)meta"):
            method.select(replace(cues, **away), MAPS["grid"], 11)
        return
    for token_map in maps_for(method)[:2]:
        cues = inputs.cues("random", 2, len(token_map))
        away = {cue: value.to("meta") for cue, value in cues.tensors().items()}
        at = {depth: value.to("meta") for depth, value in cues.saliency_at.items()}
        selection = method.select(replace(cues, saliency_at=at, **away), token_map, 11)
        assert selection.indices.device.type == "meta"
        assert selection.merge is None or selection.merge.group.device.type == "meta"


def test_a_graph_holds_a_fixed_list_of_kernels() -> None:
    safe = {name for name in BUILT_IN if create(name).graph_safe}
    assert {"gridprune", "divprune", "cdpruner", "fastervlm", "uniform", "per-view"} <= safe
    assert not safe & {
        "scope",
        "eadp",
        "prumerge",
        "trim-iqr",
        "fastv",
    }  # read values, count, act elsewhere
    assert not create("per-view", base=create("scope")).graph_safe


@pytest.mark.parametrize("name", [n for n in BUILT_IN if get(n).paper])
def test_a_method_with_a_paper_says_where_it_departs_from_it(name: str) -> None:
    text = difference(get(name))
    assert len(text) > 60
    assert text.endswith(".")
    assert ":class:" not in text


def test_frames_are_asked_for() -> None:
    with pytest.raises(UnsupportedCallError, match="at least 2, got 1"):
        checked_select(create("evs"), inputs.cues("random", 1, 30), MAPS["grid"], 5)


def test_evs_keeps_the_first_frame_whole() -> None:
    selection = create("evs").select(inputs.cues("random", 1, 36), MAPS["video"], 15)
    assert selection.indices[0, :12].tolist() == list(range(12))
