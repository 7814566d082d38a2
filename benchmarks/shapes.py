"""Models of real shape with random weights: speed does not depend on what the weights say.

A 7B language model does not fit into a small machine in fp32, so one of its layers is built, and a few blocks of its
vision tower. Each block is timed inside every call; figures for the whole model add the blocks that are missing, at the
time one of their kind took in the same call, and are labelled so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from gridprune.cues.clip_text import ClipText
from gridprune.errors import UnknownNameError

IMAGE_TOKEN, _VISION_START, _VISION_END = 5, 6, 7
_CLIP_L: dict[str, Any] = {
    "image_size": 336,
    "patch_size": 14,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "projection_dim": 768,
}
_VICUNA: dict[str, Any] = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
}
_QWEN_VISION: dict[str, Any] = {
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "out_hidden_size": 3584,
    "window_size": 112,
}
_QWEN: dict[str, Any] = {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "rope_parameters": {"rope_type": "default", "mrope_section": [16, 24, 24], "rope_theta": 1e6},
}
_TEXT: dict[str, Any] = {
    "vocab_size": 1000,
    "max_position_embeddings": 32768,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 3,
}


@dataclass(frozen=True)
class Shape:
    """What to build and how long its prompt is.

    Attributes:
        tokens: visual tokens of the image, as the real model has them.
        layers, tower_layers: of the real model.
        build_tower: tower blocks to build.
        keeps: budgets to measure.
        make: (layers, tower blocks) -> model.
        vision: the vision arguments of one random image.
        prompt: text tokens around the image.
        build_layers: language-model layers to build.
        tower_full: tower blocks of the real model that attend to the whole image, if the others keep to windows; the
            last one built does.
        pairs: how many pairs of pruned and native calls are made at least.
        clip: whether relevance comes from a CLIP text tower.
        one_size: whether its processor makes every image one view of one size.
    """

    name: str
    tokens: int
    layers: int
    tower_layers: int
    build_tower: int
    keeps: tuple[int, ...]
    make: Callable[[int, int], Any]
    vision: Callable[[], dict[str, Any]]
    prompt: int = 60
    build_layers: int = 1
    tower_full: int = 0
    pairs: int = 10
    clip: bool = True
    one_size: bool = True


def build(shape: Shape) -> Any:
    """The model with the blocks to build: fp32 on a CPU, bf16 on a GPU."""
    torch.manual_seed(0)
    model = shape.make(shape.build_layers, shape.build_tower).eval()
    return model.to("cuda", torch.bfloat16) if torch.cuda.is_available() else model


def get_shape(name: str) -> Shape:
    """The shape called `name`, or an error that lists them."""
    if name not in SHAPES:
        raise UnknownNameError(f"There is no shape called {name!r}. Known shapes: {', '.join(SHAPES)}.")
    return SHAPES[name]


def _llava(layers: int, blocks: int, vision: dict[str, Any] = _CLIP_L, text: dict[str, Any] = _VICUNA) -> Any:
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    ids: dict[str, Any] = {"image_token_id": IMAGE_TOKEN}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**{**vision, "num_hidden_layers": blocks}),
        text_config=LlamaConfig(**{**_TEXT, **text, "num_hidden_layers": layers}),
        **ids,
    )
    return LlavaForConditionalGeneration(config)


def _llava_next(layers: int, blocks: int) -> Any:
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaNextConfig, LlavaNextForConditionalGeneration

    ids: dict[str, Any] = {"image_token_id": IMAGE_TOKEN}
    config = LlavaNextConfig(
        vision_config=CLIPVisionConfig(**{**_CLIP_L, "num_hidden_layers": blocks}),
        text_config=LlamaConfig(**{**_TEXT, **_VICUNA, "num_hidden_layers": layers}),
        **ids,
        image_grid_pinpoints=[[672, 672]],
    )
    return LlavaNextForConditionalGeneration(config)


def _qwen(layers: int, blocks: int) -> Any:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    config = Qwen2_5_VLConfig(
        vision_config={**_QWEN_VISION, "depth": blocks, "fullatt_block_indexes": [blocks - 1]},
        text_config={**_TEXT, **_QWEN, "num_hidden_layers": layers},
        image_token_id=IMAGE_TOKEN,
        vision_start_token_id=_VISION_START,
        vision_end_token_id=_VISION_END,
    )
    return Qwen2_5_VLForConditionalGeneration(config)


def _qwen_image(rows: int, columns: int) -> dict[str, Any]:
    """An image of rows x columns patches of 14 x 14 pixels, two frames deep."""
    pixels = torch.randn(rows * columns, 3 * 2 * 14 * 14)
    return {"pixel_values": pixels, "image_grid_thw": torch.tensor([[1, rows, columns]])}


def _tiny(layers: int, blocks: int) -> Any:
    vision = {
        **{"image_size": 192, "patch_size": 8, "hidden_size": 192, "intermediate_size": 768},
        **{"num_attention_heads": 3, "projection_dim": 192},
    }
    text = {
        **{"hidden_size": 192, "intermediate_size": 512, "num_attention_heads": 3, "num_key_value_heads": 3},
        "max_position_embeddings": 4096,
    }
    return _llava(layers, blocks, vision, text)


SHAPES = {
    shape.name: shape
    for shape in (
        Shape(
            *("tiny", 576, 4, 6, 6, (192, 128, 64), _tiny, lambda: {"pixel_values": torch.randn(1, 3, 192, 192)}),
            prompt=16,
            build_layers=4,
        ),
        Shape(
            *("llava-1.5-7b", 576, 32, 24, 3, (320, 192, 128, 64), _llava),
            lambda: {"pixel_values": torch.randn(1, 3, 336, 336)},
        ),
        Shape(
            *("llava-next-7b", 2880, 32, 24, 3, (320, 64), _llava_next),
            lambda: {"pixel_values": torch.randn(1, 5, 3, 336, 336), "image_sizes": torch.tensor([[672, 672]])},
            one_size=False,
        ),
        Shape(
            *("qwen2.5-vl-7b", 1296, 28, 32, 2, (144,), _qwen, lambda: _qwen_image(72, 72)),
            tower_full=4,
            pairs=4,
            clip=False,
            one_size=False,
        ),
        Shape(
            *("qwen2.5-vl-7b-5k", 5040, 28, 32, 2, (560,), _qwen, lambda: _qwen_image(144, 140)),
            tower_full=4,
            pairs=6,
            clip=False,
            one_size=False,
        ),
    )
}


class FixedText(ClipText):
    """A CLIP text side whose question embedding is drawn once: the text tower's cost is measured apart."""

    def __init__(self, width: int, projection: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.visual_projection = torch.randn(projection, width, generator=generator) * width**-0.5
        self.reading = "plus"
        self._text = torch.nn.functional.normalize(torch.randn(projection, generator=generator), dim=0)

    @property
    def device(self) -> torch.device:
        return self._text.device

    def embed(self, question: str) -> torch.Tensor:
        return self._text


class FixedWords:
    """A tokenizer that knows one question of eight words."""

    def __call__(self, question: str, **settings: Any) -> dict[str, list[int]]:
        return {"input_ids": list(range(10, 18))}


def build_text(vision: Any) -> Any:
    """A random CLIP text tower that fits a vision config (CLIP-L's 12 layers, or the embedded model's 3)."""
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    large = vision.hidden_size >= 768
    width = 768 if large else vision.hidden_size
    config = CLIPTextConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=12 if large else 3,
        num_attention_heads=max(1, width // 64),
        projection_dim=vision.projection_dim,
        vocab_size=1000,
        bos_token_id=1,
        eos_token_id=3,
    )
    torch.manual_seed(0)
    return CLIPTextModelWithProjection(config).eval()
