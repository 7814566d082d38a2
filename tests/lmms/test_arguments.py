"""`--model_args` become a method and a pixel range; needs no lmms-eval."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from gridprune.core.budget import Budget
from gridprune.errors import BudgetError, SettingError, UnknownNameError
from gridprune.lmms.arguments import build_method, pixels_of_a_token, set_pixel_range, shrunk, whole_number
from gridprune.methods import create


def test_settings_reach_the_method():
    assert build_method("gridprune", 64, {"zone": 3, "temperature": 0.05}) == create(
        "gridprune", keep=64, zone=3, temperature=0.05
    )
    assert build_method("centered(divprune)", "11.1%", {}) == create(
        "centered", base=create("divprune", keep="11.1%"), keep="11.1%"
    )
    assert build_method("Random", 0.5, {"seed": 7}) == create("random", keep=0.5, seed=7)


def test_all_is_no_method():
    assert build_method("gridprune", "all", {}) is None
    assert build_method("random", " ALL", {}) is None


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("gridprune", 0, {}), BudgetError, "at least one"),
        (("gridprune", "many", {}), BudgetError, "many"),
        (("gridprone", 64, {}), UnknownNameError, "gridprune"),
        (("oracle", 64, {}), UnknownNameError, "evidence"),
        (("gridprune", 64, {"zoom": 2}), SettingError, "zone"),
        (("gridprune", "all", {"zone": 2}), SettingError, "no effect"),
    ],
)
def test_mistakes_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        build_method(*arguments)


def test_whole_numbers():
    assert (whole_number("batch_size", "4"), whole_number("batch_size", 1)) == (4, 1)
    for value in ("auto", "0", -1, "2.5"):
        with pytest.raises(SettingError, match="batch_size"):
            whole_number("batch_size", value)


def qwen_tokens(processor, image):
    seen = processor.image_processor(images=[image], return_tensors="pt")
    return int(seen["image_grid_thw"].prod()) // 4


@pytest.mark.parametrize(
    ("size", "keep", "tokens"),
    [
        ((672, 672), "64", 64),  # 8 x 8
        ((672, 672), "192", 196),  # 14 x 14, for 13.9 x 13.9
        ((672, 672), "32", 36),  # 6 x 6: 5.7 x 5.7
        ((672, 672), "25%", 144),  # 12 x 12 of 24 x 24
        ((1120, 560), "200", 200),  # its own shape: 20 x 10 of 40 x 20
        ((280, 140), "200", 50),  # not enlarged: 10 x 5
    ],
)
def test_downsampled_images_have_the_budgets_tokens(size, keep, tokens):
    """As Qwen's processor counts them, by hand in the comments."""
    processor = SimpleNamespace(image_processor=Qwen2VLImageProcessorPil())
    per_token = pixels_of_a_token(processor)
    assert per_token == 28 * 28
    image = shrunk(Image.new("RGB", size), budget=Budget.parse(keep), per_token=per_token)
    assert qwen_tokens(processor, image) == tokens


def test_only_processors_with_a_pixel_range_shrink():
    clip = SimpleNamespace(size={"shortest_edge": 336}, patch_size=14)
    assert pixels_of_a_token(SimpleNamespace(image_processor=clip)) is None


def test_pixel_range_decides_the_grid():
    def tokens(fewest, most):
        processor = SimpleNamespace(image_processor=Qwen2VLImageProcessorPil())
        set_pixel_range(processor, fewest, most)
        return qwen_tokens(processor, Image.new("RGB", (500, 300)))

    assert tokens(None, None) == 18 * 11  # 500 / 28 and 300 / 28
    assert tokens(None, 28 * 28 * 100) <= 100
    assert tokens(28 * 28 * 400, None) >= 400


def test_pixel_range_needs_a_processor_that_has_one():
    processor = SimpleNamespace(image_processor=SimpleNamespace(size={"shortest_edge": 336}))
    set_pixel_range(processor, None, None)
    with pytest.raises(SettingError, match="resize"):
        set_pixel_range(processor, None, 3136)
