"""GridPrune against the independent loop-written method, field by field, over single and multi-view maps."""

import random
from dataclasses import replace

import pytest
import torch

from gridprune.core.scores import deviation
from gridprune.core.token_map import TokenMap
from gridprune.errors import BudgetError, SettingError
from gridprune.methods import Cues
from gridprune.methods.checks import checked_select
from gridprune.methods.gridprune import GridPrune, LiteralGridPrune

from . import reference
from .maps import anyres, listed

READING = {1: "plus", -1: "minus"}
MAPS = [
    TokenMap.from_grid(6, 6),
    TokenMap.from_grid(5, 7),
    TokenMap.from_grid(1, 9),
    anyres((4, 4), (2, 2), (4, 4)),
    anyres((3, 4), (1, 2), (4, 3), crop=(1, 0)),
    anyres((3, 3), (2, 3), (3, 4), crop=(2, 3), newlines=True).candidates,
    anyres((2, 2), (1, 1), (5, 2)),
]


def random_cues(rng, token_map, sign):
    """Cues that are exact in binary: scores and zone means have no rounding, ties are frequent and real."""
    n, tokens = len(token_map), listed(token_map)
    coarse = rng.choice([4, 64, 256])
    relevance = [rng.randint(-coarse, coarse) / coarse for _ in range(n)]
    if rng.random() < 0.1:
        relevance = [0.25] * n
    saliency = [rng.randrange(65) / 64 for _ in range(n)]
    for view in {t[1] for t in tokens}:  # every view spans exactly 0 to 1, so that min-max divides by one
        inside = [i for i, t in enumerate(tokens) if t[1] == view]
        if len(inside) > 1:
            low, high = rng.sample(inside, 2)
            saliency[low], saliency[high] = 0.0, 1.0
    if rng.random() < 0.1:
        saliency = [0.5] * n
    cues = Cues(relevance=torch.tensor([relevance]), reading=READING[sign], saliency=torch.tensor([saliency]))
    return cues, relevance, saliency


def fitting_minimum(method, token_map, k):
    if method.scope == "image":
        return k // token_map.zones(method.zone).count
    zones = token_map.zones(method.zone, within="view").sheets.sizes
    return min(part // count for part, count in zip(reference.equal_parts(k, token_map.groups("view").sizes), zones))


def compare(method, cues, relevance, saliency, token_map, k):
    selection = checked_select(method, cues, token_map, k)
    reading = cues.reading if method.reading == "tower" else method.reading
    printed = isinstance(method, LiteralGridPrune)
    scale = 1 if printed else deviation(cues.relevance).item()
    kept, budget, scores = reference.gridprune(
        listed(token_map),
        relevance,
        saliency,
        k,
        sign={"plus": 1, "minus": -1}[reading],
        zone=method.zone,
        guide="mean" if printed else "mass",
        temperature=method.temperature * scale,
        alpha=method.alpha,
        minimum=method.minimum,
        scope=method.scope,
    )
    assert selection.budgets[0].tolist() == budget
    assert sum(budget) == k
    assert all(b <= s for b, s in zip(budget, selection.zones.sizes))
    got = selection.scores[0].tolist()
    assert got == [float(s) for s in scores]
    assert selection.indices.dtype == torch.int64
    assert selection.indices[0].tolist() == kept
    assert len(kept) == k


def test_every_field_equals_the_reference():
    rng = random.Random(8)
    for _ in range(600):
        token_map = rng.choice(MAPS)
        sign = rng.choice([1, -1])
        cues, relevance, saliency = random_cues(rng, token_map, sign)
        method = rng.choice([GridPrune, LiteralGridPrune])(
            zone=rng.choice([1, 2, 2, 3, 5, 20]),
            temperature=rng.choice([0.01, 0.05, 0.5, 1.0, 100.0]),
            alpha=rng.choice([0.0, 0.25, 0.5, 0.75, 1.0]),
            reading=rng.choice(["plus", "minus", "tower"]),
            minimum=rng.choice([0, 0, 0, 1, 2]),
            scope=rng.choice(["image", "view"]),
        )
        n = len(token_map)
        k = rng.choice([1, n, rng.randint(1, n), rng.randint(1, n)])
        if method.minimum:  # what fits: `minimum` in every zone, of every view's part
            method = replace(method, minimum=min(method.minimum, fitting_minimum(method, token_map, k)))
        compare(method, cues, relevance, saliency, token_map, k)


def test_the_printed_method_equals_the_reference():
    rng = random.Random(9)
    method = GridPrune.literal()
    assert isinstance(method, LiteralGridPrune)
    assert (method.temperature, method.alpha, method.reading, method.scope) == (1.0, 0.5, "plus", "view")
    for _ in range(200):
        token_map = rng.choice(MAPS)
        cues, relevance, saliency = random_cues(rng, token_map, rng.choice([1, -1]))
        compare(method, cues, relevance, saliency, token_map, rng.randint(1, len(token_map)))


def test_literal_splits_the_budget_evenly_over_views():
    token_map = anyres((4, 4), (2, 2), (4, 4))
    cues = random_cues(random.Random(0), token_map, 1)[0]
    indices = GridPrune.literal().select(cues, token_map, 42).indices[0]
    assert torch.bincount(token_map.view[indices]).tolist() == [9, 9, 8, 8, 8]


@pytest.mark.parametrize("scope", ["image", "view"])
def test_rows_do_not_depend_on_their_neighbours(scope):
    torch.manual_seed(0)
    for token_map in MAPS:
        n = len(token_map)
        relevance, saliency = torch.randn(5, n) * 0.1, torch.rand(5, n)
        method = GridPrune(scope=scope)
        whole = method.select(Cues(relevance=relevance, saliency=saliency), token_map, n // 2)
        for row in range(5):
            one = Cues(relevance=relevance[row : row + 1], saliency=saliency[row : row + 1])
            alone = method.select(one, token_map, n // 2)
            assert torch.equal(alone.indices[0], whole.indices[row])
            assert torch.equal(alone.budgets[0], whole.budgets[row])


def test_half_precision_cues_select_like_their_fp32_copies():
    torch.manual_seed(0)
    token_map = MAPS[3]
    for dtype in (torch.bfloat16, torch.float16):
        low = Cues(relevance=torch.randn(2, 80).to(dtype), saliency=torch.rand(2, 80).to(dtype))
        high = Cues(relevance=low.relevance.float(), saliency=low.saliency.float())
        for method in (GridPrune(), GridPrune.literal()):
            low_kept, high_kept = (method.select(cues, token_map, 20).indices for cues in (low, high))
            assert torch.equal(low_kept, high_kept)


def test_nan_inside_the_core_still_gives_a_whole_selection():
    """`checked_select` refuses NaN; the method itself must not break its count."""
    token_map = TokenMap.from_grid(6, 6)
    for where in (slice(0, 1), slice(0, 20), slice(0, 36)):
        relevance, saliency = torch.rand(1, 36), torch.rand(1, 36)
        relevance[:, where] = saliency[:, where] = torch.nan
        for method in (GridPrune(), GridPrune(scope="view"), GridPrune.literal()):
            selection = method.select(Cues(relevance=relevance, saliency=saliency), token_map, 10)
            assert len(set(selection.indices[0].tolist())) == 10
            assert int(selection.budgets.sum()) == 10


def test_minimum_that_does_not_fit():
    cues = Cues(relevance=torch.rand(1, 36), saliency=torch.rand(1, 36))
    with pytest.raises(BudgetError, match=r"minimum = 1 .* 9 zones needs 9 tokens, but only 8"):
        GridPrune(zone=2, minimum=1).select(cues, TokenMap.from_grid(6, 6), 8)
    token_map = anyres((4, 4), (1, 1), (4, 4))
    cues = Cues(relevance=torch.rand(1, 32), saliency=torch.rand(1, 32))
    GridPrune(zone=2, minimum=1).select(cues, token_map, 8)
    with pytest.raises(BudgetError, match="4 zones needs 4 tokens, but only 3"):
        GridPrune(zone=2, minimum=1, scope="view").select(cues, token_map, 7)


@pytest.mark.parametrize(
    ("field", "values"),
    {
        "zone": [0, 2.0, True, "2"],
        "temperature": [0, -1.0, float("nan"), float("inf"), "hot", None],
        "alpha": [-0.1, 1.1, float("nan"), "half"],
        "reading": [1, True, "+", ["plus"], None],
        "minimum": [-1, 0.5, False],
        "scope": ["plane", {}],
    }.items(),
)
def test_settings_out_of_range(field, values):
    for value in values:
        with pytest.raises(SettingError, match=field):
            GridPrune(**{field: value})


def test_alpha_zero_needs_no_saliency():
    assert GridPrune(alpha=0).needs == {"relevance"}
    selection = checked_select(GridPrune(alpha=0), Cues(relevance=torch.rand(1, 36)), TokenMap.from_grid(6, 6), 9)
    assert selection.indices.shape == (1, 9)
