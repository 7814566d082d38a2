"""The measurements of `gridprune bench`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..cues.attention import cls_attention
from ..cues.tower import find_clip_tower
from ..methods.base import Cues, Method
from ..methods.gridprune import GridPrune
from ..pruning import prune
from ..token_map import TokenMap
from .clock import Ratio, Timing, interleave, machine
from .shapes import FixedText, Shape, build, build_text, get_shape

IMAGE_TOKEN = 5
DECISION_SIZES = (576, 2880, 16384, 65536)


@torch.no_grad()
def bench(
    shape_name: str = "llava-1.5-7b",
    *,
    keeps: Sequence[int] = (192, 128, 64),
    rounds: int = 5,
    progress: Callable[[str], None] = lambda message: None,
) -> dict[str, Any]:
    """Measure decision, capture and end-to-end costs with one thread; see the keys of the result.

    Returns:
        ``decision_ms``: zone selection alone, per N at 11.1 %; ``decision_share_of_prefill``: cues + allocation +
        selection (text tower included) over the unpruned prefill, vision tower included, of the *whole* model;
        ``capture_overhead``: tower with capture over tower without, minus one, beside eager attention;
        ``ratio_to_native``: ``"N/k"`` -> pruned end to end over the same tower and k native tokens;
        ``speedup``: ``"N/k"`` -> unpruned over pruned time to first token; each ``[median, quartile, quartile]``.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        shape = get_shape(shape_name)
        progress("decision")
        result: dict[str, Any] = {"machine": machine(), "shape": _describe(shape), "rounds": rounds}
        result["decision_ms"] = {str(n): decision_ms(GridPrune(), n, rounds) for n in DECISION_SIZES}
        model = build(shape)
        progress("capture")
        result["capture_overhead"] = capture_overhead(model, rounds)
        progress("end to end")
        result |= end_to_end(model, shape, keeps, rounds)
        return result
    finally:
        torch.set_num_threads(threads)


def decision_ms(method: Method, tokens: int, rounds: int, share: float = 1 / 9) -> float:
    """Median CPU milliseconds of `method.select` on random cues of one square picture, the token map already known."""
    cues, token_map = random_cues(tokens)
    k = max(1, round(tokens * share))
    timing = interleave({"select": lambda: method.select(cues, token_map, k)}, 3 * rounds, repeats={"select": 5})
    return round(timing["select"].median * 1e3, 4)


def random_cues(tokens: int, width: int = 64) -> tuple[Cues, TokenMap]:
    """Random relevance and saliency for a near-square picture of `tokens` tokens."""
    rows = int(tokens**0.5)
    while tokens % rows:
        rows -= 1
    generator = torch.Generator().manual_seed(0)
    relevance = torch.randn(1, tokens, generator=generator) * 0.05
    saliency = torch.rand(1, tokens, generator=generator)
    return Cues(relevance=relevance, saliency=saliency), TokenMap.from_grid(rows, tokens // rows)


def capture_overhead(model: Any, rounds: int) -> dict[str, Any]:
    """Relative extra cost of reading [CLS] attention and the patch states, against sdpa, and what eager costs."""
    vision = model.model.vision_tower
    tower = find_clip_tower(vision)
    config = model.config.vision_config
    pixels = torch.randn(1, 3, config.image_size, config.image_size)
    block = tower.block(tower.saliency_block)

    def captured() -> Tensor:
        with tower.reading(states={block}, attention={block}) as seen:
            vision(pixels)
        return cls_attention(seen.queries[block][0], seen.keys[block][0])

    def eager() -> Any:
        vision.set_attn_implementation("eager")
        try:
            return vision(pixels, output_attentions=True)
        finally:
            vision.set_attn_implementation("sdpa")

    timing = interleave({"sdpa": lambda: vision(pixels), "capture": captured, "eager": eager}, rounds)
    return {
        f"{type(vision).__name__} {config.image_size}px": [
            round(value - 1, 5) for value in Ratio.of(timing["capture"], timing["sdpa"]).to_list()
        ],
        "eager with output_attentions": [
            round(value - 1, 5) for value in Ratio.of(timing["eager"], timing["sdpa"]).to_list()
        ],
    }


def end_to_end(model: Any, shape: Shape, keeps: Sequence[int], rounds: int) -> dict[str, Any]:
    """Time to first token: unpruned, pruned, and the limit (the same picture, then k native tokens)."""
    pixels = torch.randn(1, 3, shape.image, shape.image)
    text = FixedText(shape.tower_width, shape.projection)
    text_tower = build_text(shape)
    question = torch.full((1, 16), 7)
    question[0, -1] = 3
    variants: dict[str, Callable[[], Any]] = {
        "unpruned": lambda: model(input_ids=_prompt(shape, shape.tokens), pixel_values=pixels, logits_to_keep=1),
        "tower": lambda: model.model.get_image_features(pixels),
        "text tower": lambda: text_tower(input_ids=question),
    }
    for k in keeps:
        variants[f"native {k}"] = _native(model, shape, pixels, k)
        variants[f"pruned {k}"] = _pruned(model, shape, pixels, text, k)
    timing = interleave(variants, rounds)
    name = str(shape.tokens)
    whole = _whole_model(timing, shape)
    return {
        "ratio_to_native": {
            f"{name}/{k}": Ratio.of(timing[f"pruned {k}"], timing[f"native {k}"]).to_list() for k in keeps
        },
        "speedup": {f"{name}/{k}": Ratio.of(timing["unpruned"], timing[f"pruned {k}"]).to_list() for k in keeps},
        "decision_share_of_prefill": {name: _decision_share(timing, keeps, whole)},
        "seconds": {key: round(value.median, 4) for key, value in timing.items()},
        "whole_model_prefill_seconds": round(whole, 3),
        "note": (
            f"{shape.layers} of {shape.all_layers} language-model layers are built; `speedup` is of that model, "
            "`decision_share_of_prefill` scales the layers to all of them."
        ),
    }


def _whole_model(timing: dict[str, Timing], shape: Shape) -> float:
    """Unpruned time to first token with all layers: the tower once, the language model's layers in proportion."""
    tower = timing["tower"].median
    return tower + (timing["unpruned"].median - tower) * shape.all_layers / shape.layers


def _decision_share(timing: dict[str, Timing], keeps: Sequence[int], whole: float) -> float:
    """What pruning adds to tower and shortened prefill (median over k), plus the text tower, over the whole prefill."""
    extra = sorted(
        sorted(a - b for a, b in zip(timing[f"pruned {k}"].seconds, timing[f"native {k}"].seconds))[
            len(timing[f"pruned {k}"].seconds) // 2
        ]
        for k in keeps
    )[len(keeps) // 2]
    return round((max(extra, 0.0) + timing["text tower"].median) / whole, 5)


def _prompt(shape: Shape, images: int) -> Tensor:
    half = shape.prompt // 2
    row = [1, *[10] * (half - 1), *[IMAGE_TOKEN] * images, *[11] * (shape.prompt - half)]
    return torch.tensor([row])


def _native(model: Any, shape: Shape, pixels: Tensor, k: int) -> Callable[[], Any]:
    ids = _prompt(shape, k)

    def run() -> Any:
        output = model.model.get_image_features(pixels, return_dict=True)
        output.pooler_output = [output.pooler_output[0][:k]]
        return model(input_ids=ids, mm_encoder_outputs={"image": output}, logits_to_keep=1)

    return run


def _pruned(model: Any, shape: Shape, pixels: Tensor, text: FixedText, k: int) -> Callable[[], Any]:
    ids = _prompt(shape, shape.tokens)

    def run() -> Any:
        with prune(model, GridPrune(keep=k), question="what is this", clip=text):
            return model(input_ids=ids, pixel_values=pixels, logits_to_keep=1)

    return run


def _describe(shape: Shape) -> dict[str, Any]:
    return {
        "name": shape.name,
        "visual_tokens": shape.tokens,
        "text_tokens": shape.prompt,
        "layers_built": shape.layers,
        "layers": shape.all_layers,
        "dtype": "float32",
    }
