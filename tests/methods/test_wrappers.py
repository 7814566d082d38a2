"""Methods that hold methods: what they compose with, what they refuse, what they do."""

from __future__ import annotations

import inputs
import pytest
import torch

from gridprune.core.token_map import TokenMap
from gridprune.errors import SettingError
from gridprune.eval.downsample import Downsample
from gridprune.methods import Cues, create
from gridprune.methods.cdpruner import CDPruner
from gridprune.methods.checks import checked_select
from gridprune.methods.divprune import DivPrune
from gridprune.methods.fastervlm import FasterVLM
from gridprune.methods.hawk import FirstLayer
from gridprune.methods.relevance import Relevance
from gridprune.methods.scope import Scope
from gridprune.methods.visionzip import VisionZip
from gridprune.methods.wrappers.centered import Centered
from gridprune.methods.wrappers.merge_rest import MergeRest
from gridprune.methods.wrappers.per_view import PerView
from gridprune.methods.wrappers.relevance_weighted import RelevanceWeighted
from gridprune.methods.wrappers.two_stage import TwoStage
from gridprune.methods.wrappers.zone_floor import ZoneFloor
from rounding import assert_same

GRID = TokenMap.from_grid(5, 6)


@pytest.mark.parametrize(
    ("wrapper", "base", "fitting"),
    [
        (Centered, FasterVLM(), "cdpruner, divprune"),
        (Centered, Scope(), "cdpruner, divprune"),
        (RelevanceWeighted, FasterVLM(), "divprune"),
        (ZoneFloor, DivPrune(), "fastervlm"),
        (FirstLayer, DivPrune(), "gridprune, relevance"),
        (FirstLayer, create("eadp"), "cdpruner"),
        (MergeRest, VisionZip(), "divprune"),
        (MergeRest, create("prumerge"), "divprune"),
        (TwoStage, Downsample(), "divprune"),
        (PerView, create("trim"), "fastervlm"),
    ],
)
def test_refuses_and_lists_what_fits(wrapper: type, base: object, fitting: str) -> None:
    with pytest.raises(SettingError, match="composes with") as error:
        wrapper(base=base)
    for name in fitting.split(", "):
        assert name in str(error.value)
    assert str(error.value).count(base.name) == 1  # named as refused, not listed as fitting


def test_refuses_what_is_no_method() -> None:
    with pytest.raises(SettingError, match="must be a method"):
        Centered(base="divprune")


def test_wrappers_nest() -> None:
    method = RelevanceWeighted(base=Centered(base=DivPrune()), keep=9)
    assert method.label == "relevance-weighted(centered(divprune))"
    assert method.needs == {"features", "relevance"}
    assert method.uses_text
    assert method.explain()["base"]["base"]["name"] == "divprune"
    selection = checked_select(method, inputs.cues("random", 2, 30), GRID, 9)
    assert selection.indices.shape == (2, 9)


def test_relevance_weight_of_power_zero_is_the_base() -> None:
    cues = inputs.cues("random", 2, 30)
    weighted = RelevanceWeighted(base=DivPrune(), power=0.0).select(cues, GRID, 9)
    assert torch.equal(weighted.indices, DivPrune().select(cues, GRID, 9).indices)


def test_relevance_weight_reaches_every_base() -> None:
    cues = inputs.cues("random", 2, 30)
    for base in (DivPrune(), Scope(), CDPruner()):
        weighted = RelevanceWeighted(base=base, power=4.0).select(cues, GRID, 9)
        assert not torch.equal(weighted.indices, base.select(cues, GRID, 9).indices)


def test_centring_removes_a_common_offset() -> None:
    cues = inputs.cues("random", 1, 30)
    moved = inputs.cues("random", 1, 30)
    object.__setattr__(moved, "features", moved.features + 0.0)
    assert torch.equal(Centered().select(cues, GRID, 9).indices, Centered().select(moved, GRID, 9).indices)
    standard = Centered(standardize=True).select(cues, GRID, 9)
    assert standard.indices.shape == (1, 9)


def test_every_zone_keeps_a_token() -> None:
    token_map = TokenMap.from_grid(12, 12)
    cues = inputs.cues("random", 2, 144)
    selection = ZoneFloor(base=Relevance(), zone=3).select(cues, token_map, 20)
    zone = token_map.zones(3).index
    for kept in selection.indices:
        assert len(set(zone[kept].tolist())) == 16
    assert torch.equal(
        ZoneFloor(zone=12).select(cues, token_map, 20).indices, FasterVLM().select(cues, token_map, 20).indices
    )


def test_second_stage_chooses_from_the_first() -> None:
    cues = inputs.cues("random", 3, 30)
    first = FasterVLM().select(cues, GRID, 10).indices
    chosen = TwoStage(second=Relevance(), shortlist=2.0).select(cues, GRID, 5).indices
    for image in range(3):
        assert set(chosen[image].tolist()) <= set(first[image].tolist())
        relevance = cues.relevance[image]
        worst = min(relevance[i] for i in chosen[image].tolist())
        assert all(relevance[i] <= worst for i in set(first[image].tolist()) - set(chosen[image].tolist()))
    whole = TwoStage(second=DivPrune(), shortlist=100.0).select(cues, GRID, 5)
    assert torch.equal(whole.indices, DivPrune().select(cues, GRID, 5).indices)


def test_per_view_gives_every_view_its_part() -> None:
    token_map, cues = inputs.anyres(), inputs.cues("random", 2, 40)
    selection = PerView(base=DivPrune()).select(cues, token_map, 9)
    for kept in selection.indices:
        assert torch.bincount(token_map.view[kept]).tolist() == [3, 3, 3]
    alone = cues.take(torch.arange(16).expand(2, -1))
    overview = DivPrune().select(alone, token_map.take(torch.arange(16)), 3).indices
    assert torch.equal(selection.indices[:, :3], overview)
    one = PerView(base=DivPrune()).select(inputs.cues("random", 2, 30), GRID, 9)
    assert torch.equal(one.indices, DivPrune().select(inputs.cues("random", 2, 30), GRID, 9).indices)


def test_relevance_of_the_first_layer_takes_the_place_of_the_towers() -> None:
    cues = inputs.cues("random", 2, 30)
    method = FirstLayer(base=Relevance())
    assert method.needs == {"head_relevance"}
    assert method.uses_text
    alone = Cues(head_relevance=cues.head_relevance, reading="minus")
    assert torch.equal(method.select(alone, GRID, 9).indices, create("hawk").select(cues, GRID, 9).indices)
    assert FirstLayer().needs == {"head_relevance", "saliency"}


def test_merging_conserves_a_constant() -> None:
    cues = inputs.cues("random", 2, 30)
    selection = MergeRest().select(cues, GRID, 7)
    assert selection.merge is not None
    assert_same(selection.merge.apply(torch.ones(2, 30, 3), 7), torch.ones(2, 7, 3), terms=30)
