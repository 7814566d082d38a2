"""Cases of families whose layout another family has: the rows of the matrix beyond `models`."""

from __future__ import annotations

from typing import Any

import torch
import transformers as hf

from .kit import IMAGE, PAD, TEXT, VIDEO, VOCABULARY, Case, Sample, Written
from .models import (
    ANY_SIZE,
    INTERNVL,
    PIXTRAL,
    QWEN_VISION,
    SIGLIP,
    STILL_QWEN,
    VISION_IDS,
    WINDOWS,
    padded_vision,
    rows_with_breaks,
    square,
    tile_vision,
)

# -- GLM ---------------------------------------------------------------------------------------------------------------

GLM_ROPE = {"rope_type": "default", "mrope_section": [1, 1, 2], "partial_rotary_factor": 0.5, "rope_theta": 10000.0}


def _glm(kind: str, **text: Any) -> Any:
    vision = {**QWEN_VISION, "hidden_size": 16, "out_hidden_size": 32, "intermediate_size": 24, "image_size": 32}
    config = getattr(hf, f"{kind}Config")(
        vision_config=vision,
        text_config={**TEXT, "head_dim": 16, "rope_parameters": GLM_ROPE, **text},
        image_start_token_id=102,
        image_end_token_id=103,
        **{name: number for name, number in VISION_IDS.items() if "vision" not in name},
    )
    return getattr(hf, f"{kind}ForConditionalGeneration")(config)


GLM_4V = Case("glm-4v", lambda: _glm("Glm4v"), **STILL_QWEN)
GLM_4_6V = Case("glm-4.6v", lambda: _glm("Glm46V"), **STILL_QWEN)
GLM_OCR = Case("glm-ocr", lambda: _glm("GlmOcr"), **STILL_QWEN)
_ROUTED = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "first_k_dense_replace": 1}
_ROUTED |= {"n_shared_experts": 1, "n_group": 1, "topk_group": 1}
GLM_4V_MOE = Case("glm-4v-moe", lambda: _glm("Glm4vMoe", **_ROUTED), **STILL_QWEN)

# -- DeepSeek-VL and Janus ---------------------------------------------------------------------------------------------


def _deepseek() -> Any:
    return hf.DeepseekVLForConditionalGeneration(
        hf.DeepseekVLConfig(
            vision_config={**SIGLIP, "vision_use_head": False},
            text_config=hf.LlamaConfig(**TEXT),
            image_token_id=IMAGE,
        )
    )


def _janus() -> Any:
    vision = {key: value for key, value in SIGLIP.items() if key != "intermediate_size"}
    codes = {"embed_dim": 4, "num_embeddings": 8, "latent_channels": 32, "base_channels": 32, "num_res_blocks": 1}
    codes |= {"channel_multiplier": [1, 1], "num_patches": 4, "projection_dim": 32, "image_token_embed_dim": 32}
    net = hf.JanusForConditionalGeneration(
        hf.JanusConfig(
            vision_config=hf.JanusVisionConfig(**vision, projection_dim=32, num_image_tokens=36),
            vq_config=hf.JanusVQVAEConfig(**codes),
            text_config=hf.LlamaConfig(**TEXT),
            image_token_id=IMAGE,
        )
    )
    return net


DEEPSEEK_VL = Case("deepseek-vl", _deepseek, lambda image: [102, *[IMAGE] * 36], square, ((24, 24),))
JANUS = Case("janus", _janus, lambda image: [102, *[IMAGE] * 36, 103], square, ((24, 24),))

# -- Aya Vision and Command A Vision -----------------------------------------------------------------------------------


def _cohere(kind: str, **settings: Any) -> Any:
    config = getattr(hf, f"{kind}Config")(
        vision_config=hf.SiglipVisionConfig(**SIGLIP, vision_use_head=False),
        text_config=hf.Cohere2Config(**{**TEXT, **WINDOWS}),
        image_token_id=IMAGE,
        **settings,
    )
    return getattr(hf, f"{kind}ForConditionalGeneration")(config)


def _aya_tokens(image: Sample) -> list[int]:
    """An image's size is its number of tiles, the view of the whole image included; it comes last."""
    tiles = [token for tile in range(image.size[0] - 1) for token in (105, 10 + tile, *[IMAGE] * 9)]
    return [102, *tiles, 104, *[IMAGE] * 9, 103]


_TILES = ((3, 0), (1, 0), (2, 0))
AYA_VISION = Case("aya-vision", lambda: _cohere("AyaVision"), _aya_tokens, tile_vision, _TILES)
COHERE2_VISION = Case(
    "cohere2-vision",
    lambda: _cohere("Cohere2Vision", alignment_intermediate_size=32),
    lambda image: [102, *([IMAGE] * 9 + [104]) * image.size[0], 103],
    tile_vision,
    _TILES,
)

# -- LightOnOCR --------------------------------------------------------------------------------------------------------


def _lighton() -> Any:
    return hf.LightOnOcrForConditionalGeneration(
        hf.LightOnOcrConfig(
            vision_config=hf.PixtralVisionConfig(**PIXTRAL),
            text_config=hf.Qwen3Config(**TEXT, head_dim=8),
            image_token_id=IMAGE,
            spatial_merge_size=2,
        )
    )


LIGHTON_OCR = Case("lighton-ocr", _lighton, lambda p: rows_with_breaks(p, 8), padded_vision, ANY_SIZE)

# -- Qianfan-OCR -------------------------------------------------------------------------------------------------------


def _qianfan() -> Any:
    vision = {key: value for key, value in SIGLIP.items() if key not in ("image_size", "patch_size")}
    return hf.QianfanOCRForConditionalGeneration(
        hf.QianfanOCRConfig(
            vision_config=hf.QianfanOCRVisionConfig(**vision, image_size=[24, 24], patch_size=[4, 4]),
            text_config=hf.Qwen3Config(**TEXT, head_dim=8),
            image_token_id=IMAGE,
            downsample_ratio=0.5,
        )
    )


QIANFAN_OCR = Case("qianfan-ocr", _qianfan, INTERNVL.tokens, tile_vision, _TILES)

# -- LFM2-VL -----------------------------------------------------------------------------------------------------------


_LFM2_LAYERS = ["conv", "conv", "full_attention", "conv", "full_attention", "conv"]


def _lfm2_vl() -> Any:
    vision = {key: value for key, value in SIGLIP.items() if key != "image_size"}
    return hf.Lfm2VlForConditionalGeneration(
        hf.Lfm2VlConfig(
            vision_config=hf.Siglip2VisionConfig(**vision, num_patches=16, vision_use_head=False),
            text_config=hf.Lfm2Config(
                **{**TEXT, "num_hidden_layers": 6},
                layer_types=_LFM2_LAYERS,
                block_auto_adjust_ff_dim=False,
                block_multiple_of=8,
            ),
            image_token_id=IMAGE,
            projector_hidden_size=16,
        )
    )


_TILE = (4, 6)


def _lfm2_views(image: Sample) -> list[tuple[int, int]]:
    """Rows and columns of patches of each view; wide images are cut into two tiles and seen as a whole."""
    return [_TILE, _TILE, image.size] if image.size[1] > 6 else [image.size]


def _lfm2_tokens(image: Sample) -> list[int]:
    *tiles, (rows, columns) = _lfm2_views(image)
    cut = [token for number, (r, c) in enumerate(tiles) for token in (105 + number, *[IMAGE] * (r * c // 4))]
    return [102, *cut, *([104] if tiles else []), *[IMAGE] * (rows * columns // 4), 103]


def _padded_patches(images: list[Sample], grids: list[list[tuple[int, int]]]) -> tuple[torch.Tensor, torch.Tensor]:
    """(V, P, 48) patches of all views and (V, P) which of them are real."""
    counts = [[rows * columns for rows, columns in views] for views in grids]
    rows = [part for p, own in zip(images, counts) for part in p.pixels(sum(own), 48).split(own)]
    real = [torch.ones(len(row), dtype=torch.long) for row in rows]
    pad = torch.nn.utils.rnn.pad_sequence
    return pad(rows, batch_first=True), pad(real, batch_first=True)


def _lfm2_vision(rows: list[list[Sample]]) -> dict[str, Any]:
    images = [p for row in rows for p in row]
    grids = [_lfm2_views(p) for p in images]
    pixels, real = _padded_patches(images, grids)
    shapes = torch.tensor([grid for views in grids for grid in views])
    return {"pixel_values": pixels, "pixel_attention_mask": real, "spatial_shapes": shapes}


LFM2_VL = Case("lfm2-vl", _lfm2_vl, _lfm2_tokens, _lfm2_vision, ((4, 8), (6, 4), (6, 6)))

# -- Gemma 4 -----------------------------------------------------------------------------------------------------------


def _gemma4(**text: Any) -> Any:
    vision = {
        **SIGLIP,
        "num_key_value_heads": 3,
        "head_dim": 8,
        "pooling_kernel_size": 2,
        "position_embedding_size": 16,
    }
    layers = ["sliding_attention", "sliding_attention", "full_attention"] * 2
    shape = {"num_hidden_layers": 6, "head_dim": 8, "global_head_dim": 16, "sliding_window": 12, "layer_types": layers}
    return hf.Gemma4ForConditionalGeneration(
        hf.Gemma4Config(
            vision_config=hf.Gemma4VisionConfig(**{k: v for k, v in vision.items() if k != "image_size"}),
            text_config=hf.Gemma4TextConfig(**{**TEXT, **shape, **text}),
            audio_config=None,
            image_token_id=IMAGE,
            video_token_id=VIDEO,
            audio_token_id=VIDEO + 9,
        )
    )


def _gemma4_vision(rows: list[list[Sample]]) -> dict[str, Any]:
    images = [p for row in rows for p in row]
    pixels, real = _padded_patches(images, [[p.size] for p in images])
    places = torch.full((*real.shape, 2), -1)
    for i, (down, across) in enumerate(p.size for p in images):
        number = torch.arange(down * across)
        places[i, : len(number)] = torch.stack([number % across, number // across], dim=-1)
    return {"pixel_values": pixels, "image_position_ids": places}


def _gemma4_per_layer(net: Any, row: Any, written: Written) -> dict[str, Any]:
    """What each layer adds per token; an image's tokens count as padding."""
    ids = torch.tensor([written.ids])
    return {"per_layer_inputs": net.model.language_model.get_per_layer_inputs(ids.masked_fill(ids == IMAGE, PAD), None)}


def _gemma4_types(net: Any, row: Any, written: Written) -> dict[str, Any]:
    return {"mm_token_type_ids": torch.tensor([[int(place is not None) for place in written.visual]])}


_GEMMA4 = {
    "tokens": lambda image: [102, *[IMAGE] * (image.size[0] * image.size[1] // 4), 103],
    "vision": _gemma4_vision,
    "sizes": ((4, 6), (4, 4), (6, 8)),
    "extras": lambda ids: {"mm_token_type_ids": (ids == IMAGE).int()},
}
_PER_LAYER = {"hidden_size_per_layer_input": 4, "vocab_size_per_layer_input": VOCABULARY, "num_kv_shared_layers": 3}
_PER_LAYER["use_double_wide_mlp"] = True
_LARGE = {"hidden_size_per_layer_input": 0, "use_bidirectional_attention": "vision", "attention_k_eq_v": True}
_LARGE |= {"num_global_key_value_heads": 1, "enable_moe_block": True, "num_experts": 4, "top_k_experts": 2}
_LARGE["moe_intermediate_size"] = 16
GEMMA4_SMALL = Case("gemma4-e", lambda: _gemma4(**_PER_LAYER), **_GEMMA4, reference=_gemma4_per_layer)
GEMMA4 = Case(
    "gemma4",
    lambda: _gemma4(**_LARGE),
    **_GEMMA4,
    reference=_gemma4_types,
)

NEWER = [GLM_4V, GLM_4V_MOE, GLM_4_6V, GLM_OCR, DEEPSEEK_VL, JANUS, AYA_VISION, COHERE2_VISION, LIGHTON_OCR]
NEWER += [QIANFAN_OCR, LFM2_VL, GEMMA4_SMALL, GEMMA4]
