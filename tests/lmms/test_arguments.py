"""`--model_args` become a method and a pixel range; needs no lmms-eval."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from gridprune.errors import BudgetError, SettingError, UnknownNameError
from gridprune.lmms.arguments import build_method, set_pixel_range, whole_number
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


def test_pixel_range_decides_the_grid():
    from PIL import Image
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    def tokens(fewest, most):
        processor = SimpleNamespace(image_processor=Qwen2VLImageProcessorPil())
        set_pixel_range(processor, fewest, most)
        seen = processor.image_processor(images=[Image.new("RGB", (500, 300))], return_tensors="pt")
        return int(seen["image_grid_thw"].prod()) // 4

    assert tokens(None, None) == 18 * 11  # 500 / 28 and 300 / 28
    assert tokens(None, 28 * 28 * 100) <= 100
    assert tokens(28 * 28 * 400, None) >= 400


def test_pixel_range_needs_a_processor_that_has_one():
    processor = SimpleNamespace(image_processor=SimpleNamespace(size={"shortest_edge": 336}))
    set_pixel_range(processor, None, None)
    with pytest.raises(SettingError, match="resize"):
        set_pixel_range(processor, None, 3136)
