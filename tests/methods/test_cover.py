"""GridPrune by coverage: gains by hand, and what the guide does where a cue says nothing."""

import torch
from torch.testing import assert_close

from gridprune.core.token_map import TokenMap
from gridprune.methods import Cues, create
from gridprune.methods.ops.coverage import marginal_gains


def test_gains_by_hand():
    """Two like tokens and one at right angles, of weights .5, .3 and .2: .8, then .2, and nothing for the twin."""
    unit = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]]).double()
    weights = torch.tensor([[0.5, 0.3, 0.2]]).double()
    gains = marginal_gains(unit, weights, TokenMap.from_grid(1, 3).zones(3), 3)
    assert_close(gains, torch.tensor([[0.8, 0.0, 0.2]]).double(), rtol=0, atol=1e-7)
    apart = marginal_gains(unit, weights, TokenMap.from_grid(1, 3).zones(1), 3)
    assert_close(apart, weights, rtol=0, atol=1e-7)


def test_zones_get_smaller_as_more_is_kept():
    assert [create("gridprune-cover").side(576, k) for k in (16, 32, 64, 192, 576)] == [17, 12, 8, 5, 3]


def test_a_cue_that_says_nothing_leaves_the_choice_to_the_other():
    flat = torch.full((1, 36), 0.25)
    peak = flat.clone()
    peak[0, 7] = 0.9
    for relevance, saliency in ((flat, peak), (peak, flat)):
        cues = Cues(relevance=relevance, saliency=saliency, features=torch.eye(36)[None])
        selection = create("gridprune-cover", even=0).select(cues, TokenMap.from_grid(6, 6), 1)
        assert selection.indices.tolist() == [[7]]
        assert selection.scores[0, 7] == 1
