"""Where tokens lie: a marker planted in one patch of the image shows up in exactly the tokens that name the patch."""

from __future__ import annotations

import copy

import pytest
import torch

from gridprune import families
from rounding import bound

from .kit import model
from .models import LLAVA_NEXT, VIDEOS

SIDE = 4  # pixels of a tower patch in every tiny model
MIXERS = ("out_proj", "o_proj", "proj", "projection_layer")


@pytest.fixture(scope="module")
def unmixed(case):
    """The model with attention switched off in its tower, so that a patch is seen by its own tokens only."""
    net = copy.deepcopy(model(case))
    for stream in families.find(net).streams:
        tower = stream.tower
        for block in tower.blocks:
            attend = getattr(block, tower.attention)
            for name in MIXERS:
                if hasattr(attend, name):
                    for parameter in getattr(attend, name).parameters():
                        parameter.data.zero_()
    return net


def marked(vision, stream, patch):
    """The same vision arguments with one tower patch changed."""
    key = stream.pixel_keys[0]
    pixels = vision[key].clone()
    if pixels.dim() == 2:  # patches in a row
        pixels[patch] += 1
    elif pixels.dim() == 3:  # views as rows of patches, zeros behind them
        view, place = (pixels != 0).any(-1).nonzero()[patch].tolist()
        pixels[view, place] += 1
    else:
        crops = pixels.view(-1, *pixels.shape[-3:])
        rows, columns = crops.shape[-2] // SIDE, crops.shape[-1] // SIDE
        view, rest = divmod(patch, rows * columns)
        row, column = rest // columns * SIDE, rest % columns * SIDE
        crops[view, :, row : row + SIDE, column : column + SIDE] += 1
    return {**vision, key: pixels}


@pytest.mark.parametrize("number", [0, 1, 2])
def test_markers_are_found_in_their_tokens(case, unmixed, number):
    image = case.image(number)
    call = case.call([11, image, 12])
    stream = next(s for s in families.find(unmixed).streams if s.vision(call) is not None)
    vision = stream.vision(call)
    (place,) = stream.locate(call["input_ids"], vision)
    token_map = place.token_map
    assert len(token_map) == case.tokens(image).count(case.placeholder)
    with torch.no_grad():
        plain = stream.embeddings(stream.features(vision), [token_map])[0]
        patches = int(token_map.source.max()) + 1
        for patch in range(0, patches, max(patches // 7, 1)):
            changed = stream.embeddings(stream.features(marked(vision, stream, patch)), [token_map])[0]
            found = (changed != plain).any(-1).nonzero()[:, 0].tolist()
            named = (token_map.source == patch).any(-1).nonzero()[:, 0].tolist()
            assert found == named, patch
    assert not token_map.separator[found].any()


def test_boxes_tile_the_image(case):
    image = case.image(1)
    call = case.call([11, image, 12])
    stream = next(s for s in families.find(model(case)).streams if s.vision(call) is not None)
    (place,) = stream.locate(call["input_ids"], stream.vision(call))
    candidates = place.token_map.candidates
    for plane in candidates.plane.unique():
        for frame in candidates.frame.unique():
            boxes = candidates.boxes[(candidates.plane == plane) & (candidates.frame == frame)].double()
            area = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sum()
            assert area == pytest.approx(1.0, abs=bound(1.0, terms=4 * len(boxes))) or area == 0.0


@pytest.mark.parametrize("case", VIDEOS, ids=lambda case: case.name)
def test_clips_name_their_frames(case):
    call = case.call([11, case.image(0), 12])
    stream = families.find(model(case)).streams[1]
    (place,) = stream.locate(call["input_ids"], stream.vision(call))
    assert place.token_map.frame.unique().tolist() == list(range(case.frames))


def test_newlines_stay_with_rows_that_keep_a_token():
    net = model(LLAVA_NEXT)
    family = families.find(net)
    call = LLAVA_NEXT.call([LLAVA_NEXT.image(0)])
    token_map = family.token_maps(family.vision(call))[0]
    candidates = token_map.candidates
    kept = ((candidates.plane == 1) & (candidates.row == 2)).nonzero()[:3, 0]
    mask = token_map.keep_mask(kept)
    assert int(mask.sum()) == 4
    assert (token_map.row[mask & token_map.separator] == 2).all()
    overview = (candidates.plane == 0).nonzero()[:2, 0]
    assert int(token_map.keep_mask(overview).sum()) == 2


def test_one_budget_over_all_views():
    from gridprune import prune
    from gridprune.methods.registry import create

    net = model(LLAVA_NEXT)
    with torch.no_grad(), prune(net, create("fastervlm", keep="11.1%")) as pruning:
        net(**LLAVA_NEXT.call([5, LLAVA_NEXT.image(2)]))
    (report,) = pruning.reports
    assert report.total == 36 + 144
    assert report.kept == 20
    assert report.prompt_total == report.total + 12
