"""The control of runs feeds what Pillow, the stock processor and the stock encoder make of a smaller image."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from PIL.Image import Resampling

from gridprune import families
from gridprune.core.budget import Budget
from gridprune.errors import UnsupportedCallError
from gridprune.eval import data, entries, own, shared
from gridprune.eval.downsample import grid_of, smaller
from gridprune.runtime import load


@torch.no_grad()
def by_hand(loaded, image, size: tuple[int, int], question: str) -> tuple[torch.Tensor, str]:
    """The features (k, D) of an image resized by Pillow, and the stock model's answer."""
    small = image.resize(size, Resampling.BILINEAR)
    text = loaded.processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}],
        add_generation_prompt=True,
    )
    plain = {"do_resize": False, "do_center_crop": False, "return_tensors": "pt"}
    inputs = loaded.processor(text=text, images=small, **plain)
    net = loaded.model
    features = net.get_image_features(inputs["pixel_values"], interpolate_pos_encoding=True).pooler_output[0]
    embeds = net.get_input_embeddings()(inputs["input_ids"])
    embeds[inputs["input_ids"] == net.config.image_token_id] = features
    new = net.generate(inputs_embeds=embeds, max_new_tokens=4, do_sample=False)
    return features, loaded.processor.tokenizer.decode(new[0], skip_special_tokens=True).strip()


@pytest.mark.parametrize(("keep", "size"), [(48, (64, 48)), (64, (64, 64))])
def test_it_feeds_what_the_stock_model_makes_of_a_smaller_image(loaded, keep, size):
    """Patches are 8 x 8 pixels: 48 tokens are 8 columns and 6 rows of them."""
    scenes = list(data.generated("dev", 16).scenes())
    wanted = shared.cells(entries.parse_list("downsample"), [keep])
    for scene, result in zip(scenes, shared.Shared(loaded, wanted).run(scenes), strict=True):
        small = smaller(loaded, families.find(loaded.model), scene.image, "?", Budget(keep))
        for question, given in zip(scene.questions[:3], result.answers[f"downsample|{keep}"]):
            features, text = by_hand(loaded, scene.image, size, question.text)
            assert torch.equal(small.features(families.find(loaded.model)), features)
            assert given == text
        assert set(result.tokens[f"downsample|{keep}"]) == {keep}


def test_the_middle_that_the_tower_sees_is_made_smaller(loaded):
    image = next(data.generated("dev", 8).scenes()).image
    wide = image.resize((image.width * 2, image.height), Resampling.BILINEAR)
    left = image.width // 2
    family = families.find(loaded.model)
    found = smaller(loaded, family, wide, "?", Budget(64))
    middle = wide.crop((left, 0, left + image.width, image.height))
    expected = loaded.processor.image_processor(
        middle.resize((64, 64), Resampling.BILINEAR), do_resize=False, do_center_crop=False, return_tensors="pt"
    )
    assert torch.equal(found.vision["pixel_values"], expected["pixel_values"])


def test_an_image_that_fits_stays_as_it_is(loaded):
    image = next(data.generated("dev", 8).scenes()).image
    found = smaller(loaded, families.find(loaded.model), image, "?", Budget.parse("100%"))
    expected = loaded.processor.image_processor(image, return_tensors="pt")
    assert torch.equal(found.vision["pixel_values"], expected["pixel_values"])
    assert found.tokens == 576


def test_a_control_that_cannot_be_is_refused_before_anything_is_asked():
    wanted = shared.cells(entries.parse_list("downsample"), [640])
    for engine in (shared.Shared, own.PerQuestion):
        with pytest.raises(UnsupportedCallError, match=r"visual tokens .* leave 'downsample' out"):
            engine(load("embedded-next"), wanted, 4)


@pytest.mark.parametrize(("rows", "columns"), [(24, 24), (6, 9), (12, 5), (1, 7)])
def test_the_grid_has_the_most_tokens_and_of_these_the_nearest_shape(rows, columns):
    every = [(r, c) for r in range(1, rows + 1) for c in range(1, columns + 1)]
    for k in range(1, rows * columns + 1):
        most = max(r * c for r, c in every if r * c <= k)
        stretch = {rc: Fraction(rc[0] * columns, rc[1] * rows) for rc in every if rc[0] * rc[1] == most}
        least = min(max(value, 1 / value) for value in stretch.values())
        found = stretch[grid_of(rows, columns, k)]
        assert max(found, 1 / found) == least
    assert grid_of(24, 24, 64) == (8, 8)
    assert grid_of(24, 24, 61) == (6, 10)
