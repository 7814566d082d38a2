"""One budget over a prompt: pictures and clips in one row, GridPrune's own zones, and methods that have none."""

from __future__ import annotations

import pytest
import torch

from gridprune import GridPrune, prune
from gridprune.errors import BudgetError, SettingError
from gridprune.methods.registry import create

from .kit import IMAGE, Uneven, model, shuffled
from .models import LLAVA, LLAVA_NEXT, QWEN2_5_VL, QWEN2_5_VL_CLIPS
from .words import VICUNA, processor

WORDS = processor(VICUNA)


def both(method, **settings):
    """A picture and a clip in one prompt of Qwen2.5-VL."""
    picture, clip = QWEN2_5_VL.picture(1), QWEN2_5_VL_CLIPS.picture(0)
    ids = torch.tensor([[5, *QWEN2_5_VL.tokens(picture), 6, *QWEN2_5_VL_CLIPS.tokens(clip), 7]])
    vision = {**QWEN2_5_VL.vision([[picture]]), **QWEN2_5_VL_CLIPS.vision([[clip]])}
    net = model(QWEN2_5_VL)
    with torch.no_grad(), prune(net, method, budget="prompt", **settings) as pruning:
        net(input_ids=ids, **vision, **QWEN2_5_VL.extras(ids))
    return list(pruning.reports)


@pytest.mark.parametrize("keep", [2, 7, "40%"])
def test_a_picture_and_a_clip_share_a_budget(keep):
    method = create("fastervlm", keep=keep)
    reports = both(method)
    sizes = [report.total for report in reports]
    assert sizes == [9, 8]
    assert sum(report.kept for report in reports) == method.budget.resolve(17)
    assert all(report.kept for report in reports)


def test_zones_of_all_pictures_compete():
    """Two pictures of one prompt, the question asks for the second: more tokens than an equal part go there."""
    net = model(LLAVA_NEXT)
    row = [*shuffled(1), LLAVA_NEXT.picture(0), 9, LLAVA_NEXT.picture(1), *shuffled(2)]
    method = GridPrune(keep=40, relevance_sign=1, zone=2, guide="mean", calibrate=False, temperature=0.02)
    from .test_cues import clip_text

    given = {"clip": clip_text(), "question": "What is red?", "budget": "prompt"}
    with torch.no_grad(), prune(net, method, **given) as pruning:
        net(**LLAVA_NEXT.call(row))
    reports = list(pruning.reports)
    assert sum(report.kept for report in reports) == 40
    zone_means = [
        torch.stack([report.relevance[report.zones.index == z].mean() for z in range(report.zones.count)])
        for report in reports
    ]
    weights = torch.cat(zone_means).double().div(0.02).softmax(0) * 38  # one token for the best zone of each first
    for report, weight in zip(reports, weights.split([len(means) for means in zone_means])):
        assert int(report.zone_budgets.sum()) == report.kept
        capacity = report.zones.size
        free = (weight < capacity - 2) & (report.zone_budgets < capacity)
        first = torch.zeros_like(weight)
        first[weight.argmax()] = 1
        assert ((report.zone_budgets - first - weight)[free] > -1).all()


def test_no_picture_is_left_with_nothing():
    net = model(LLAVA)
    row = [LLAVA.picture(0), 5, LLAVA.picture(1), 6, LLAVA.picture(2)]
    for method in (create("fastervlm", keep=3), create("random", keep=4)):
        with torch.no_grad(), prune(net, method, budget="prompt") as pruning:
            net(**LLAVA.call(row))
        assert min(report.kept for report in pruning.reports) == 1
    with pytest.raises(BudgetError, match="budget='image'"), prune(net, create("random", keep=2), budget="prompt"):
        net(**LLAVA.call(row))


def test_pictures_vanish_when_asked(tmp_path):
    net = model(QWEN2_5_VL)
    method = GridPrune(keep=2, frames_may_vanish=True, temperature=1e-4)
    with torch.no_grad(), prune(net, method, processor=WORDS, question="what?", budget="prompt") as pruning:
        cache = net(**QWEN2_5_VL.call([QWEN2_5_VL.picture(0), 5, QWEN2_5_VL.picture(1)])).past_key_values
    assert cache.get_seq_length() == 2 + 4 + 1
    assert sorted(report.kept for report in pruning.reports) == [0, 2]
    for number, report in enumerate(pruning.reports):
        assert report.save(tmp_path / f"{number}.png").stat().st_size > 0
    with pytest.raises(BudgetError, match="frames_may_vanish"):
        both(GridPrune(keep=2), processor=WORDS, question="what?")  # two frames, and a picture


def test_methods_without_a_budget_over_a_prompt():
    for method in (Uneven(), create("downsample", keep=9)):
        with pytest.raises(SettingError, match="budget='image'"):
            prune(model(LLAVA), method, budget="prompt")
    with pytest.raises(SettingError, match="'image' or 'prompt'"):
        prune(model(LLAVA), create("random"), budget="row")


def test_later_turns_have_budgets_of_their_own():
    net, method = model(LLAVA), create("fastervlm", keep=10)
    with torch.no_grad(), prune(net, method, budget="prompt") as pruning:
        first = LLAVA.call([5, LLAVA.picture(0), 6])
        cache = net(**first).past_key_values
        later = LLAVA.call([7, LLAVA.picture(1), LLAVA.picture(2), 8])
        later["attention_mask"] = torch.ones(1, first["input_ids"].shape[1] + later["input_ids"].shape[1])
        net(**later, past_key_values=cache)
    assert [report.kept for report in pruning.reports] == [10, 5, 5]
    assert int((later["input_ids"] == IMAGE).sum()) == 72
