"""Method strings: what is read, what is refused, and the ablations they name."""

from __future__ import annotations

import pytest
import torch

from gridprune.core.token_map import TokenMap
from gridprune.errors import GridPruneError, SettingError, UnknownNameError
from gridprune.eval import entries
from gridprune.eval.ablations import Oracle
from gridprune.methods import spec
from gridprune.methods.base import Cues
from gridprune.methods.gridprune import GridPrune


def test_settings_are_literals():
    entry = entries.parse("GridPrune( zone = 3, temperature=0.02 , reading='minus')".replace("GridPrune", "gridprune"))
    method = entry.method(64)
    assert isinstance(method, GridPrune)
    assert (method.zone, method.temperature, method.reading, method.keep) == (3, 0.02, "minus", 64)
    assert entries.parse(entry.label) == entry


@pytest.mark.parametrize(
    "text", ["gridprune-literal", "global-topk(gridprune(zone=3))", "shuffled-question(relevance)"]
)
def test_labels_read_back(text):
    entry = entries.parse(text)
    assert entry.label == text
    assert entries.parse(entry.label) == entry


def test_lists_split_outside_parentheses():
    found = entries.parse_list("random(seed=3), gridprune(zone=2, alpha=0.1),uniform")
    assert [entry.name for entry in found] == ["random", "gridprune", "uniform"]


@pytest.mark.parametrize(
    "text",
    [
        "gridprune(zone=__import__('os'))",
        "gridprune(zone=2+2)",
        "gridprune(**{})",
        "gridprune(zone=)",
        "gridprune(colour=3)",
        "gridprune(keep=3)",
        "gridprune(zone=0)",
        "gridprune.literal()",
        "global-topk()",
        "random,random",
        "random((",
        "",
    ],
)
def test_bad_lists_are_refused(text):
    with pytest.raises(GridPruneError):
        entries.parse_list(text)


def test_unknown_name_helps():
    with pytest.raises(UnknownNameError, match=r"gridprune.*oracle"):
        entries.parse("gridprun")


def test_all_can_be_built_and_named_once():
    found = entries.parse_list("all")
    names = [entry.name for entry in found]
    assert {"random", "uniform", "gridprune", "downsample", "oracle"} <= set(names)
    assert "keep-all" not in names
    entries.check(found)


def test_keeps():
    assert spec.parse_keeps("192, 64,11.1%") == [192, 64, "11.1%"]
    for text in ("", "64,64", "0", "many"):
        with pytest.raises(GridPruneError):
            spec.parse_keeps(text)


GRID = TokenMap.from_grid(8, 8)


def cues() -> Cues:
    generator = torch.Generator().manual_seed(0)
    return Cues(
        relevance=torch.rand(2, 64, generator=generator), saliency=torch.rand(2, 64, generator=generator), images=2
    )


def test_uniform_budgets_spread_evenly():
    selection = entries.parse("uniform-budgets(gridprune(zone=2))").method(24).select(cues(), GRID, 24)
    assert selection.indices.shape == (2, 24)
    assert selection.budgets.sum(-1).tolist() == [24, 24]
    assert set(selection.budgets.unique().tolist()) == {1, 2}
    exact = entries.parse("uniform-budgets(gridprune(zone=2))").method(32).select(cues(), GRID, 32)
    assert exact.budgets.unique().tolist() == [2]


def test_global_topk_takes_the_best_scores():
    method = entries.parse("global-topk(gridprune)").method(5)
    selection = method.select(cues(), GRID, 5)
    best = selection.scores.topk(5).indices.sort().values
    assert torch.equal(selection.indices, best)


def test_flipped_sign_turns_relevance_round():
    low = entries.parse("flipped-sign(relevance(reading='plus'))").method(5).select(cues(), GRID, 5)
    assert torch.equal(low.indices, cues().relevance.topk(5, largest=False).indices.sort().values)


def test_ablations_refuse_what_has_no_scores():
    with pytest.raises(SettingError, match="scores"):
        entries.parse("global-topk(uniform)").method(5).select(cues(), GRID, 5)


@pytest.mark.parametrize("text", ["merge-rest(downsample)", "shuffled-question(downsample)"])
def test_what_holds_a_method_refuses_the_control(text):
    with pytest.raises(SettingError):
        entries.parse(text)


def test_oracle_without_evidence_is_uniform():
    blind = Oracle(keep=16).select(Cues(relevance=torch.zeros(1, 64)), GRID, 16)
    uniform = entries.parse("uniform").method(16).select(Cues(images=1), GRID, 16)
    assert torch.equal(blind.indices, uniform.indices)
