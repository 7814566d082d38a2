"""The cases: one tiny random model per family, and how prompts for it look."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
import transformers as hf

from .kit import IMAGE, TEXT, VIDEO, VOCABULARY, Case, Picture, Written

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

# -- Qwen-VL -----------------------------------------------------------------------------------------------------------

QWEN_VISION = {
    "depth": 3,
    "num_heads": 2,
    "in_channels": 3,
    "patch_size": 4,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}
MROPE = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
VISION_IDS = {
    "image_token_id": IMAGE,
    "video_token_id": VIDEO,
    "vision_start_token_id": 102,
    "vision_end_token_id": 103,
}


def _qwen2_vl() -> Any:
    vision = {**QWEN_VISION, "embed_dim": 16, "hidden_size": 32, "mlp_ratio": 2}
    return hf.Qwen2VLForConditionalGeneration(
        hf.Qwen2VLConfig(vision_config=vision, text_config={**TEXT, "rope_parameters": MROPE}, **VISION_IDS)
    )


def _qwen2_5_vl() -> Any:
    vision = {**QWEN_VISION, "hidden_size": 16, "out_hidden_size": 32, "intermediate_size": 24, "window_size": 16}
    vision["fullatt_block_indexes"] = [1]
    return hf.Qwen2_5_VLForConditionalGeneration(
        hf.Qwen2_5_VLConfig(vision_config=vision, text_config={**TEXT, "rope_parameters": MROPE}, **VISION_IDS)
    )


def _qwen3_vl() -> Any:
    vision = {**QWEN_VISION, "hidden_size": 16, "out_hidden_size": 32, "intermediate_size": 24}
    vision |= {"deepstack_visual_indexes": [0, 1], "num_position_embeddings": 64}
    text = {**TEXT, "head_dim": 8, "rope_parameters": {**MROPE, "mrope_section": [2, 1, 1], "mrope_interleaved": True}}
    return hf.Qwen3VLForConditionalGeneration(hf.Qwen3VLConfig(vision_config=vision, text_config=text, **VISION_IDS))


def _qwen_grid(picture: Picture) -> tuple[int, int, int]:
    return (max(picture.frames, 1), *picture.size)


def _qwen_tokens(picture: Picture) -> list[int]:
    frames, rows, columns = _qwen_grid(picture)
    return [102, *[VIDEO if picture.frames else IMAGE] * (frames * rows * columns // 4), 103]


def _qwen_vision(rows: list[list[Picture]]) -> dict[str, Any]:
    pictures = [p for row in rows for p in row]
    grids = [_qwen_grid(p) for p in pictures]
    pixels = torch.cat([p.pixels(t * h * w, 3 * 2 * 4 * 4) for p, (t, h, w) in zip(pictures, grids)])
    kind = "video" if pictures[0].frames else "image"
    name = "pixel_values_videos" if kind == "video" else "pixel_values"
    return {name: pixels, f"{kind}_grid_thw": torch.tensor(grids)}


def _qwen_types(ids: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"mm_token_type_ids": (ids == IMAGE).int() + 2 * (ids == VIDEO).int()}


def _mrope(net: Any, row: Any, written: Written) -> dict[str, Any]:
    """Positions of the unpruned prompt, counted by hand, of the tokens that were written."""
    positions: list[tuple[int, int, int]] = []
    following = 0
    for item in row:
        for kind in [item] if isinstance(item, int) else ["start", "picture", "end"]:
            if kind != "picture":
                positions.append((following,) * 3)
                following += 1
                continue
            frames, rows, columns = _qwen_grid(item)
            cells = [(t, r, c) for t in range(frames) for r in range(rows // 2) for c in range(columns // 2)]
            positions += [
                (following + t * _FRAME_STEP[type(net).__name__], following + r, following + c) for t, r, c in cells
            ]
            following += max(rows, columns) // 2
    return {"position_ids": torch.tensor([positions[column] for column in written.columns]).T[:, None]}


_FRAME_STEP = {
    "Qwen2VLForConditionalGeneration": 1,
    "Qwen2_5_VLForConditionalGeneration": 4,  # tokens_per_second
    "Qwen3VLForConditionalGeneration": 1,
}


def _deepstack(net: Any, case: Case, row: Any, written: Written, masks: Any, call: dict[str, Any]) -> Any:
    """Qwen3-VL's forward from embeddings leaves the deepstack planes out: call its language model with them."""
    pictures = [item for item in row if isinstance(item, Picture)]
    labels, arguments = call.pop("labels", None), {}
    if pictures:
        planes = [torch.cat(list(plane)) for plane in case._encoded(net, pictures).deepstack_features]
        kept = torch.cat([mask.bool() for mask in masks])
        visual = torch.tensor([[place is not None for place in written.visual]])
        arguments = {"visual_pos_masks": visual, "deepstack_visual_embeds": [plane[kept] for plane in planes]}
    hidden = net.model.language_model(**call, **arguments).last_hidden_state
    logits = net.lm_head(hidden)
    loss = None if labels is None else net.loss_function(logits=logits, labels=labels, vocab_size=VOCABULARY)
    return SimpleNamespace(logits=logits, loss=loss)


_QWEN = {"tokens": _qwen_tokens, "vision": _qwen_vision, "extras": _qwen_types, "reference": _mrope}
_STILL = {"sizes": ((4, 8), (6, 6), (8, 4)), **_QWEN}
QWEN2_VL = Case("qwen2-vl", _qwen2_vl, **_STILL)
QWEN2_5_VL = Case("qwen2.5-vl", _qwen2_5_vl, **_STILL)
QWEN3_VL = Case("qwen3-vl", _qwen3_vl, **_STILL, run=_deepstack)

CASES = [LLAVA, LLAVA_NEXT, QWEN2_VL, QWEN2_5_VL, QWEN3_VL]
