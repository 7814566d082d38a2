"""gridprune's families on vLLM's modules: the same geometry and cues, vLLM's own encoder.

A family is bound to a vLLM model, or, where only geometry is wanted (in the API server), to a :class:`Shape` that holds
the configuration alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from vllm.model_executor.models.llava_next import LlavaNextForConditionalGeneration

from ..core.token_map import TokenMap
from ..cues.tower import Tower
from ..errors import UnsupportedModelError
from ..families.base import Family
from ..families.llava import Llava
from ..families.llava_next import LlavaNext
from ..families.qwen_vl import QwenVL
from .towers import clip_tower, qwen_tower


@dataclass(frozen=True)
class Shape:
    """What geometry needs of a model: its configuration."""

    config: Any


class OnVllm(Family):
    """What all families share on vLLM. The model's class is one of :mod:`gridprune.vllm.model`."""

    @property
    def base(self) -> Any:
        return self.model

    @property
    def streams(self) -> list[Family]:
        return [self]

    def features(self, vision: dict[str, Any]) -> Any:
        return self.model.encode_unpruned(**vision)

    def embeddings(self, output: Any, maps: list[TokenMap]) -> list[Tensor]:
        """Per image (n, D), as the language model's first layer reads them."""
        return [values[:, : self.model.config.text_config.hidden_size] for values in output]

    def extra(self, output: Any, index: int) -> Tensor:
        """(n, E) what travels behind an image's embeddings to deeper layers; E is 0 for most models."""
        return output[index][:, self.model.config.text_config.hidden_size :]

    def kept_mask(self, token_map: TokenMap, kept: Tensor) -> Tensor:
        """(n,) bool over all tokens of an image: the kept candidates, and nothing beside them.

        Separators go, for their number would depend on the choice, and vLLM reserves places before it is made; an
        image that is kept whole keeps them.
        """
        if len(kept) == len(token_map.candidates):
            return torch.ones_like(token_map.separator)
        mask = torch.zeros_like(token_map.separator)
        mask[token_map.candidate_positions[kept]] = True
        return mask

    @classmethod
    def refuse(cls, config: Any) -> None:
        """Refuse configurations that are not served here."""


class VllmLlava(OnVllm, Llava):
    """LLaVA-1.5 on vLLM, with a CLIP tower."""

    @cached_property
    def tower(self) -> Tower:
        return clip_tower(self.model.vision_tower.vision_model, self.vision_config, self.model.clip_post_norm)

    @classmethod
    def refuse(cls, config: Any) -> None:
        kind = config.vision_config.model_type
        if kind != "clip_vision_model":
            raise UnsupportedModelError(
                f"In vLLM gridprune prunes LLaVA models with a CLIP tower; this one has {kind!r}. "
                "Serve it with its stock architecture, or prune it with transformers."
            )
        cls(Shape(config)).check_strategy({})


class VllmLlavaNext(VllmLlava, LlavaNext):
    """LLaVA-NeXT on vLLM."""

    def take_images(self, vision: dict[str, Any], indices: Sequence[int]) -> dict[str, Any]:
        tiles = self.tiles(vision)
        return {
            "pixel_values": [vision["pixel_values"][i][: tiles[i]] for i in indices],  # without padding tiles
            "image_sizes": vision["image_sizes"][list(indices)],
        }

    def _pack(self, features: list[Tensor], sizes: Tensor, newline: Tensor) -> list[Tensor]:
        model: Any = SimpleNamespace(config=self.model.config, image_newline=newline)
        merge = LlavaNextForConditionalGeneration._merge_image_patch_embeddings
        return [merge(model, size, each, strategy="spatial_unpad") for size, each in zip(sizes, features)]


class VllmQwen(OnVllm, QwenVL):
    """Qwen2-VL, Qwen2.5-VL and Qwen3-VL on vLLM, still images."""

    @cached_property
    def tower(self) -> Tower:
        return qwen_tower(self.model.visual, self.vision_config)


def images_in(family: Family, data: Mapping[str, Any]) -> dict[str, Any] | None:
    """The vision arguments among what vLLM processed or hands over; None if there are no pixels of images."""
    vision = family.vision(dict(data))
    if vision is None:
        return None
    return {key: _as_tensor(value) if key in family.layout_keys else value for key, value in vision.items()}


def _as_tensor(value: Any) -> Tensor:
    return value if isinstance(value, Tensor) else torch.stack([torch.as_tensor(each, device="cpu") for each in value])
