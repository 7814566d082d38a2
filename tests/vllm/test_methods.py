"""Every method of the registry chooses in vLLM what it chooses in transformers, or is refused by name at start."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from kit import Reference, engine
from models import image, words

from gridprune import families
from gridprune.core.token_map import TokenMap
from gridprune.cues.clip_text import ClipText
from gridprune.errors import GridPruneError
from gridprune.methods import available, create
from gridprune.selection.collect import TextSide
from gridprune.selection.selector import Selector
from gridprune.vllm.architectures import of_config
from gridprune.vllm.settings import FIELD, ResolvedRequest

EVERYWHERE = {  # inside the language model, with weights, on videos, or with a count of its own
    "fastv", "pyramiddrop", "sparsevlm", "dart-inside", "evs", "prumerge", "prumerge-plus", "trim-iqr",
    "hawk", "first-layer", "vidcom2", "zoo-prune",
}  # fmt: skip
FUSED = {
    "s2prune",
    "prumerge-fixed",
    "prumerge-plus-fixed",
    "trim",
    "visionzip",
    "vscan-tower",
}  # read crops, or merge early
REFUSED = {"llava": EVERYWHERE, "qwen2.5-vl": EVERYWHERE | FUSED, "llava-onevision": EVERYWHERE | FUSED - {"s2prune"}}
KEEP = 20


class Both(NamedTuple):
    """One checkpoint in vLLM and in transformers."""

    name: str
    llm: Any
    reference: Reference


@pytest.fixture(scope="module", params=list(REFUSED))
def both(request: pytest.FixtureRequest, checkpoint: Callable[[str], Path]) -> Iterator[Both]:
    folder = checkpoint(request.param)
    # Pixels come normalised from transformers' processor; vLLM would otherwise do that on the device.
    with engine(folder, {"keep": KEEP}, mm_device_do_normalize=False) as llm:
        yield Both(request.param, llm, Reference(folder))


def test_refused_methods_are_named(both: Both) -> None:
    architecture = of_config(both.reference.model.config)
    for name in available():
        if name in REFUSED[both.name]:
            with pytest.raises(GridPruneError, match=name):
                architecture.check(create(name))
        else:
            architecture.check(create(name))


def test_the_others_choose_the_same(both: Both) -> None:
    """Two towers differ in their last bits, which may decide a near tie: one of three sets of images must agree."""
    for name in sorted(set(available()) - REFUSED[both.name]):
        differences: list[float] = []
        while not differences or (differences[-1] >= 1e-3 and len(differences) < 3):
            differences.append(largest_difference(both, name, seed=2 * len(differences)))
        assert differences[-1] < 1e-3, (name, differences)


def test_a_broken_image_hurts_no_neighbour(both: Both) -> None:
    """Pixels that are no numbers: evenly spread tokens of that image alone, whichever methods share the batch."""
    sizes = [(96, 96)] * 3
    shown = [image(90 + i, size, blocks=48) for i, size in enumerate(sizes)]
    processed = both.reference.processor.image_processor(images=shown, return_tensors="pt")
    vision = families.find(both.reference.model).vision(dict(processed))
    assert vision is not None
    pixels = vision["pixel_values"]
    broken = pixels.clone()
    broken[: len(pixels) // 3] = float("nan")
    total = 144 if both.name == "llava" else 36
    asked = [ResolvedRequest(KEEP, total, words(1), name) for name in ("relevance", "relevance", "fastervlm")]
    methods = [create(name) for name in ("relevance", "fastervlm")]
    right, found = [
        both.llm.apply_model(_Embed(methods, {**vision, "pixel_values": each}, asked))[0] for each in (pixels, broken)
    ]
    assert [len(each) for each in found] == [KEEP] * 3
    assert bool(found[0].isnan().any())
    torch.testing.assert_close(found[1:], right[1:], rtol=0, atol=0)


def largest_difference(both: Both, name: str, seed: int) -> float:
    """Between the embeddings that vLLM and transformers keep of two images."""
    model, family = both.reference.model, families.find(both.reference.model)
    sizes = [(96, 96), (96, 96)] if both.name == "llava" else [(160, 128), (96, 160)]
    questions = [words(1), words(2)]
    shown = [image(seed + i, size, blocks=48) for i, size in enumerate(sizes)]
    vision = family.vision(dict(both.reference.processor.image_processor(images=shown, return_tensors="pt")))
    assert vision is not None
    clip = both.reference.folder / "clip"
    text = TextSide(ClipText.load(clip) if clip.is_dir() else None, both.reference.processor.tokenizer)
    maps = family.token_maps(vision)
    width = model.config.text_config.hidden_size
    method = create(name, keep=KEEP)
    with torch.no_grad():
        selector = Selector.of(family, text, method)
        encoded = selector.encode(vision, maps)
        choices = selector.choose(method, encoded, questions)
        masks = [without_separators(each, choice.kept) for each, choice in zip(maps, choices)]
        expected = [selector.gather(encoded, i, choice, masks[i]) for i, choice in enumerate(choices)]
    totals = [len(token_map.candidates) for token_map in maps]
    asked = [ResolvedRequest(len(c.kept), n, question, name) for c, n, question in zip(choices, totals, questions)]
    found = both.llm.apply_model(_Embed([method], vision, asked))[0]
    pairs = zip(found, expected, strict=True)
    return max(float((one[:, :width] - other).abs().max()) for one, other in pairs)


def without_separators(token_map: TokenMap, kept: torch.Tensor) -> torch.Tensor:
    """(n,) bool: what stays in vLLM, of all tokens of an image; one that is kept whole keeps its separators."""
    mask = torch.full_like(token_map.separator, len(kept) == len(token_map.candidates))
    mask[token_map.candidate_positions[kept]] = True
    return mask


class _Embed:
    """What the model makes of images under other methods."""

    def __init__(self, methods: list[Any], vision: dict[str, Any], asked: list[ResolvedRequest]) -> None:
        self.methods, self.vision, self.asked = methods, vision, asked

    def __call__(self, model: Any) -> Any:
        usual = model.selector
        model.selector = Selector.of(model.family, model.selector.text, *self.methods)
        try:
            return model.embed_multimodal(**self.vision, **{FIELD: [ask.pack() for ask in self.asked]})
        finally:
            model.selector = usual
