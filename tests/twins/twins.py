"""Checkpoints in small: ids, sizes, tiles and settings of the real ones, random weights, stock processors.

What stands here was copied from nowhere: the numbers are those of the checkpoints' published configurations, the chat
templates are short ones of the same form, the tokenizer is `tokens.byte_tokenizer`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import transformers as hf

from .tokens import byte_tokenizer

CLIP_MEAN, CLIP_STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]


@dataclass(frozen=True, eq=False)
class Twin:
    """Attributes:
    model: a fresh random model.
    processor: its processor, as the checkpoint's own is set up.
    needs: packages that the stock processor does not work without.
    clip: whether relevance wants the text half of a CLIP, which is then put beside it.
    crops: whether the tower sees the middle square of an image only.
    """

    name: str
    model: Callable[[], Any]
    processor: Callable[[], Any]
    needs: tuple[str, ...] = ()
    clip: bool = False
    crops: bool = False


def _narrow(layers: int, vocabulary: int, **more: Any) -> dict[str, Any]:
    """A language model with a real vocabulary, 32 wide."""
    return {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "vocab_size": vocabulary,
        "max_position_embeddings": 32768,
        "tie_word_embeddings": True,
        **more,
    }


def _tower(side: int, patch: int, layers: int = 2, **more: Any) -> dict[str, Any]:
    return {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": layers,
        "num_attention_heads": 1,
        "image_size": side,
        "patch_size": patch,
        **more,
    }


# -- LLaVA -------------------------------------------------------------------------------------------------------------

_VICUNA = {"<unk>": 0, "<s>": 1, "</s>": 2, "<image>": 32000, "<pad>": 32001}
_VICUNA_NAMES = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "image_token": "<image>"}
_VICUNA_TURNS = (
    "{% for m in messages %}{{ m.role.upper() }}: {% for c in m.content %}{% if c.type == 'image' %}<image>\n"
    "{% else %}{{ c.text }}{% endif %}{% endfor %} {% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
_CLIP_L = {"vision_feature_layer": -2, "vision_feature_select_strategy": "default", "image_token_id": 32000}
_ANYRES = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]


def _llava(kind: str = "Llava", **more: Any) -> Any:
    config = getattr(hf, f"{kind}Config")(
        vision_config=hf.CLIPVisionConfig(**_tower(336, 14, 3, projection_dim=8)),
        text_config=hf.LlamaConfig(**_narrow(3, 32064, bos_token_id=1, eos_token_id=2, pad_token_id=32001)),
        **_CLIP_L,
        **more,
    )
    return getattr(hf, f"{kind}ForConditionalGeneration")(config)


def _llava_processor(kind: str = "Llava", images: str = "CLIPImageProcessorPil", **more: Any) -> Any:
    sizes = {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}}
    return getattr(hf, f"{kind}Processor")(
        _images(images, **sizes, image_mean=CLIP_MEAN, image_std=CLIP_STD, **more),
        byte_tokenizer(_VICUNA, _VICUNA_NAMES, bos="<s>"),
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=_VICUNA_TURNS,
    )


def _images(name: str, **settings: Any) -> Any:
    """An image processor by the class that needs no torchvision; `from_pretrained` takes what is there."""
    from importlib import import_module

    folder = {"CLIP": "clip", "LlavaNext": "llava_next", "Gemma3": "gemma3", "Idefics3": "idefics3"}
    folder |= {"SmolVLM": "smolvlm", "GotOcr2": "got_ocr2", "LlavaOnevision": "llava_onevision", "Qwen2VL": "qwen2_vl"}
    model = folder[name.removesuffix("ImageProcessorPil")]
    return getattr(import_module(f"transformers.models.{model}.image_processing_pil_{model}"), name)(**settings)


# -- Qwen --------------------------------------------------------------------------------------------------------------

_CHATML = {"<|endoftext|>": 151643, "<|im_start|>": 151644, "<|im_end|>": 151645}
_QWEN = {**_CHATML, "<|vision_start|>": 151652, "<|vision_end|>": 151653, "<|image_pad|>": 151655}
_QWEN |= {"<|video_pad|>": 151656}
_QWEN_NAMES = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
_QWEN_TURNS = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for c in m.content %}{% if c.type == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% elif c.type == 'video' %}<|vision_start|><|video_pad|>"
    "<|vision_end|>{% else %}{{ c.text }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_QWEN_IDS = {
    "image_token_id": 151655,
    "video_token_id": 151656,
    "vision_start_token_id": 151652,
    "vision_end_token_id": 151653,
}
_ENDS = {"eos_token_id": 151645, "bos_token_id": 151643, "pad_token_id": 151643}


def _qwen2_5_vl() -> Any:
    vision = {"depth": 32, "hidden_size": 16, "intermediate_size": 16, "num_heads": 1, "out_hidden_size": 32}
    vision |= {"patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2, "tokens_per_second": 2}
    vision |= {"window_size": 112, "fullatt_block_indexes": [7, 15, 23, 31]}
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e6}  # 16, 24, 24 of 64
    text = _narrow(3, 151936, rope_parameters=rope, max_window_layers=70, use_sliding_window=False, **_ENDS)
    return hf.Qwen2_5_VLForConditionalGeneration(
        hf.Qwen2_5_VLConfig(vision_config=vision, text_config=text, **_QWEN_IDS, tie_word_embeddings=True)
    )


def _qwen3_vl() -> Any:
    vision = {"depth": 24, "hidden_size": 16, "intermediate_size": 16, "num_heads": 1, "out_hidden_size": 32}
    vision |= {"patch_size": 16, "spatial_merge_size": 2, "temporal_patch_size": 2}
    vision |= {"num_position_embeddings": 2304, "deepstack_visual_indexes": [5, 11, 17]}
    rope = {"rope_type": "default", "mrope_section": [3, 3, 2], "mrope_interleaved": True, "rope_theta": 5e6}
    text = _narrow(36, 151936, rope_parameters=rope, **_ENDS)  # 24, 20, 20 of 64
    return hf.Qwen3VLForConditionalGeneration(
        hf.Qwen3VLConfig(vision_config=vision, text_config=text, **_QWEN_IDS, tie_word_embeddings=True)
    )


def _qwen_processor(kind: str, clips: str, mean: list[float], std: list[float], **sizes: Any) -> Any:
    settings = {**sizes, "temporal_patch_size": 2, "merge_size": 2, "image_mean": mean, "image_std": std}
    return getattr(hf, f"{kind}Processor")(
        _images("Qwen2VLImageProcessorPil", **settings),
        byte_tokenizer(_QWEN, _QWEN_NAMES),
        getattr(hf, f"{clips}VideoProcessor")(**settings),
        chat_template=_QWEN_TURNS,
    )


# -- Gemma 3 -----------------------------------------------------------------------------------------------------------

_GEMMA = {"<pad>": 0, "<eos>": 1, "<bos>": 2, "<start_of_turn>": 105, "<end_of_turn>": 106}
_GEMMA |= {"<start_of_image>": 255999, "<end_of_image>": 256000, "<image_soft_token>": 262144}
_GEMMA_NAMES = {
    "bos_token": "<bos>",
    "eos_token": "<eos>",
    "pad_token": "<pad>",
    "boi_token": "<start_of_image>",
    "eoi_token": "<end_of_image>",
    "image_token": "<image_soft_token>",
}
_GEMMA_TURNS = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{% for c in m.content %}{% if c.type == 'image' %}<start_of_image>{% else %}{{ c.text }}{% endif %}{% endfor %}"
    "<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)


def _gemma3() -> Any:
    rope = {
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
    }
    text = _narrow(7, 262208, sliding_window=1024, sliding_window_pattern=6, rope_parameters=rope)
    text |= {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0, "query_pre_attn_scalar": 16}
    return hf.Gemma3ForConditionalGeneration(
        hf.Gemma3Config(
            vision_config=_tower(896, 14, vision_use_head=False),
            text_config=text,
            mm_tokens_per_image=256,
            boi_token_index=255999,
            eoi_token_index=256000,
            image_token_index=262144,
        )
    )


def _gemma3_processor() -> Any:
    half = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    return hf.Gemma3Processor(
        _images("Gemma3ImageProcessorPil", size={"height": 896, "width": 896}, **half),
        byte_tokenizer(_GEMMA, _GEMMA_NAMES, bos="<bos>"),
        chat_template=_GEMMA_TURNS,
        image_seq_length=256,
    )


# -- Idefics3 and SmolVLM2 ---------------------------------------------------------------------------------------------

_TILES = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]


def _idefics_tokens(first: int, fake: int, image: int, around: dict[str, int], eos: str) -> Any:
    tiles = {name: first + i for i, name in enumerate(["<global-img>", *_TILES])}
    specials = {**around, "<fake_token_around_image>": fake, "<image>": image, "<end_of_utterance>": image + 1, **tiles}
    return byte_tokenizer(specials, {"bos_token": next(iter(around)), "eos_token": eos, "pad_token": list(around)[1]})


_IDEFICS_TURNS = (
    "{{ bos_token }}{% for m in messages %}{{ m.role | capitalize }}:{% for c in m.content %}{% if c.type == 'image' %}"
    "<image>{% else %} {{ c.text }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)


def _idefics3() -> Any:
    text = hf.LlamaConfig(**_narrow(3, 128259, bos_token_id=128000, eos_token_id=128001, pad_token_id=128002))
    return hf.Idefics3ForConditionalGeneration(
        hf.Idefics3Config(
            vision_config=_tower(364, 14), text_config=text, scale_factor=2, image_token_id=128257, pad_token_id=128002
        )
    )


def _idefics3_processor() -> Any:
    around = {"<|begin_of_text|>": 128000, "<|end_of_text|>": 128001}
    tokenizer = _idefics_tokens(128011, 128256, 128257, around, "<end_of_utterance>")
    images = _images("Idefics3ImageProcessorPil", size={"longest_edge": 4 * 364}, max_image_size={"longest_edge": 364})
    return hf.Idefics3Processor(images, tokenizer, image_seq_len=169, chat_template=_IDEFICS_TURNS)


def _smolvlm2() -> Any:
    text = hf.LlamaConfig(**_narrow(3, 49280, bos_token_id=1, eos_token_id=2, pad_token_id=2))
    return hf.SmolVLMForConditionalGeneration(
        hf.SmolVLMConfig(
            vision_config=_tower(384, 14), text_config=text, scale_factor=3, image_token_id=49190, pad_token_id=2
        )
    )


def _smolvlm2_processor() -> Any:
    tokenizer = _idefics_tokens(49152, 49189, 49190, {"<|im_start|>": 1, "<|im_end|>": 2}, "<end_of_utterance>")
    sizes = {"size": {"longest_edge": 4 * 384}, "max_image_size": {"longest_edge": 384}}
    return hf.SmolVLMProcessor(
        _images("SmolVLMImageProcessorPil", **sizes),
        tokenizer,
        hf.SmolVLMVideoProcessor(size={"longest_edge": 384}, max_image_size={"longest_edge": 384}),
        image_seq_len=81,
        chat_template=_IDEFICS_TURNS,
    )


# -- InternVL3 ---------------------------------------------------------------------------------------------------------

_INTERN = {**_CHATML, "<IMG_CONTEXT>": 151667, "<img>": 151665, "</img>": 151666, "<video>": 151670}
_INTERN_NAMES = {
    **_QWEN_NAMES,
    "context_image_token": "<IMG_CONTEXT>",
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "video_token": "<video>",
}
_INTERN_TURNS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for c in m.content %}{% if c.type == 'image' %}<IMG_CONTEXT>\n"
    "{% elif c.type == 'video' %}<video>\n{% else %}{{ c.text }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def _internvl3() -> Any:
    vision = _tower(448, 14, attention_bias=True, use_qk_norm=False, norm_type="layer_norm")
    vision |= {"image_size": [448, 448], "patch_size": [14, 14]}
    return hf.InternVLForConditionalGeneration(
        hf.InternVLConfig(
            vision_config=vision,
            text_config=hf.Qwen2Config(**_narrow(3, 151674, **_ENDS)),
            image_token_id=151667,
            downsample_ratio=0.5,
        )
    )


def _internvl3_processor() -> Any:
    sizes = {"size": {"height": 448, "width": 448}, "crop_to_patches": False, "min_patches": 1, "max_patches": 12}
    return hf.InternVLProcessor(
        _images("GotOcr2ImageProcessorPil", **sizes),
        byte_tokenizer(_INTERN, _INTERN_NAMES),
        hf.InternVLVideoProcessor(size={"height": 384, "width": 384}),
        image_seq_length=256,
        chat_template=_INTERN_TURNS,
    )


# -- LLaVA-OneVision ---------------------------------------------------------------------------------------------------

_ONEVISION = {**_CHATML, "<image>": 151646, "<video>": 151647}
_ONEVISION_GRIDS = [[384 * rows, 384 * columns] for rows in range(1, 7) for columns in range(1, 7)]


def _onevision() -> Any:
    return hf.LlavaOnevisionForConditionalGeneration(
        hf.LlavaOnevisionConfig(
            vision_config=hf.SiglipVisionConfig(**_tower(384, 14, vision_use_head=False)),
            text_config=hf.Qwen2Config(**_narrow(3, 152000, **_ENDS)),
            image_token_index=151646,
            video_token_index=151647,
            vision_feature_layer=-1,
            vision_feature_select_strategy="full",
            vision_aspect_ratio="anyres_max_9",
            image_grid_pinpoints=_ONEVISION_GRIDS,
        )
    )


def _onevision_processor() -> Any:
    side = {"size": {"height": 384, "width": 384}}
    turns = _INTERN_TURNS.replace("<IMG_CONTEXT>", "<image>")
    return hf.LlavaOnevisionProcessor(
        _images("LlavaOnevisionImageProcessorPil", **side, image_grid_pinpoints=_ONEVISION_GRIDS),
        byte_tokenizer(_ONEVISION, _QWEN_NAMES),
        hf.LlavaOnevisionVideoProcessor(**side),
        num_image_tokens=729,
        vision_feature_select_strategy="full",
        vision_aspect_ratio="anyres_max_9",
        chat_template=turns,
    )


_QWEN_SIZES = {"patch_size": 14, "min_pixels": 3136, "max_pixels": 12845056}
_QWEN3_SIZES = {"patch_size": 16, "size": {"shortest_edge": 65536, "longest_edge": 16777216}}
_VIDEOS = ("torchvision",)
TWINS = [
    Twin("llava-1.5", _llava, _llava_processor, clip=True, crops=True),
    Twin(
        "llava-1.6",
        lambda: _llava("LlavaNext", image_grid_pinpoints=_ANYRES),
        lambda: _llava_processor("LlavaNext", "LlavaNextImageProcessorPil", image_grid_pinpoints=_ANYRES),
        clip=True,
    ),
    Twin(
        "qwen2.5-vl",
        _qwen2_5_vl,
        lambda: _qwen_processor("Qwen2_5_VL", "Qwen2VL", CLIP_MEAN, CLIP_STD, **_QWEN_SIZES),
        needs=_VIDEOS,
    ),
    Twin(
        "qwen3-vl",
        _qwen3_vl,
        lambda: _qwen_processor("Qwen3VL", "Qwen3VL", [0.5] * 3, [0.5] * 3, **_QWEN3_SIZES),
        needs=_VIDEOS,
    ),
    Twin("gemma-3", _gemma3, _gemma3_processor),
    Twin("idefics3", _idefics3, _idefics3_processor),
    Twin("smolvlm2", _smolvlm2, _smolvlm2_processor, needs=(*_VIDEOS, "num2words")),
    Twin("internvl3", _internvl3, _internvl3_processor, needs=_VIDEOS),
    Twin("llava-onevision", _onevision, _onevision_processor, needs=_VIDEOS),
]
