"""Models of real shape with random weights: speed does not depend on what the weights say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ..cues.clip_text import ClipText
from ..errors import UnknownNameError


@dataclass(frozen=True)
class Shape:
    """A LLaVA-1.5-like shape; `layers` of the language model are built, `all_layers` are what the real model has."""

    name: str
    image: int
    patch: int
    tower_width: int
    tower_mlp: int
    tower_layers: int
    tower_heads: int
    projection: int
    width: int
    mlp: int
    heads: int
    all_layers: int
    layers: int
    prompt: int = 60  # text tokens around the picture

    @property
    def tokens(self) -> int:
        return (self.image // self.patch) ** 2


SHAPES = {
    "tiny": Shape("tiny", 192, 8, 192, 768, 6, 3, 192, 192, 512, 3, 4, 4, prompt=16),
    "llava-1.5-7b": Shape("llava-1.5-7b", 336, 14, 1024, 4096, 24, 16, 768, 4096, 11008, 32, 32, 1),
}


def get_shape(name: str) -> Shape:
    """The shape called `name`, or an error that lists them."""
    if name not in SHAPES:
        raise UnknownNameError(f"There is no shape called {name!r}. Known shapes: {', '.join(SHAPES)}.")
    return SHAPES[name]


def build(shape: Shape) -> Any:
    """A random `LlavaForConditionalGeneration` of that shape, fp32, in evaluation mode."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    vision = CLIPVisionConfig(
        image_size=shape.image,
        patch_size=shape.patch,
        hidden_size=shape.tower_width,
        intermediate_size=shape.tower_mlp,
        num_hidden_layers=shape.tower_layers,
        num_attention_heads=shape.tower_heads,
        projection_dim=shape.projection,
    )
    text = LlamaConfig(
        hidden_size=shape.width,
        intermediate_size=shape.mlp,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        vocab_size=1000,
        max_position_embeddings=4096,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=3,
    )
    torch.manual_seed(0)
    settings: dict[str, Any] = {"image_token_id": 5, "image_seq_length": shape.tokens}
    return LlavaForConditionalGeneration(LlavaConfig(vision_config=vision, text_config=text, **settings)).eval()


class FixedText(ClipText):
    """A CLIP text side whose question embedding is drawn once: the text tower's cost is measured apart."""

    def __init__(self, width: int, projection: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.visual_projection = torch.randn(projection, width, generator=generator) * width**-0.5
        self.relevance_sign = 1
        self._text = torch.nn.functional.normalize(torch.randn(projection, generator=generator), dim=0)

    def embed(self, question: str) -> torch.Tensor:
        return self._text


def build_text(shape: Shape) -> Any:
    """A random CLIP text tower of the shape's kind (CLIP-L's 12 layers, or the embedded model's 3), and 16 tokens."""
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    width = 768 if shape.tower_layers >= 12 else shape.tower_width
    config = CLIPTextConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=12 if shape.tower_layers >= 12 else 3,
        num_attention_heads=width // 64,
        projection_dim=shape.projection,
        vocab_size=1000,
        bos_token_id=1,
        eos_token_id=3,
    )
    torch.manual_seed(0)
    return CLIPTextModelWithProjection(config).eval()
