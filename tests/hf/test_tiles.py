"""Images of several tiles in families whose prompt alone tells which tiles belong together."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from transformers import BatchFeature

from gridprune import prune
from gridprune.demo.engine import Engine
from gridprune.eval.data import Question, Scene
from gridprune.eval.entries import parse_list
from gridprune.eval.own import PerQuestion
from gridprune.eval.shared import cells
from gridprune.methods import create
from gridprune.runtime import Loaded

from .kit import Sample, model, shuffled
from .models import IDEFICS3, INTERNVL, SMOLVLM
from .newer import AYA_VISION, COHERE2_VISION, LFM2_VL, QIANFAN_OCR
from .words import processor

TILED = [IDEFICS3, SMOLVLM, INTERNVL, AYA_VISION, COHERE2_VISION, QIANFAN_OCR, LFM2_VL]


@pytest.fixture(params=TILED, ids=lambda case: case.name)
def case(request):
    return request.param


@pytest.fixture
def loaded(case) -> Loaded:
    """A model whose processor sees the same image, cut into tiles, whatever it is given."""

    class Processor(SimpleNamespace):
        def __call__(self, **given):
            return BatchFeature(case.call([*shuffled(1), case.image(0), *shuffled(2)]))

        def batch_decode(self, ids, **how):
            return ["yes"] * len(ids)

    return Loaded("tiles", model(case), Processor(**vars(processor("{{ messages }}"))))


def tiles(case, image: Sample) -> torch.Tensor:
    return case.vision([[image]])["pixel_values"]


def test_the_image_of_a_report_is_the_whole_one(case):
    """It comes behind the image's tiles."""
    images = [case.image(0), Sample(case.sizes[0], seed=5)]
    with prune(model(case), create("random", keep=3)) as pruning, torch.no_grad():
        model(case)(**case.call([*shuffled(1), images[0], 7, images[1], *shuffled(2)]))
    for report, image in zip(pruning.reports, images, strict=True):
        *_, whole = tiles(case, image).flatten(0, -4 if case is not LFM2_VL else -3)
        if case is LFM2_VL:  # patches in a row
            whole = whole.view(*image.size, 4, 4, 3).permute(4, 0, 2, 1, 3).flatten(3, 4).flatten(1, 2)
        low, high = whole.min(), whole.max()
        expected = ((whole - low) / (high - low) * 255).round().to(torch.uint8).permute(1, 2, 0)
        assert torch.equal(torch.frombuffer(bytearray(report.image().tobytes()), dtype=torch.uint8), expected.ravel())


def test_own_questions_are_asked_about_all_tiles(case, loaded):
    whole = case.tokens(case.image(0)).count(case.placeholder)
    scene = Scene(0, Image.new("RGB", (60, 40)), (Question("0", "What?", ("yes",), "all", ((0.1, 0.1, 0.6, 0.9),)),))
    (result,) = PerQuestion(loaded, cells(parse_list("random,oracle"), ["50%"]), 1).run([scene])
    assert result.tokens == {"full": [whole], "random|50%": [(whole + 1) // 2], "oracle|50%": [(whole + 1) // 2]}
    assert result.recall["oracle|50%"] == [1.0]
    assert len(result.places) == whole


def test_the_page_counts_and_draws_all_tiles(case, loaded):
    page, image = Engine(loaded), Image.new("RGB", (60, 40))
    whole = case.tokens(case.image(0)).count(case.placeholder)
    (seen,) = page.see([image], "What?")
    assert page.tokens([image])[0] == len(seen.token_map) == len(seen.saliency) == whole
    assert page.answer([image], "What?", create("random", keep=3)).report.total == whole
