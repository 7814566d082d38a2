"""Scenes of the next embedded model: the same on every machine, every patch one owner, splits disjoint."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from training.embedded.backgrounds import SPLITS as BACKGROUND_SPLITS
from training.embedded.bitmaps import LOOKS, drawing, drawings, fonts
from training.embedded.questions import balanced
from training.embedded.scenes import LLAVA, NEXT, PATCH, Form, Scene, make_scene
from training.embedded.vocabulary import COLOR_RGB, N_CLASSES

SPLITS = ("train", "dev", "test")
CHECKSUMS = {"train": "ef4f5c5a681088d7", "dev": "ae1814e79658ebc7", "test": "23a2ba00d7a7826d"}


def checksum(split: str, form: Form) -> str:
    state = hashlib.sha256()
    for index in (0, 1, 4):
        scene = make_scene(split, index, form=form)
        state.update(scene.pixels.tobytes())
        for question in balanced(scene):
            state.update(repr((question.text, question.answer, question.boxes)).encode())
    return state.hexdigest()[:16]


@pytest.mark.parametrize("split", SPLITS)
def test_scenes_are_identical_on_every_machine(split: str) -> None:
    assert checksum(split, LLAVA) == CHECKSUMS[split]


def test_seeds_splits_and_forms_share_no_scene() -> None:
    layouts = {
        repr([(item.label, item.box) for item in make_scene(split, 0, seed=seed, form=form).items])
        for split in SPLITS
        for seed in (0, 1)
        for form in (LLAVA, NEXT)
    }
    assert len(layouts) == 12


def test_splits_share_no_size_slant_font_or_period() -> None:
    train, dev, test = (LOOKS[split] for split in SPLITS)
    assert not set(train.sizes) & (set(dev.sizes) | set(test.sizes))
    assert len({*train.slants, *dev.slants, *test.slants}) == len(train.slants) + 2
    for of in (lambda split: set(fonts(split)), lambda split: set(BACKGROUND_SPLITS[split][1])):
        assert len(set.union(*map(of, SPLITS))) == sum(len(of(split)) for split in SPLITS)


@pytest.mark.parametrize("form", [LLAVA, NEXT], ids=["llava", "next"])
@pytest.mark.parametrize("split", SPLITS)
def test_every_patch_of_a_photo_belongs_to_at_most_one_item(split: str, form: Form) -> None:
    for index in range(30):
        scene = make_scene(split, index, form=form)
        if scene.is_page:
            continue
        owners = np.zeros((form.side // PATCH,) * 2, int)
        for item in scene.items:
            x0, y0, x1, y1 = item.card
            assert 0 <= x0 < x1 <= form.side
            assert 0 <= y0 < y1 <= form.side
            owners[y0 // PATCH : -(-y1 // PATCH), x0 // PATCH : -(-x1 // PATCH)] += 1
        assert owners.max() == 1


def pages(split: str, n: int) -> list[Scene]:
    return [make_scene(split, 5 * i + 4) for i in range(n)]


@pytest.mark.parametrize("split", SPLITS)
def test_words_of_a_page_are_in_order_inside_and_never_repeated(split: str) -> None:
    for scene in pages(split, 24):
        assert scene.is_page
        assert len({item.label for item in scene.texts}) == len(scene.texts)
        for one, two in zip(scene.texts, scene.texts[1:]):
            if one.line == two.line:
                assert one.box[2] < two.box[0]
            else:
                assert one.box[3] < two.box[1]
            assert two.box[2] <= 192
            assert two.box[3] <= 192


def test_a_dark_mark_is_where_its_box_says() -> None:
    """The pixels inside a spot's box, without its border, are its colour: measured on the image."""
    for index in range(12):
        scene = make_scene("train", index)
        for item in scene.objects:
            if item.dot is not None:
                color, (x0, y0, x1, y1) = item.dot
                inside = scene.pixels[y0 + 1 : y1 - 1, x0 + 1 : x1 - 1].reshape(-1, 3).astype(int)
                assert (inside == inside[0]).all()
                assert abs(inside[0] - np.array(COLOR_RGB[color - 1])).max() <= 16


def test_ink_is_inside_its_box_only() -> None:
    """Without an item the image differs in the item's card alone."""
    scene = make_scene("dev", 1)
    last = scene.items[-1]
    without = Scene(scene.split, scene.seed, scene.index, scene.items[:-1], scene.targets, scene.background)
    changed = (scene.pixels != without.pixels).any(-1)
    x0, y0, x1, y1 = last.card
    assert changed[y0:y1, x0:x1].any()
    changed[y0:y1, x0:x1] = False
    assert not changed.any()


@pytest.mark.parametrize("label", range(1, N_CLASSES + 1, 7))
def test_a_drawing_is_as_large_as_asked_and_never_overflows(label: int) -> None:
    for size in (14, 64):
        bitmap = drawing(drawings(label)[0], size, 3, True)
        assert max(bitmap.w, bitmap.h) == size
        assert int((bitmap.ink.astype(int) + 255 * bitmap.rest.astype(int)).max()) < 2**16
