"""The cases: one tiny random model per family, and how prompts for it look."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import torch
import transformers as hf

from .kit import IMAGE, TEXT, VIDEO, VOCABULARY, Case, Sample, Written

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


def square(rows: list[list[Sample]], side: int = 24) -> dict[str, Any]:
    return {"pixel_values": torch.stack([p.pixels(3, side, side) for row in rows for p in row])}


LLAVA = Case("llava", _llava, lambda image: [IMAGE] * 36, square, ((24, 24),))


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
    """Tokens of an image: overview, mosaic cut to the image's shape, and a newline behind every row of it."""
    from transformers.models.llava_next.modeling_llava_next import get_anyres_image_grid_shape

    down, across = get_anyres_image_grid_shape(list(size), PINPOINTS, 24)
    rows, columns = down * side, across * side
    height, width = size
    if width / height > columns / rows:
        rows -= 2 * ((rows - int(round(height * columns / width, 7))) // 2)
    else:
        columns -= 2 * ((columns - int(round(width * rows / height, 7))) // 2)
    return side * side + rows * (columns + 1)


def _anyres(rows: list[list[Sample]]) -> dict[str, Any]:
    images = [p for row in rows for p in row]
    most = max(_anyres_tiles(p.size) for p in images)
    pixels = torch.zeros(len(images), most, 3, 24, 24)
    for i, image in enumerate(images):
        tiles = _anyres_tiles(image.size)
        pixels[i, :tiles] = image.pixels(tiles, 3, 24, 24)
    return {"pixel_values": pixels, "image_sizes": torch.tensor([p.size for p in images])}


LLAVA_NEXT = Case(
    "llava-next",
    _llava_next,
    lambda image: [IMAGE] * anyres_count(image.size),
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
    vision |= {"depth": 4, "fullatt_block_indexes": [1, 3]}
    return hf.Qwen2_5_VLForConditionalGeneration(
        hf.Qwen2_5_VLConfig(vision_config=vision, text_config={**TEXT, "rope_parameters": MROPE}, **VISION_IDS)
    )


EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}


def _qwen3_vl(kind: str = "Qwen3VL", **experts: Any) -> Any:
    vision = {**QWEN_VISION, "hidden_size": 16, "out_hidden_size": 32, "intermediate_size": 24}
    vision |= {"depth": 5, "deepstack_visual_indexes": [1, 2, 3], "num_position_embeddings": 64}
    text = {
        **TEXT,
        "num_hidden_layers": 5,
        "head_dim": 8,
        "rope_parameters": {**MROPE, "mrope_section": [2, 1, 1], "mrope_interleaved": True},
    }
    config = getattr(hf, f"{kind}Config")(vision_config=vision, text_config={**text, **experts}, **VISION_IDS)
    return getattr(hf, f"{kind}ForConditionalGeneration")(config)


def _qwen_grid(image: Sample) -> tuple[int, int, int]:
    return (max(image.frames, 1), *image.size)


def _qwen_tokens(image: Sample) -> list[int]:
    frames, rows, columns = _qwen_grid(image)
    return [102, *[VIDEO if image.frames else IMAGE] * (frames * rows * columns // 4), 103]


def _qwen_vision(rows: list[list[Sample]]) -> dict[str, Any]:
    images = [p for row in rows for p in row]
    grids = [_qwen_grid(p) for p in images]
    pixels = torch.cat([p.pixels(t * h * w, 3 * 2 * 4 * 4) for p, (t, h, w) in zip(images, grids)])
    kind = "video" if images[0].frames else "image"
    name = "pixel_values_videos" if kind == "video" else "pixel_values"
    return {name: pixels, f"{kind}_grid_thw": torch.tensor(grids)}


def _qwen_types(ids: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"mm_token_type_ids": (ids == IMAGE).int() + 2 * (ids == VIDEO).int()}


def _mrope(net: Any, row: Any, written: Written) -> dict[str, Any]:
    """Positions of the unpruned prompt, counted by hand, of the tokens that were written."""
    positions: list[tuple[int, int, int]] = []
    following = 0
    for item in row:
        for kind in [item] if isinstance(item, int) else ["start", "image", "end"]:
            if kind != "image":
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
    "Qwen3VLMoeForConditionalGeneration": 1,
    "Qwen3_5ForConditionalGeneration": 1,
    "Qwen3_5MoeForConditionalGeneration": 1,
    "Glm4vForConditionalGeneration": 1,
    "Glm4vMoeForConditionalGeneration": 1,
    "Glm46VForConditionalGeneration": 1,
    "GlmOcrForConditionalGeneration": 1,
}


def _deepstack(net: Any, case: Case, row: Any, written: Written, masks: Any, call: dict[str, Any]) -> Any:
    """Qwen3-VL's forward from embeddings leaves the deepstack planes out: call its language model with them."""
    images = [item for item in row if isinstance(item, Sample)]
    labels, arguments = call.pop("labels", None), {}
    loss_arguments = {name: call.pop(name) for name in ("num_items_in_batch",) if name in call}
    if images:
        planes = [torch.cat(list(plane)) for plane in case._encoded(net, images).deepstack_features]
        kept = torch.cat([mask.bool() for mask in masks])
        visual = torch.tensor([[place is not None for place in written.visual]])
        arguments = {"visual_pos_masks": visual, "deepstack_visual_embeds": [plane[kept] for plane in planes]}
    output = net.model.language_model(**call, **arguments)
    logits, loss = net.lm_head(output.last_hidden_state), None
    if labels is not None:
        loss = net.loss_function(logits=logits, labels=labels, vocab_size=VOCABULARY, **loss_arguments)
    return SimpleNamespace(logits=logits, loss=loss, hidden_states=output.hidden_states)


_QWEN = {"tokens": _qwen_tokens, "vision": _qwen_vision, "extras": _qwen_types, "reference": _mrope}
STILL_QWEN = {"sizes": ((4, 8), (6, 6), (8, 4)), **_QWEN}
QWEN2_VL = Case("qwen2-vl", _qwen2_vl, **STILL_QWEN)
QWEN2_5_VL = Case("qwen2.5-vl", _qwen2_5_vl, **STILL_QWEN)
QWEN3_VL = Case("qwen3-vl", _qwen3_vl, **STILL_QWEN, run=_deepstack)
QWEN3_VL_MOE = Case("qwen3-vl-moe", lambda: _qwen3_vl("Qwen3VLMoe", **EXPERTS), **STILL_QWEN, run=_deepstack)

# -- VipLLaVA ----------------------------------------------------------------------------------------------------------


def _vip_llava() -> Any:
    return hf.VipLlavaForConditionalGeneration(
        hf.VipLlavaConfig(
            vision_config=hf.CLIPVisionConfig(**CLIP),
            text_config=_llama(),
            image_token_index=IMAGE,
            vision_feature_layers=[-2, -3, 1],
        )
    )


VIP_LLAVA = Case("vip-llava", _vip_llava, lambda image: [IMAGE] * 36, square, ((24, 24),))

# -- LLaVA-OneVision ---------------------------------------------------------------------------------------------------

SIGLIP = {key: value for key, value in CLIP.items() if key != "projection_dim"}


def _onevision() -> Any:
    return hf.LlavaOnevisionForConditionalGeneration(
        hf.LlavaOnevisionConfig(
            vision_config=hf.SiglipVisionConfig(**SIGLIP, vision_use_head=False),
            text_config=hf.Qwen2Config(**TEXT),
            image_token_index=IMAGE,
            video_token_index=VIDEO,
            vision_feature_layer=-1,
            vision_feature_select_strategy="full",
            image_grid_pinpoints=PINPOINTS,
            vision_aspect_ratio="anyres_max_3",
        )
    )


def _onevision_count(size: tuple[int, int]) -> int:
    """As LLaVA-NeXT, but a mosaic of more than 3 tiles' patches is shrunk."""
    plain = anyres_count(size) - 36
    rows = next(rows for rows in range(1, 100) if plain % rows == 0 and _mosaic(size)[0] == rows)
    columns = plain // rows - 1
    ratio = (rows * columns / (3 * 36)) ** 0.5
    if ratio > 1.1:
        rows, columns = int(rows // ratio), int(columns // ratio)
    return 36 + rows * (columns + 1)


def _mosaic(size: tuple[int, int], side: int = 6) -> tuple[int, int]:
    """Rows and columns of the mosaic, cut to the image's shape."""
    from transformers.models.llava_next.modeling_llava_next import get_anyres_image_grid_shape

    down, across = get_anyres_image_grid_shape(list(size), PINPOINTS, 24)
    rows, columns = down * side, across * side
    height, width = size
    if width / height > columns / rows:
        return rows - 2 * ((rows - int(round(height * columns / width, 7))) // 2), columns
    return rows, columns - 2 * ((columns - int(round(width * rows / height, 7))) // 2)


ONEVISION = Case(
    "llava-onevision",
    _onevision,
    lambda image: [IMAGE] * _onevision_count(image.size),
    _anyres,
    ((48, 40), (20, 48), (48, 48)),
)


def _video_vision(rows: list[list[Sample]]) -> dict[str, Any]:
    videos = [p for row in rows for p in row]
    return {"pixel_values_videos": torch.stack([p.pixels(p.frames, 3, 24, 24) for p in videos])}


ONEVISION_VIDEOS = Case(
    "llava-onevision-videos",
    _onevision,
    lambda video: [VIDEO] * (video.frames * 9 + 1),
    _video_vision,
    ((24, 24),),
    frames=3,
    placeholder=VIDEO,
)

# -- InternVL ----------------------------------------------------------------------------------------------------------


def _internvl() -> Any:
    vision = {key: value for key, value in SIGLIP.items() if key not in ("image_size", "patch_size")}
    return hf.InternVLForConditionalGeneration(
        hf.InternVLConfig(
            vision_config=hf.InternVLVisionConfig(**vision, image_size=[24, 24], patch_size=[4, 4], use_qk_norm=True),
            text_config=hf.Qwen2Config(**TEXT),
            image_token_id=IMAGE,
            downsample_ratio=0.5,
        )
    )


def tile_vision(rows: list[list[Sample]]) -> dict[str, Any]:
    return {"pixel_values": torch.cat([p.pixels(p.size[0], 3, 24, 24) for row in rows for p in row])}


INTERNVL = Case(
    "internvl",
    _internvl,
    lambda image: [102, *[IMAGE] * (9 * image.size[0]), 103],  # an image's size is its number of tiles
    tile_vision,
    ((3, 0), (1, 0), (2, 0)),
)

# -- Idefics3 and SmolVLM ----------------------------------------------------------------------------------------------


def _idefics3(kind: str) -> Any:
    config = getattr(hf, f"{kind}Config")(
        vision_config={**SIGLIP},
        text_config=_llama(),
        image_token_id=IMAGE,
        scale_factor=2,
        pad_token_id=0,
    )
    return getattr(hf, f"{kind}ForConditionalGeneration")(config)


def _idefics3_tokens(image: Sample) -> list[int]:
    """Tiles with their markers, then the whole image; an image's size is the shape of its mosaic."""
    down, across = image.size
    tokens: list[int] = []
    for row in range(down):
        for column in range(across):
            tokens += [104, 106 + row * 4 + column, *[IMAGE] * 9]
        tokens.append(9)
    return [*tokens, *([9] if down else []), 104, 105, *[IMAGE] * 9, 104]


def _idefics3_vision(rows: list[list[Sample]]) -> dict[str, Any]:
    tiles = [[p.pixels(p.size[0] * p.size[1] + 1, 3, 24, 24) for p in row] for row in rows]
    joined = [torch.cat(row) if row else torch.zeros(0, 3, 24, 24) for row in tiles]
    pixels = torch.zeros(len(rows), max(len(row) for row in joined), 3, 24, 24)
    for i, row in enumerate(joined):
        pixels[i, : len(row)] = row
    return {"pixel_values": pixels}


_TILED = {"tokens": _idefics3_tokens, "vision": _idefics3_vision, "sizes": ((2, 2), (0, 0), (1, 2))}
IDEFICS3 = Case("idefics3", lambda: _idefics3("Idefics3"), **_TILED)
SMOLVLM = Case("smolvlm", lambda: _idefics3("SmolVLM"), **_TILED)

# -- Gemma 3 and PaliGemma ---------------------------------------------------------------------------------------------

# Windows shorter than a prompt; a layer with full attention among several, and none behind the last of them.
WINDOWS = {
    "num_hidden_layers": 5,
    "layer_types": [*["sliding_attention"] * 3, "full_attention", "sliding_attention"],
    "sliding_window": 12,
}


def _gemma3() -> Any:
    rope = {
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
    }
    text = {**TEXT, "head_dim": 8, "rope_parameters": rope, **WINDOWS}
    return hf.Gemma3ForConditionalGeneration(
        hf.Gemma3Config(
            vision_config={**SIGLIP, "vision_use_head": False},
            text_config=text,
            image_token_id=IMAGE,
            mm_tokens_per_image=9,
        )
    )


def _gemma3_types(net: Any, row: Any, written: Written) -> dict[str, Any]:
    return {"token_type_ids": torch.tensor([[int(place is not None) for place in written.visual]])}


GEMMA3 = Case(
    "gemma3",
    _gemma3,
    lambda image: [102, *[IMAGE] * 9, 103],
    square,
    ((24, 24),),
    extras=lambda ids: {"token_type_ids": (ids == IMAGE).int()},
    reference=_gemma3_types,
)


def _paligemma() -> Any:
    return hf.PaliGemmaForConditionalGeneration(
        hf.PaliGemmaConfig(
            vision_config={**SIGLIP, "projection_dim": 32, "vision_use_head": False},
            text_config={**TEXT, "model_type": "gemma", "head_dim": 8},
            image_token_index=IMAGE,
            projection_dim=32,
        )
    )


def _paligemma_types(net: Any, row: Any, written: Written) -> dict[str, Any]:
    return {"token_type_ids": torch.tensor([[int(place is None) for place in written.visual]])}


PALIGEMMA = Case(
    "paligemma",
    _paligemma,
    lambda image: [IMAGE] * 36,
    square,
    ((24, 24),),
    extras=lambda ids: {"token_type_ids": (ids != IMAGE).int()},
    reference=_paligemma_types,
)

# -- Pixtral and Mistral 3 ---------------------------------------------------------------------------------------------

PIXTRAL = {**SIGLIP, "head_dim": 8, "image_size": 64}


def _pixtral() -> Any:
    return hf.LlavaForConditionalGeneration(
        hf.LlavaConfig(
            vision_config=hf.PixtralVisionConfig(**PIXTRAL),
            text_config=hf.MistralConfig(**TEXT, sliding_window=None),
            image_token_id=IMAGE,
            vision_feature_layer=-1,
            vision_feature_select_strategy="full",
        )
    )


def _mistral3() -> Any:
    return hf.Mistral3ForConditionalGeneration(
        hf.Mistral3Config(
            vision_config=hf.PixtralVisionConfig(**PIXTRAL),
            text_config=hf.MistralConfig(**TEXT, sliding_window=None),
            image_token_id=IMAGE,
            vision_feature_layer=-1,
            spatial_merge_size=2,
        )
    )


def rows_with_breaks(image: Sample, side: int) -> list[int]:
    rows, columns = image.size[0] // side, image.size[1] // side
    return [*[token for _ in range(rows) for token in (*([IMAGE] * columns), 102)][:-1], 103]


def padded_vision(rows: list[list[Sample]]) -> dict[str, Any]:
    images = [p for row in rows for p in row]
    height, width = (max(p.size[i] for p in images) for i in (0, 1))
    pixels = torch.zeros(len(images), 3, height, width)
    for i, image in enumerate(images):
        pixels[i, :, : image.size[0], : image.size[1]] = image.pixels(3, *image.size)
    return {"pixel_values": pixels, "image_sizes": torch.tensor([p.size for p in images])}


ANY_SIZE = ((24, 16), (8, 32), (16, 16))
PIXTRAL_LLAVA = Case("pixtral", _pixtral, lambda p: rows_with_breaks(p, 4), padded_vision, ANY_SIZE)
MISTRAL3 = Case("mistral3", _mistral3, lambda p: rows_with_breaks(p, 8), padded_vision, ANY_SIZE)

# -- Videos of Qwen-VL ------------------------------------------------------------------------------------------------

_VIDEOS = {"frames": 2, "placeholder": VIDEO, "sizes": ((4, 4), (4, 6), (6, 4)), **_QWEN}
QWEN2_VL_VIDEOS = Case("qwen2-vl-videos", _qwen2_vl, **_VIDEOS)
QWEN2_5_VL_VIDEOS = Case("qwen2.5-vl-videos", _qwen2_5_vl, **_VIDEOS)


def _qwen3_video_tokens(video: Sample) -> list[int]:
    """Every frame with its time, which is text, in front."""
    per_frame = video.size[0] * video.size[1] // 4
    return [token for frame in range(video.frames) for token in (20 + frame, 21, 102, *[VIDEO] * per_frame, 103)]


def _qwen3_video_positions(net: Any, row: Any, written: Written) -> dict[str, Any]:
    stills = []
    for item in row:
        if isinstance(item, int):
            stills.append(item)
            continue
        for frame in range(item.frames):
            stills += [20 + frame, 21, Sample(item.size)]
    return _mrope(net, stills, written)


QWEN3_VL_VIDEOS = Case(
    "qwen3-vl-videos",
    _qwen3_vl,
    **{**_VIDEOS, "tokens": _qwen3_video_tokens, "reference": _qwen3_video_positions},
    run=_deepstack,
)

# -- LLaVA-NeXT-Video and Video-LLaVA ----------------------------------------------------------------------------------


def _llava_next_video() -> Any:
    return hf.LlavaNextVideoForConditionalGeneration(
        hf.LlavaNextVideoConfig(
            vision_config=hf.CLIPVisionConfig(**CLIP),
            text_config=_llama(),
            image_token_index=IMAGE,
            video_token_index=VIDEO,
            image_grid_pinpoints=PINPOINTS,
            spatial_pool_mode="average",
            spatial_pool_stride=2,
        )
    )


def _video_llava() -> Any:
    return hf.VideoLlavaForConditionalGeneration(
        hf.VideoLlavaConfig(
            vision_config=hf.CLIPVisionConfig(**CLIP),
            text_config=_llama(),
            image_token_index=IMAGE,
            video_token_index=VIDEO,
        )
    )


LLAVA_NEXT_VIDEO = Case("llava-next-video", _llava_next_video, LLAVA_NEXT.tokens, _anyres, LLAVA_NEXT.sizes)
LLAVA_NEXT_VIDEO_VIDEOS = Case(
    "llava-next-video-videos",
    _llava_next_video,
    lambda video: [VIDEO] * (video.frames * 9),
    _video_vision,
    ((24, 24),),
    frames=3,
    placeholder=VIDEO,
)


def _video_llava_images(rows: list[list[Sample]]) -> dict[str, Any]:
    """Its name for pixels depends on the version of transformers."""
    names = inspect.signature(hf.VideoLlavaModel.get_image_features).parameters
    name = next(name for name in names if name.startswith("pixel_values"))
    return {name: square(rows)["pixel_values"]}


VIDEO_LLAVA = Case("video-llava", _video_llava, lambda image: [IMAGE] * 36, _video_llava_images, ((24, 24),))
VIDEO_LLAVA_VIDEOS = Case(
    "video-llava-videos",
    _video_llava,
    lambda video: [VIDEO] * (video.frames * 37),
    _video_vision,
    ((24, 24),),
    frames=3,
    placeholder=VIDEO,
)

# -- Qwen3.5 -----------------------------------------------------------------------------------------------------------


def _qwen3_5(kind: str = "Qwen3_5", **experts: Any) -> Any:
    vision = {**QWEN_VISION, "hidden_size": 16, "out_hidden_size": 32, "intermediate_size": 24}
    text = {**TEXT, "head_dim": 16, "num_hidden_layers": 4}
    text["layer_types"] = ["linear_attention", "full_attention"] * 2
    text |= {
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
    }
    text["rope_parameters"] = {
        **MROPE,
        "mrope_section": [2, 1, 1],
        "mrope_interleaved": True,
        "partial_rotary_factor": 0.5,
    }
    vision["num_position_embeddings"] = 64
    config = getattr(hf, f"{kind}Config")(vision_config=vision, text_config={**text, **experts}, **VISION_IDS)
    return getattr(hf, f"{kind}ForConditionalGeneration")(config)


QWEN3_5 = Case("qwen3.5", _qwen3_5, **STILL_QWEN)
QWEN3_5_MOE = Case(
    "qwen3.5-moe", lambda: _qwen3_5("Qwen3_5Moe", **EXPERTS, shared_expert_intermediate_size=16), **STILL_QWEN
)
_DATED = {**_VIDEOS, "tokens": _qwen3_video_tokens, "reference": _qwen3_video_positions}
QWEN3_5_VIDEOS = Case("qwen3.5-videos", _qwen3_5, **{**_DATED, "sizes": ((4, 4), (4, 6), (8, 4))})

STILL = [LLAVA, LLAVA_NEXT, VIP_LLAVA, ONEVISION, QWEN2_VL, QWEN2_5_VL, QWEN3_VL, INTERNVL, IDEFICS3, SMOLVLM]
STILL += [GEMMA3, PALIGEMMA, PIXTRAL_LLAVA, MISTRAL3, LLAVA_NEXT_VIDEO, VIDEO_LLAVA, QWEN3_5]
STILL += [QWEN3_VL_MOE, QWEN3_5_MOE]
VIDEOS = [ONEVISION_VIDEOS, LLAVA_NEXT_VIDEO_VIDEOS, VIDEO_LLAVA_VIDEOS, QWEN2_VL_VIDEOS, QWEN2_5_VL_VIDEOS]
VIDEOS += [QWEN3_VL_VIDEOS, QWEN3_5_VIDEOS]
