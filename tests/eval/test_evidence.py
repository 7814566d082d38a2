"""Evidence on the token map, its recall, and answers that count."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from gridprune.core.token_map import TokenMap
from gridprune.errors import SettingError
from gridprune.eval import data
from gridprune.eval.evidence import closeness, evidence, recall, seen_boxes
from gridprune.families.maps import join
from training.boxes.cells import evidence_mask

MAP = TokenMap.from_grid(24, 24)


def test_evidence_is_that_of_the_generated_scenes():
    from gridprune.tiny import iter_examples

    for example in iter_examples("dev", 60):
        boxes = [tuple(value / 192 for value in box) for box in example.boxes]
        assert evidence(MAP, boxes).tolist() == evidence_mask(example.boxes).ravel().tolist()


def test_recall_is_capped_by_the_budget():
    wanted = torch.zeros(576, dtype=torch.bool)
    wanted[[3, 4, 5, 9]] = True
    assert recall(torch.tensor([3, 4, 100]), wanted) == 2 / 3
    assert recall(torch.tensor([3, 4]), wanted) == 1.0
    assert recall(torch.tensor([1, 2, 3, 4, 5, 6]), wanted) == 3 / 4
    assert recall(torch.tensor([1]), torch.zeros(576, dtype=torch.bool)) is None


def test_tiles_that_nobody_knows_the_place_of_hold_no_evidence():
    whole = TokenMap.from_grid(2, 2)
    tile = replace(whole, boxes=torch.zeros(4, 4), plane=whole.plane + 1, view=whole.view + 1)
    both = join([tile, whole])
    assert evidence(both, [(0.0, 0.0, 0.4, 0.4)]).tolist() == [*[False] * 4, True, False, False, False]
    scores = closeness(both, [(0.0, 0.0, 0.4, 0.4)])
    assert scores[4:].min() > scores[:4].max()


def test_closeness_puts_evidence_first_then_the_nearest():
    boxes = [(0.0, 0.0, 0.25, 0.25), (0.75, 0.75, 0.80, 0.80)]
    scores, inside = closeness(MAP, boxes), evidence(MAP, boxes)
    assert scores[inside].min() > scores[~inside].max()
    order = scores.argsort(descending=True)
    assert bool(inside[order[: int(inside.sum())]].all())
    beside, far = 6 * 24, 12 * 24 + 12  # just below the first box; the middle of the image
    assert scores[beside] > scores[far]
    assert closeness(MAP, []).unique().tolist() == [0.0]


class Cropping:
    class image_processor:
        do_center_crop = True


def test_boxes_follow_the_processors_crop():
    half = (0.25, 0.0, 0.75, 1.0)
    assert seen_boxes([half], (200, 100), Cropping) == ((0.0, 0.0, 1.0, 1.0),)
    assert seen_boxes([(0.0, 0.0, 0.2, 1.0)], (200, 100), Cropping) == ()
    assert seen_boxes([half], (100, 100), Cropping) == (half,)
    assert seen_boxes([half], (200, 100), object()) == (half,)


def test_generated_splits():
    assert data.generated("dev", 5).total == 5
    with pytest.raises(SettingError):
        data.generated("train", 5)
    scenes = list(data.generated("dev", 20).scenes())
    assert [scene.number for scene in scenes] == [0, 1]
    assert sum(len(scene.questions) for scene in scenes) == 20
