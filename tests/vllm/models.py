"""Tiny random checkpoints of every architecture, whose answers depend on what they are shown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as hf
from PIL import Image
from tokenizers import Regex, Tokenizer, pre_tokenizers, processors
from tokenizers import models as token_models
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

WORDS = 300
SPECIAL = (
    "<pad>", "<unk>", "<s>", "</s>", "<image>", "<video>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>",
    "<|video_pad|>", "<|im_start|>", "<|im_end|>", "USER:", "ASSISTANT:", "user", "assistant",
)  # fmt: skip
ID = {word: i for i, word in enumerate(SPECIAL)}
VOCABULARY = 320
CLIP_SIDE, PATCH = 96, 8  # 144 patches
TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "bos_token_id": ID["<s>"],
    "eos_token_id": ID["</s>"],
    "pad_token_id": ID["<pad>"],
    "tie_word_embeddings": False,
}
VISION = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "image_size": CLIP_SIDE,
    "patch_size": PATCH,
    "projection_dim": 32,
}
VICUNA = (
    "{% for m in messages %}{% if m.role == 'user' %}USER: {% for c in m.content %}{% if c.type == 'image' %}<image>"
    "{% else %} {{ c.text }}{% endif %}{% endfor %} {% else %}ASSISTANT: {{ m.content[0].text }}</s>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }} {% for c in m.content %}{% if c.type == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ c.text }}{% endif %}{% endfor %}<|im_end|> {% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant {% endif %}"
)
BARE = CHATML.replace("<|vision_start|><|image_pad|><|vision_end|>", "<|image_pad|>")  # processors add what is around
PINPOINTS = [[96, 192], [192, 96], [192, 192]]


def tokenizer(*, close: bool = False, **names: str) -> hf.PreTrainedTokenizerFast:
    """Words `w0`, `w1`, ...; `close` ends a text as CLIP's text tower needs it; `names` are those of further tokens."""
    lines = ["\n" * count for count in range(1, 5)]  # Gemma's processor looks for them
    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *(f"w{i}" for i in range(WORDS)), *lines])}
    core = Tokenizer(token_models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"\w+|[^\w\s]|\n+"), behavior="removed", invert=True)
    single = "<s> $A </s>" if close else "<s> $A"
    core.post_processor = processors.TemplateProcessing(
        single=single, special_tokens=[("<s>", ID["<s>"]), ("</s>", ID["</s>"])]
    )
    more = [word for word in SPECIAL if word.startswith("<") and word[1] not in "psu/"]
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        extra_special_tokens={**{word: word for word in more if word not in names.values()}, **names}
        if names
        else more,
        model_max_length=77 if close else 2048,
        clean_up_tokenization_spaces=False,
    )


@torch.no_grad()
def shake(model: Any, seed: int) -> Any:
    """Weights large enough that attention is not flat and logits are far apart."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        if weight.dim() > 1:
            scale = 1.0 if "embed" in name else 1.6 * weight[0].numel() ** -0.5
            weight.normal_(0, scale, generator=generator)
    return model.float().eval()


def clip(folder: Path) -> None:
    """A CLIP, for its text half, beside the LLaVA models."""
    config = hf.CLIPConfig(
        text_config={
            "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
            "num_attention_heads": 2, "max_position_embeddings": 77, "projection_dim": 32,
            "bos_token_id": ID["<s>"], "eos_token_id": ID["</s>"], "pad_token_id": ID["<pad>"],
        },
        vision_config=VISION,
        projection_dim=32,
    )  # fmt: skip
    shake(hf.CLIPModel(config), 5).save_pretrained(folder)
    tokenizer(close=True).save_pretrained(folder)


_CLIP_LLAVA = {
    "vision_config": hf.CLIPVisionConfig(**VISION),
    "text_config": hf.LlamaConfig(**TEXT),
    "image_token_id": ID["<image>"],
    "image_seq_length": (CLIP_SIDE // PATCH) ** 2,
    "vision_feature_layer": -2,
    "vision_feature_select_strategy": "default",
}
_CROPS = {"size": {"shortest_edge": CLIP_SIDE}, "crop_size": {"height": CLIP_SIDE, "width": CLIP_SIDE}}


def _llava(folder: Path) -> None:
    shake(hf.LlavaForConditionalGeneration(hf.LlavaConfig(**_CLIP_LLAVA)), 1).save_pretrained(folder)
    _with_clip(folder, hf.LlavaProcessor, CLIPImageProcessorPil(**_CROPS))


def _llava_next(folder: Path) -> None:
    config = hf.LlavaNextConfig(**_CLIP_LLAVA, image_grid_pinpoints=PINPOINTS)
    shake(hf.LlavaNextForConditionalGeneration(config), 2).save_pretrained(folder)
    images = LlavaNextImageProcessorPil(**_CROPS, image_grid_pinpoints=PINPOINTS)
    _with_clip(folder, hf.LlavaNextProcessor, images)


def _with_clip(folder: Path, processor: Any, images: Any) -> None:
    """A LLaVA's processor, and its CLIP."""
    processor(
        image_processor=images,
        tokenizer=tokenizer(),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=VICUNA,
    ).save_pretrained(folder)
    clip(folder / "clip")


_QWEN_VISION = {
    "depth": 3, "num_heads": 2, "in_channels": 3, "patch_size": 8, "spatial_merge_size": 2, "temporal_patch_size": 2,
}  # fmt: skip
_QWEN_IDS = {
    "image_token_id": ID["<|image_pad|>"],
    "video_token_id": ID["<|video_pad|>"],
    "vision_start_token_id": ID["<|vision_start|>"],
    "vision_end_token_id": ID["<|vision_end|>"],
}
_QWEN_WIDTHS = {"hidden_size": 64, "out_hidden_size": 128, "intermediate_size": 96}
_MROPE = {"rope_type": "default", "mrope_section": [4, 6, 6], "rope_theta": 10000.0}
_QWEN_TEXT = {**TEXT, "rope_parameters": _MROPE}


def _qwen2_vl(folder: Path) -> None:
    vision = {**_QWEN_VISION, "embed_dim": 64, "hidden_size": 128, "mlp_ratio": 2}
    config = hf.Qwen2VLConfig(vision_config=vision, text_config=_QWEN_TEXT, **_QWEN_IDS)
    shake(hf.Qwen2VLForConditionalGeneration(config), 3).save_pretrained(folder)
    _qwen_processor(hf.Qwen2VLProcessor, hf.Qwen2VLVideoProcessor).save_pretrained(folder)


def _qwen2_5_vl(folder: Path) -> None:
    vision = {**_QWEN_VISION, **_QWEN_WIDTHS, "window_size": 32, "fullatt_block_indexes": [1]}
    config = hf.Qwen2_5_VLConfig(vision_config=vision, text_config=_QWEN_TEXT, **_QWEN_IDS)
    shake(hf.Qwen2_5_VLForConditionalGeneration(config), 4).save_pretrained(folder)
    _qwen_processor(hf.Qwen2_5_VLProcessor, hf.Qwen2VLVideoProcessor).save_pretrained(folder)


def _qwen3_vl(folder: Path) -> None:
    vision = {**_QWEN_VISION, **_QWEN_WIDTHS, "deepstack_visual_indexes": [0, 1], "num_position_embeddings": 64}
    rope = {**_MROPE, "mrope_section": [6, 5, 5], "mrope_interleaved": True}
    text = {**TEXT, "head_dim": 32, "rope_parameters": rope}
    config = hf.Qwen3VLConfig(vision_config=vision, text_config=text, **_QWEN_IDS)
    shake(hf.Qwen3VLForConditionalGeneration(config), 6).save_pretrained(folder)
    _qwen_processor(hf.Qwen3VLProcessor, hf.Qwen3VLVideoProcessor).save_pretrained(folder)


def _qwen_processor(processor: Any, video_processor: Any) -> Any:
    sizes = {
        "patch_size": 8, "merge_size": 2, "temporal_patch_size": 2,
        "size": {"shortest_edge": 16 * 16 * 16, "longest_edge": 16 * 16 * 240},
    }  # fmt: skip
    return processor(
        image_processor=Qwen2VLImageProcessorPil(**sizes),
        tokenizer=tokenizer(),
        video_processor=video_processor(**sizes),
        chat_template=CHATML,
    )


SIGLIP = {key: value for key, value in VISION.items() if key != "projection_dim"}
_NAMED = {"image": "<|image_pad|>", "start": "<|vision_start|>", "end": "<|vision_end|>", "video": "<|video_pad|>"}


def _internvl(folder: Path) -> None:
    side = {"image_size": [CLIP_SIDE] * 2, "patch_size": [PATCH] * 2}
    config = hf.InternVLConfig(
        vision_config=hf.InternVLVisionConfig(**{**SIGLIP, **side}, use_qk_norm=True),
        text_config=hf.Qwen2Config(**TEXT),
        image_token_id=ID["<|image_pad|>"],
        image_seq_length=36,
        downsample_ratio=0.5,
    )
    shake(hf.InternVLForConditionalGeneration(config), 8).save_pretrained(folder)
    names = {"start_image_token": _NAMED["start"], "end_image_token": _NAMED["end"]}
    names |= {"context_image_token": _NAMED["image"], "video_token": _NAMED["video"]}
    size = {"height": CLIP_SIDE, "width": CLIP_SIDE}
    hf.InternVLProcessor(
        image_processor=GotOcr2ImageProcessorPil(size=size, crop_to_patches=True, max_patches=4),
        tokenizer=tokenizer(**names),
        video_processor=hf.InternVLVideoProcessor(size=size),
        image_seq_length=36,
        chat_template=BARE,
    ).save_pretrained(folder)


def _onevision(folder: Path) -> None:
    config = hf.LlavaOnevisionConfig(
        vision_config=hf.SiglipVisionConfig(**SIGLIP, vision_use_head=False),
        text_config=hf.Qwen2Config(**TEXT),
        image_token_id=ID["<image>"],
        video_token_id=ID["<video>"],
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_grid_pinpoints=PINPOINTS,
    )
    shake(hf.LlavaOnevisionForConditionalGeneration(config), 9).save_pretrained(folder)
    size = {"size": {"height": CLIP_SIDE, "width": CLIP_SIDE}}
    hf.LlavaOnevisionProcessor(
        image_processor=LlavaOnevisionImageProcessorPil(**size, image_grid_pinpoints=PINPOINTS),
        tokenizer=tokenizer(),
        video_processor=hf.LlavaOnevisionVideoProcessor(**size),
        num_image_tokens=(CLIP_SIDE // PATCH) ** 2,
        vision_feature_select_strategy="full",
        chat_template=VICUNA,
    ).save_pretrained(folder)


def _gemma3(folder: Path) -> None:
    rope = {
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
    }
    layers = {"layer_types": ["sliding_attention", "full_attention", "full_attention"], "sliding_window": 64}
    config = hf.Gemma3Config(
        vision_config={**SIGLIP, "vision_use_head": False},
        text_config={**TEXT, "head_dim": 32, "rope_parameters": rope, **layers},
        image_token_id=ID["<|image_pad|>"],
        boi_token_id=ID["<|vision_start|>"],
        eoi_token_id=ID["<|vision_end|>"],
        mm_tokens_per_image=36,
        tie_word_embeddings=False,
    )
    shake(hf.Gemma3ForConditionalGeneration(config), 10).save_pretrained(folder)
    names = {f"{place}_token": _NAMED[name] for place, name in (("image", "image"), ("boi", "start"), ("eoi", "end"))}
    hf.Gemma3Processor(
        image_processor=Gemma3ImageProcessorPil(size={"height": CLIP_SIDE, "width": CLIP_SIDE}),
        tokenizer=tokenizer(**names),
        image_seq_length=36,
        chat_template=BARE.replace(_NAMED["image"], _NAMED["start"]),
    ).save_pretrained(folder)


@dataclass(frozen=True)
class Case:
    """One checkpoint.

    Attributes:
        build: writes it.
        sizes: width and height of images it is shown.
        keeps: budgets to try.
        runners: of vLLM's, those it is run with.
        embeddings: whether vLLM takes image embeddings for it.
    """

    name: str
    build: Callable[[Path], None]
    sizes: tuple[tuple[int, int], ...]
    keeps: tuple[int | str, ...] = (40, 17, "30%")
    runners: tuple[str, ...] = ("v1", "v2")
    embeddings: bool = True


CASES = {
    case.name: case
    for case in (
        Case("llava", _llava, ((96, 96), (120, 100))),
        Case("llava-next", _llava_next, ((190, 120), (100, 180), (200, 200)), (100, 60, "30%")),
        Case("qwen2-vl", _qwen2_vl, ((256, 160), (96, 240)), (30, 12, "40%")),
        Case("qwen2.5-vl", _qwen2_5_vl, ((256, 160), (96, 240)), (30, 12, "40%")),
        Case("qwen3-vl", _qwen3_vl, ((256, 160), (96, 240)), (30, 12, "40%")),
        Case("internvl", _internvl, ((190, 96), (96, 96)), (30, 12, "40%"), ("v2",)),
        Case("llava-onevision", _onevision, ((190, 120), (100, 180), (200, 200)), (100, 60, "30%"), ("v1",)),
        Case("gemma3", _gemma3, ((96, 96), (120, 100)), (20, 12, "40%"), ("v1",), embeddings=False),
    )
}


def image(seed: int, size: tuple[int, int] = (96, 96), blocks: int = 6) -> Image.Image:
    """`blocks` x `blocks` coloured rectangles; with few of them, many patches look alike."""
    colours = np.random.default_rng(seed).integers(0, 256, (blocks, blocks, 3), dtype=np.uint8)
    return Image.fromarray(colours).resize(size, Image.Resampling.NEAREST)


def words(seed: int, count: int = 5) -> str:
    """A question."""
    return " ".join(f"w{i}" for i in np.random.default_rng(1000 + seed).integers(0, WORDS, count))


def chat(*turns: str, images: int = 1) -> list[dict[str, Any]]:
    """A conversation that starts with the images; turns alternate between user and assistant."""
    content: list[list[dict[str, str]]] = [[{"type": "text", "text": turn}] for turn in turns]
    content[0] = [{"type": "image"}] * images + content[0]
    return [{"role": ("user", "assistant")[i % 2], "content": each} for i, each in enumerate(content)]
