"""What the processor makes of a request, without an engine: hashes, places, and errors that become a 400."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from kit import Reference, Request
from models import CASES, image, words
from transformers import AutoConfig
from vllm.config import ModelConfig
from vllm.multimodal import MULTIMODAL_REGISTRY

from gridprune.errors import GridPruneError, UnsupportedModelError
from gridprune.vllm import listening, overrides
from gridprune.vllm.families import OnVllm, VllmInternVL, VllmOneVision

SHOWN = image(1, (160, 128))


class Made:
    """A processor of one checkpoint under some settings."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        config = ModelConfig(
            model=str(folder), hf_overrides=overrides(str(folder), **settings), dtype="float32", max_model_len=1024,
            limit_mm_per_prompt={"image": 4}, enable_mm_embeds=True,
        )  # fmt: skip
        self.processor = MULTIMODAL_REGISTRY.create_processor(config)
        self.reference = Reference(folder)

    def __call__(self, *turns: str, images: int = 1, **options: Any) -> Any:
        request = Request([SHOWN] * images, turns)
        return self.run(self.reference.prompt(request), request.images, **options)

    def run(self, prompt: str, images: Any, **options: Any) -> Any:
        return self.processor(
            prompt,
            self.processor.info.parse_mm_data({"image": images}),
            hf_processor_mm_kwargs={f"gridprune_{name}": value for name, value in options.items()},
        )

    def hash(self, *turns: str, **options: Any) -> str:
        return str(self(*turns, **options)["mm_hashes"]["image"][0])


@pytest.fixture(scope="module")
def made(checkpoint: Callable[[str], Path]) -> Callable[..., Made]:
    known: dict[Any, Made] = {}

    def make(name: str = "llava", **settings: Any) -> Made:
        key = (name, repr(settings))
        if key not in known:
            known[key] = Made(checkpoint(name), **settings)
        return known[key]

    return make


def test_hash_holds_question_budget_and_settings(made: Callable[..., Made]) -> None:
    one = made(keep=40)
    asked = one.hash(words(1))
    assert one.hash(words(1)) == asked
    assert one.hash(words(2)) != asked
    assert one.hash(words(1), keep=41) != asked
    assert one.hash(words(1), question=words(2)) == one.hash(words(2))
    assert made(keep=40, method="gridprune(alpha=0.25)").hash(words(1)) != asked
    assert made(keep=40, method="relevance").hash(words(1)) != asked


@pytest.mark.parametrize("name", ["llava", "qwen2.5-vl"])
def test_later_turns_change_the_hash_as_the_setting_says(made: Callable[..., Made], name: str) -> None:
    """By default the question to be answered guides; guided by the image's turn, later turns change nothing."""
    last, turn = made(name, keep=40), made(name, keep=40, guide="turn")
    assert last.hash(words(1), words(2), words(3)) == last.hash(words(3))
    assert turn.hash(words(1), words(2), words(3)) == turn.hash(words(1)) != turn.hash(words(3))


def test_without_text_the_image_alone_counts(made: Callable[..., Made]) -> None:
    one = made(keep=40, method="fastervlm")
    assert one.hash(words(1)) == one.hash(words(2)) == one.hash("")


@pytest.mark.parametrize("name", list(CASES))
def test_places_are_the_kept_tokens(made: Callable[..., Made], name: str) -> None:
    one = made(name, keep=20)
    full = one(words(1), keep="100%")["mm_placeholders"]["image"][0].get_num_embeds()
    counts = [(None, 20), (7, 7), ("100%", full)]
    for keep, expected in counts:
        given = {} if keep is None else {"keep": keep}
        assert one(words(1), **given)["mm_placeholders"]["image"][0].get_num_embeds() == expected
    several = one(words(1), images=3, keep=[5, 6, "100%"])["mm_placeholders"]["image"]
    assert [place.get_num_embeds() for place in several] == [5, 6, full]


def test_what_a_processor_writes_around_an_image_stays(made: Callable[..., Made]) -> None:
    """InternVL's and Gemma's own tokens in front of an image and behind it."""
    for name, before in (("internvl", []), ("gemma3", ["\n\n"])):
        one = made(name, keep=3)
        out = one(words(1))
        (place,) = out["mm_placeholders"]["image"]
        ids = out["prompt_token_ids"][place.offset : place.offset + place.length]
        written = one.reference.processor.tokenizer.convert_ids_to_tokens(ids)
        assert written == [*before, "<|vision_start|>", *["<|image_pad|>"] * 3, "<|vision_end|>", *before]


def test_pan_and_scan_is_refused(made: Callable[..., Made]) -> None:
    one = made("gemma3", keep=3)
    prompt = one.reference.prompt(Request([SHOWN], [words(1)]))
    items = one.processor.info.parse_mm_data({"image": [SHOWN]})
    pan = {"do_pan_and_scan": True, "pan_and_scan_min_crop_size": 8, "pan_and_scan_min_ratio_to_activate": 1.0}
    with pytest.raises(ValueError, match="do_pan_and_scan"):
        one.processor(prompt, items, hf_processor_mm_kwargs={**pan, "pan_and_scan_max_num_crops": 4})


@pytest.mark.parametrize(
    ("name", "family", "field", "value"),
    [
        ("llava-onevision", VllmOneVision, "vision_aspect_ratio", "anyres_max_3"),
        ("internvl", VllmInternVL, "vision_feature_layer", -2),
    ],
)
def test_checkpoints_that_vllm_reads_otherwise_are_refused(
    checkpoint: Callable[[str], Path], name: str, family: type[OnVllm], field: str, value: Any
) -> None:
    config = AutoConfig.from_pretrained(checkpoint(name))
    family.refuse(config)
    setattr(config, field, value)
    with pytest.raises(UnsupportedModelError, match=str(value)):
        family.refuse(config)


def test_the_servers_count_is_an_upper_limit_the_requests_is_not(made: Callable[..., Made]) -> None:
    one = made("qwen2-vl", keep=75)
    prompt = one.reference.prompt(Request([SHOWN], [words(1)]))
    small = image(1, (96, 64))
    assert one.run(prompt, [small])["mm_placeholders"]["image"][0].length == 24
    with pytest.raises(ValueError, match="only 24"):
        one.run(prompt, [small], keep=75)


@pytest.mark.parametrize("name", ["llava", "llava-next", "qwen2.5-vl"])
def test_who_listens_hears_what_is_kept_of_each_image(made: Callable[..., Made], name: str) -> None:
    one = made(name, keep=20, min_tokens=12, methods=["divprune"])
    total = one(words(1), keep="100%", min_tokens=0)["mm_placeholders"]["image"][0].length
    total -= {"llava-next": 20}.get(name, 0)  # newlines, one a row: 128/160 of 24, padding cut off
    with listening() as prompts:
        one(words(1))
        one(words(1), images=2, keep=[5, "100%"], method="divprune")
        one(words(1), keep=5, min_tokens=0)
    assert prompts == [
        [(20, total, "gridprune")],
        [(12, total, "divprune"), (total, total, "divprune")],
        [(5, total, "gridprune")],
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep": 0}, "at least one"),
        ({"keep": 145}, "only 144"),
        ({"keep": "many"}, "Cannot read 'many'"),
        ({"keep": [3, 4]}, "2 values for 1 images"),
        ({"keep": {"count": 3}}, "Cannot read"),
        ({"question": ""}, "asks nothing"),
        ({"question": 3}, "must be text"),
        ({"budget": 3}, "gridprune_budget"),
        ({"method": "divprune"}, "may choose: nothing else"),
        ({"min_tokens": 2.5}, "whole number"),
    ],
)
def test_bad_requests_are_value_errors(made: Callable[..., Made], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        made(keep=40)(words(1), **options)
    assert isinstance(caught.value, GridPruneError)


def test_a_budget_that_the_method_cannot_meet(made: Callable[..., Made]) -> None:
    one = made(keep=100, method="gridprune(zone=2, minimum=2)")
    assert one(words(1))["mm_placeholders"]["image"][0].length == 100
    with pytest.raises(ValueError, match="minimum = 2"):
        one(words(1), keep=71)


def test_no_question_and_wrong_placeholders(made: Callable[..., Made]) -> None:
    with pytest.raises(ValueError, match="asks nothing"):
        made(keep=40)("")
    with pytest.raises(ValueError, match="0 image placeholders for 1 images"):
        made(keep=40).run("USER: w1 ASSISTANT:", [SHOWN])


def test_embeddings_pass_unpruned(made: Callable[..., Made]) -> None:
    out = made(keep=40).run("USER: <image> w1 ASSISTANT:", torch.randn(1, 144, 128))
    assert out["mm_placeholders"]["image"][0].length == 144
    assert "gridprune" not in out["mm_kwargs"]["image"][0]


def test_the_profile_sees_images_kept_whole(made: Callable[..., Made]) -> None:
    dummy = made(keep=40).processor.get_dummy_mm_inputs({"image": 1})
    assert dummy["mm_placeholders"]["image"][0].length == 144


def test_options_of_the_server_cannot_name_ours(checkpoint: Callable[[str], Path]) -> None:
    folder = str(checkpoint("llava"))
    config = ModelConfig(
        model=folder, hf_overrides=overrides(folder), dtype="float32", mm_processor_kwargs={"gridprune_kept": 3}
    )
    with pytest.raises(ValueError, match="gridprune_kept"):
        MULTIMODAL_REGISTRY.create_processor(config)
