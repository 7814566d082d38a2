"""The cases: one tiny random model per family, and how prompts for it look."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import transformers as hf

from .kit import IMAGE, TEXT, Case, Picture

CLIP = {
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "image_size": 24,
    "patch_size": 4,
    "projection_dim": 16,
}


def _llama() -> Any:
    return hf.LlamaConfig(**TEXT)


# -- LLaVA-1.5 ---------------------------------------------------------------------------------------------------------


def _llava(attention: str = "sdpa") -> Any:
    config = hf.LlavaConfig(
        vision_config=hf.CLIPVisionConfig(**CLIP),
        text_config=_llama(),
        image_token_id=IMAGE,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    config._attn_implementation = attention
    return hf.LlavaForConditionalGeneration(config)


def _square(rows: list[list[Picture]], side: int = 24) -> dict[str, Any]:
    return {"pixel_values": torch.stack([p.pixels(3, side, side) for row in rows for p in row])}


LLAVA = Case("llava", _llava, lambda picture: [IMAGE] * 36, _square, ((24, 24),))


# -- LLaVA-NeXT --------------------------------------------------------------------------------------------------------

PINPOINTS = [[24, 48], [48, 24], [48, 48], [24, 72], [72, 24]]


def _llava_next(attention: str = "sdpa") -> Any:
    config = hf.LlavaNextConfig(
        vision_config=hf.CLIPVisionConfig(**CLIP),
        text_config=_llama(),
        image_token_id=IMAGE,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_grid_pinpoints=PINPOINTS,
    )
    config._attn_implementation = attention
    return hf.LlavaNextForConditionalGeneration(config)


def _anyres_tiles(size: tuple[int, int]) -> int:
    from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

    return int(image_size_to_num_patches(list(size), PINPOINTS, 24))


def anyres_count(size: tuple[int, int], side: int = 6) -> int:
    """Tokens of a picture: overview, mosaic cut to the picture's shape, and a newline behind every row of it."""
    from transformers.models.llava_next.modeling_llava_next import get_anyres_image_grid_shape

    down, across = get_anyres_image_grid_shape(list(size), PINPOINTS, 24)
    rows, columns = down * side, across * side
    height, width = size
    if width / height > columns / rows:
        rows -= 2 * ((rows - int(round(height * columns / width, 7))) // 2)
    else:
        columns -= 2 * ((columns - int(round(width * rows / height, 7))) // 2)
    return side * side + rows * (columns + 1)


def _anyres(rows: list[list[Picture]]) -> dict[str, Any]:
    pictures = [p for row in rows for p in row]
    most = max(_anyres_tiles(p.size) for p in pictures)
    pixels = torch.zeros(len(pictures), most, 3, 24, 24)
    for i, picture in enumerate(pictures):
        tiles = _anyres_tiles(picture.size)
        pixels[i, :tiles] = picture.pixels(tiles, 3, 24, 24)
    return {"pixel_values": pixels, "image_sizes": torch.tensor([p.size for p in pictures])}


LLAVA_NEXT = Case(
    "llava-next",
    _llava_next,
    lambda picture: [IMAGE] * anyres_count(picture.size),
    _anyres,
    ((48, 40), (20, 48), (48, 48)),
)

CASES = [LLAVA, LLAVA_NEXT]
ATTENTION = {case.name: partial(case.build) for case in CASES}
