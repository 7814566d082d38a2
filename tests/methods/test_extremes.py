"""Settings and cues at the ends of fp32: the right tokens, or an error that says what happened."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import ClassVar

import inputs
import numpy as np
import pytest
import reference
import torch
from torch import Tensor

from gridprune.core.token_map import TokenMap
from gridprune.errors import MissingCueError, SelectionError
from gridprune.methods import Cues, Merge, Method, Selection, create, get
from gridprune.methods.checks import checked_select
from gridprune.methods.registry import BUILT_IN

GRID, CLIP = TokenMap.from_grid(5, 6), inputs.video()
METHODS = [create(n) for n in sorted(BUILT_IN) if get(n).stage == "pre-llm" and n != "keep-all"]
METHODS += [create("cdpruner", theta=theta) for theta in (0.989, 0.999999)]
SIZES = (0.0, 1e-44, 1e-30, 1e12, 3e38)
LABEL = {"ids": lambda method: f"{method.name}-{getattr(method, 'theta', None) or ''}"}


def one_apart(x: Tensor) -> Tensor:
    alike = torch.ones_like(x)
    alike[..., 1] = 0
    return alike


def extremes(method: Method, n: int) -> Iterator[tuple[float, Cues]]:
    """Cues of one image at every scale that fp32 knows: as they are, all values alike, all but some alike."""
    ordinary = inputs.cues("random", 1, n)
    read = {name: ordinary.require(name) for name in method.needs}
    for size, shape in itertools.product(SIZES, (lambda x: x / x.abs().max(), torch.ones_like, one_apart)):
        cues = {name: shape(value) * size for name, value in read.items() if value.is_floating_point()}
        at = {depth: shape(ordinary.saliency_at[depth]) * size for depth in method.saliency_depths}
        yield from ((size, replace(ordinary, **{name: value})) for name, value in cues.items())
        yield size, replace(ordinary, **cues, saliency_at=ordinary.saliency_at | at)


@pytest.mark.parametrize("method", METHODS, **LABEL)
def test_extreme_cues_give_k_different_tokens_or_a_clear_error(method: Method) -> None:
    token_map = CLIP if method.min_frames > 1 else GRID
    n, k = len(token_map), len(token_map) // 2
    for size, cues in extremes(method, n):
        try:
            selection = checked_select(method, cues, token_map, k)
        except SelectionError:
            if size < 1e30:  # products of such numbers are infinite
                raise
            continue
        kept = selection.indices[0].tolist()
        assert kept == sorted(set(kept))
        assert len(kept) == k
        assert 0 <= kept[0] <= kept[-1] < n
        if selection.merge is not None:
            assert bool(selection.merge.apply(torch.ones(1, n, 2), k).isfinite().all())


@pytest.mark.parametrize("theta", [0.95, 0.98, 0.989, 0.999, 0.999999])
def test_cdpruner_near_the_end_of_its_balance(theta: float) -> None:
    """q = exp(a r) spans up to exp(500,000): against logarithms of exact determinants."""
    for seed in range(3):
        cues = inputs.cues("random", 1, 30, seed)
        r = reference.rows(cues.require("relevance")[0])
        weight = theta / (1 - theta) * (r - r.min()) / (r.max() - r.min())
        similar = reference.cosines(cues.require("features")[0])
        kept: list[int] = []
        for _ in range(8):
            gain = {}
            for i in set(range(30)) - set(kept):
                ratio = np.linalg.slogdet(similar[np.ix_([*kept, i], [*kept, i])])[1]
                gain[i] = ratio + weight[i]  # the other factors are the same for every i
            kept.append(max(gain, key=lambda i: gain[i]))
        found = checked_select(create("cdpruner", theta=theta), cues, GRID, 8)
        assert found.indices[0].tolist() == sorted(kept)


@pytest.mark.parametrize("method", [m for m in METHODS if m.saliency_depths], **LABEL)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_saliency_at_a_depth_must_be_finite(method: Method, bad: float) -> None:
    cues = inputs.cues("random", 2, 30)
    (depth,) = method.saliency_depths
    cues.saliency_at[depth][1, 7] = bad
    with pytest.raises(MissingCueError, match=f"saliency_at.*{depth:.3}.*NaN or infinite"):
        checked_select(method, cues, GRID, 9)


class Wrong(Method):
    """Gives what it is told to."""

    name: ClassVar[str] = "wrong"
    indices: ClassVar[Tensor]
    merge: ClassVar[Merge | None] = None

    def select(self, cues: Cues, token_map: TokenMap, k: int) -> Selection:
        return Selection(self.indices, merge=self.merge)


@pytest.mark.parametrize(
    "indices",
    [[[0, 3, 3]], [[0, 4, 3]], [[-1, 3, 4]], [[0, 3, 30]], [[0, 3]], [[0, 3, 4, 5]], [[0, 3, 4]] * 2, [[0.0, 3, 4]]],
    ids=["twice", "unsorted", "negative", "beyond", "few", "many", "batch", "float"],
)
def test_anything_but_k_ascending_tokens_is_refused(indices: list[list[float]], monkeypatch) -> None:
    monkeypatch.setattr(Wrong, "indices", torch.tensor(indices), raising=False)
    with pytest.raises(SelectionError, match="wrong was to choose 3 different ones of 30"):
        checked_select(Wrong(keep=3), Cues(images=1), GRID, 3)


def test_weights_that_are_not_numbers_are_refused(monkeypatch) -> None:
    monkeypatch.setattr(Wrong, "indices", torch.tensor([[0, 3, 4]]), raising=False)
    weight = torch.ones(1, 30)
    monkeypatch.setattr(Wrong, "merge", Merge(torch.zeros(1, 30, dtype=torch.int64), weight))
    assert checked_select(Wrong(keep=3), Cues(images=1), GRID).kept.tolist() == [[0, 3, 4]]
    weight[0, 5] = math.nan
    with pytest.raises(SelectionError, match="weights"):
        checked_select(Wrong(keep=3), Cues(images=1), GRID)


def nearly_alike(n: int) -> Cues:
    """Random cues whose vectors all point almost the same way: bf16 cannot tell their cosines apart."""
    cues = inputs.cues("random", 1, n, width=64)
    vectors = {name: cues.require(name) for name in ("features", "tower_features", "keys", "question_embeds")}
    return replace(cues, **{name: value * 0.1 + value[:, :1] for name, value in vectors.items()})


@pytest.mark.parametrize("method", METHODS, **LABEL)
def test_autocast_changes_no_decision(method: Method) -> None:
    token_map = TokenMap.from_grid(4, 4, frames=8) if method.min_frames > 1 else TokenMap.from_grid(12, 12)
    cues = nearly_alike(len(token_map))
    expected = checked_select(method, cues, token_map)
    with torch.autocast("cpu", torch.bfloat16):
        found = checked_select(method, cues, token_map)
    assert torch.equal(found.indices, expected.indices)
    if expected.merge is not None and found.merge is not None:
        assert torch.equal(found.merge.weight, expected.merge.weight)
        assert torch.equal(found.merge.group, expected.merge.group)
