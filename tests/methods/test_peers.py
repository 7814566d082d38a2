"""Every peer method against a second implementation of its description, on random and adversarial inputs."""

from __future__ import annotations

from functools import partial

import inputs
import pytest
import reference
import reference_newer
import torch

from gridprune.core.token_map import TokenMap
from gridprune.errors import SettingError
from gridprune.methods import Cues, create
from rounding import assert_same

CASES = {
    "divprune": reference.divprune,
    "hawk": reference_newer.hawk,
    "cdpruner": reference.cdpruner,
    "cdpruner-split": reference.cdpruner_split,
    "vispruner": reference.vispruner,
    "visionzip": reference.visionzip,
    "prumerge": reference.prumerge,
    "prumerge-plus": reference.prumerge_plus,
    "prumerge-fixed": reference.prumerge,
    "prumerge-plus-fixed": reference.prumerge_plus_fixed,
    "trim": reference.trim,
    "trim-iqr": reference.trim,
    "holov": reference.holov,
    "holov-printed": reference.holov_printed,
    "scope": reference.scope,
    "hiprune": reference.hiprune,
    "vscan-tower": reference.vscan_tower,
    "eadp": reference.eadp,
    "eadp-released": partial(reference.eadp, words=0.2, beta=1),
    "tops-stage-one": reference.tops_stage_one,
    "s2prune": reference.s2prune,
    "mmtok": reference.mmtok,
    "fsr": reference.fsr,
    "dart-input": reference.dart_input,
    "evs": reference.evs,
    "centered": partial(reference.centered, around=reference.divprune),
    "centered-cdpruner": partial(reference.centered, around=reference.cdpruner),
    "relevance-weighted": reference.relevance_weighted,
    "merge-rest": reference.merge_rest,
    "zone-floor": reference.zone_floor,
    "nuwa": reference_newer.nuwa,
    "otprune": reference_newer.otprune,
    "zoo-prune": reference_newer.zoo_prune,
    "prunesid": reference_newer.prunesid,
    "id-selection": reference_newer.id_selection,
    "mmr": reference_newer.mmr,
    "vlm-pruner": reference_newer.vlm_pruner,
    "apet": reference_newer.apet,
    "l2norm": reference_newer.l2norm,
    "litelvlm": reference_newer.litelvlm,
    "gridprune-cover": reference_newer.gridprune_cover,
    "vidcom2": reference_newer.vidcom2,
}
ON_VIEWS = (
    "holov",
    "holov-printed",
    "eadp",
    "eadp-released",
    "hiprune",
    "s2prune",
    "vscan-tower",
    "nuwa",
    "vlm-pruner",
    "gridprune-cover",
)


def one_image(cues: Cues, number: int) -> dict[str, object]:
    found: dict[str, object] = {name: value[number] for name, value in cues.tensors().items()}
    found |= {"saliency_at": {d: v[number] for d, v in cues.saliency_at.items()}}
    return found | {"reading": cues.reading, "heads": cues.heads}


def agree(name: str, cues: Cues, token_map: TokenMap, k: int) -> None:
    selection = create(name).select(cues, token_map, k)
    for image in range(cues.batch):
        found = selection.indices[image].tolist()
        c = one_image(cues, image)
        expected = CASES[name](c, token_map, k)
        assert found == sorted(expected), f"{name}, k={k}, image {image}"
        if not isinstance(expected, dict):
            assert selection.merge is None
            continue
        assert selection.merge is not None
        x = torch.randn(cues.batch, len(token_map), 6, generator=torch.Generator().manual_seed(1))
        merged = selection.merge.apply(x, k)[image]
        for slot, token in enumerate(found):
            value = sum(weight * x[image, i].double() for i, weight in expected[token].items())
            assert_same(merged[slot], value, terms=len(token_map), depth=2)


@pytest.mark.parametrize("kind", inputs.KINDS)
@pytest.mark.parametrize("name", CASES)
def test_agrees_with_the_loops(name: str, kind: str) -> None:
    token_map = inputs.video() if name in ("evs", "vidcom2") else TokenMap.from_grid(5, 6)
    n = len(token_map)
    for seed, k in enumerate((1, 2, 7, 12, n - 1, n)):
        agree(name, inputs.cues(kind, 2, n, seed), token_map, k)


@pytest.mark.parametrize("name", ["scope", "eadp", "mmtok", "tops-stage-one", "divprune", "relevance-weighted"])
def test_small_gains_are_told_apart(name: str) -> None:
    """Late gains are a millionth of the first: a tie rule on the scale of the first one takes the earliest token."""
    for seed, k in enumerate((20, 30)):
        agree(name, inputs.skewed(1, 42, seed), TokenMap.from_grid(6, 7), k)


def test_small_weights_are_told_apart() -> None:
    for seed in range(3):
        cues, token_map = inputs.skewed(1, 64, seed), TokenMap.from_grid(8, 8)
        c = one_image(cues, 0)
        weight = [w**8 for w in reference.minmax(list(reference.rows(c["relevance"])))]
        expected = reference.divprune(c, token_map, 50, quality=weight, argmax=reference.argmax)
        assert create("relevance-weighted", power=8.0).select(cues, token_map, 50).indices[0].tolist() == expected


@pytest.mark.parametrize("name", ON_VIEWS)
def test_agrees_on_several_views(name: str) -> None:
    token_map = inputs.anyres()
    for seed, k in enumerate((1, 2, 3, 9, 22, 39)):
        agree(name, inputs.cues("random", 2, 40, seed), token_map, k)


@pytest.mark.parametrize("name", ["eadp", "cdpruner", "cdpruner-split", "trim", "fsr"])
def test_a_tower_that_points_the_other_way(name: str) -> None:
    cues = inputs.cues("random", 2, 30, 3)
    turned = Cues(**{**cues.__dict__, "reading": "minus"})
    agree(name, turned, TokenMap.from_grid(5, 6), 9)


def test_counts_follow_the_outliers() -> None:
    token_map = TokenMap.from_grid(5, 6)
    seen = set()
    for seed in range(12):
        cues = inputs.cues("random", 1, 30, seed)
        c = one_image(cues, 0)
        assert create("prumerge").count(cues, token_map) == reference.prumerge_count(c, plus=False)
        assert create("prumerge-plus").count(cues, token_map) == min(30, reference.prumerge_count(c, plus=True))
        assert create("trim-iqr").count(cues, token_map) == reference.trim_iqr_count(c)
        assert create("prumerge", keep=2).count(cues, token_map) <= 2
        seen.add(create("prumerge").count(cues, token_map))
    assert len(seen) > 1


def test_cdpruner_balance() -> None:
    cues, token_map = inputs.cues("random", 1, 30), TokenMap.from_grid(5, 6)
    c = one_image(cues, 0)
    for theta in (0.0, 0.5, 0.9):
        found = create("cdpruner", theta=theta).select(cues, token_map, 8).indices[0].tolist()
        assert found == reference.cdpruner(c, token_map, 8, theta=theta)


def test_hawk_by_weights() -> None:
    cues, token_map = inputs.cues("random", 1, 30), TokenMap.from_grid(5, 6)
    weights = (0.2, 0.0, 0.7, 0.4)
    found = create("hawk", weights=list(weights)).select(cues, token_map, 8).indices[0].tolist()
    assert found == reference_newer.hawk(one_image(cues, 0), token_map, 8, weights)
    with pytest.raises(SettingError, match="3 weights were given for 4"):
        create("hawk", weights=[1, 2, 3]).select(cues, token_map, 8)
    with pytest.raises(SettingError, match="each query head"):
        create("hawk", weights=[0, 0])


def test_cdpruner_by_view_scales_over_the_image() -> None:
    token_map = inputs.anyres()
    for seed, k in enumerate((1, 3, 9, 22, 36)):
        cues = inputs.cues("random", 1, 40, seed)
        found = create("cdpruner", scope="view").select(cues, token_map, k).indices[0].tolist()
        assert found == reference.cdpruner_by_view(one_image(cues, 0), token_map, k)
    cues, grid = inputs.cues("random", 1, 30), TokenMap.from_grid(5, 6)
    whole = create("cdpruner").select(cues, grid, 9)
    assert torch.equal(create("cdpruner", scope="view").select(cues, grid, 9).indices, whole.indices)


def test_released_holov_cannot_depend_on_alpha() -> None:
    """The finding behind two names: with the variance scaled run by run, no alpha changes a budget."""
    for seed in range(20):
        a = torch.rand(96, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        spread = torch.rand(96, generator=torch.Generator().manual_seed(99 + seed), dtype=torch.float64)
        runs_a, runs_s = a.view(16, 6), spread.view(16, 6)
        shares = []
        for alpha in (0.0, 0.09, 10.0):
            scaled = runs_s / runs_s.mean(1, keepdim=True) * runs_a.mean(1, keepdim=True)
            mean = (runs_a + alpha * scaled).mean(1)
            shares.append(mean / mean.sum())
        assert_same(shares[1], shares[0], terms=6, depth=3)
        assert_same(shares[2], shares[0], terms=6, depth=3)


def test_printed_holov_differs_from_released() -> None:
    token_map = TokenMap.from_grid(8, 8)
    differ = 0
    for seed in range(5):
        cues = inputs.cues("random", 1, 64, seed)
        released = create("holov").select(cues, token_map, 20)
        printed = create("holov-printed", alpha=5.0).select(cues, token_map, 20)
        differ += released.budgets.tolist() != printed.budgets.tolist()
    assert differ


def test_s2prune_grid_is_the_released_one() -> None:
    from gridprune.methods.s2prune import coarse_regions

    for k, side in ((32, 4), (64, 5), (128, 8), (192, 9)):
        regions, corners = coarse_regions(TokenMap.from_grid(24, 24), k)
        assert regions.count == side * side == len(corners)
    rows = coarse_regions(TokenMap.from_grid(24, 24), 64)[1][::5, :2]
    assert rows.tolist() == [[0, 5], [5, 10], [10, 14], [14, 19], [19, 24]]  # round(4.8), round(9.6), round(14.4), ...


def test_s2prune_deals_out_what_a_full_region_leaves() -> None:
    """Quotas 7, 1.6, 1.4 beside a first token each; region 1 has room for 4, so five are left: for 2, 3, 2, 3, 2."""
    from gridprune.methods.s2prune import deal

    budgets = deal(torch.tensor([[0.7, 0.16, 0.14]]), 13, torch.tensor([4, 9, 9]), 9, 1)
    assert budgets.tolist() == [[4, 5, 4]]
    assert deal(torch.zeros(1, 3), 5, torch.tensor([4, 9, 9]), 9, 1).tolist() == [[2, 2, 1]]


def test_s2prune_from_the_feature_map() -> None:
    """A region with an edge gets the tokens that a flat image spreads evenly."""
    token_map = TokenMap.from_grid(8, 8)
    features = torch.ones(1, 64, 4)
    features[:, token_map.row.lt(4) & token_map.column.lt(4) & (token_map.column % 2 == 0)] = -1.0
    cues = Cues(tower_features=features, saliency=torch.rand(1, 64))
    selection = create("s2prune", structure="features").select(cues, token_map, 16)
    assert selection.budgets.tolist() != [[4, 4, 4, 4]]
    assert int(selection.budgets[0].argmax()) == 0


def test_vispruner_tells_near_duplicates_apart() -> None:
    """Cosines that fp32 rounds to one value: its order, and with it all that follows, would hang on the device."""
    g = torch.Generator().manual_seed(3)
    directions = torch.randn(6, 16, generator=g)[torch.randint(0, 6, (1, 256), generator=g)]
    features = directions + 1e-4 * torch.randn(1, 256, 16, generator=g)
    cues = Cues(saliency=torch.rand(1, 256, generator=g), tower_features=features)
    agree("vispruner", cues, TokenMap.from_grid(16, 16), 64)


def test_vispruner_where_features_are_equal() -> None:
    """Another order of the same sums, as another device has it: cosines that are equal stay equal."""
    g = torch.Generator().manual_seed(4)
    features = torch.randn(1, 128, 64, generator=g)[:, torch.arange(256) // 2]
    turned = features[..., torch.randperm(64, generator=g)]
    saliency, token_map = torch.rand(1, 256, generator=g), TokenMap.from_grid(16, 16)
    found = [
        create("vispruner").select(Cues(saliency=saliency, tower_features=x), token_map, 64) for x in (features, turned)
    ]
    assert torch.equal(found[0].indices, found[1].indices)
