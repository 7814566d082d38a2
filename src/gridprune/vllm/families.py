"""gridprune's families on vLLM's modules: the same geometry and cues, vLLM's own encoder.

A family is bound to a vLLM model, or, where only geometry is wanted (in the API server), to a :class:`Shape` that holds
the configuration alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor
from vllm.model_executor.models.interns1 import InternS1ForConditionalGeneration
from vllm.model_executor.models.llava_next import LlavaNextForConditionalGeneration
from vllm.model_executor.models.llava_onevision import LlavaOnevisionForConditionalGeneration

from ..core.token_map import TokenMap
from ..cues.tower import Tower
from ..errors import UnsupportedCallError, UnsupportedModelError
from ..families.base import Family
from ..families.internvl import InternVL
from ..families.llava import Llava
from ..families.llava_next import LlavaNext
from ..families.maps import pooled
from ..families.onevision import OneVision
from ..families.qwen_vl import QwenVL
from ..families.siglip import Gemma3
from .towers import clip_tower, intern_tower, qwen_tower, siglip_tower


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


class VllmOneVision(VllmLlavaNext, OneVision):
    """LLaVA-OneVision on vLLM. As there, every image is cut into tiles, also beside others."""

    option_keys: ClassVar[tuple[str, ...]] = ()

    @cached_property
    def tower(self) -> Tower:
        return siglip_tower(self.model.vision_tower.vision_model, self.vision_config)

    @classmethod
    def refuse(cls, config: Any) -> None:
        found = (config.vision_config.model_type, config.vision_aspect_ratio)
        if found != ("siglip_vision_model", "anyres_max_9"):
            raise UnsupportedModelError(
                "In vLLM gridprune prunes LLaVA-OneVision models with a SigLIP tower and vision_aspect_ratio "
                f"'anyres_max_9', the only one vLLM knows; this one has {found[0]!r} and {found[1]!r}. "
                "Prune it with transformers."
            )

    def _pack(self, features: list[Tensor], sizes: Tensor, newline: Tensor) -> list[Tensor]:
        model: Any = SimpleNamespace(config=self.model.config, image_newline=newline)
        merge = LlavaOnevisionForConditionalGeneration._merge_image_patch_embeddings
        options: Any = {"image_newline": newline, "strategy": "spatial_unpad"}
        return [merge(model, size, each, **options) for size, each in zip(sizes, features)]


class VllmInternVL(OnVllm, InternVL):
    """InternVL on vLLM, in transformers' own format; vLLM says how many tiles an image has."""

    layout_keys: ClassVar[tuple[str, ...]] = ("image_num_patches",)
    option_keys: ClassVar[tuple[str, ...]] = ("image_token_id",)

    @cached_property
    def tower(self) -> Tower:
        return intern_tower(self.model.vision_tower, self.vision_config)

    def shuffle(self, patches: Tensor, ratio: float) -> Tensor:
        model: Any = None  # it reads none
        return InternS1ForConditionalGeneration.pixel_shuffle(model, patches, ratio)

    def token_maps(self, vision: dict[str, Any]) -> list[TokenMap]:
        return [self.image_map(int(tiles)) for tiles in vision["image_num_patches"]]

    def take_images(self, vision: dict[str, Any], indices: Sequence[int]) -> dict[str, Any]:
        counts = vision["image_num_patches"]
        tiles = vision["pixel_values"].split(counts.tolist())
        pixels = torch.cat([tiles[i] for i in indices])
        return {**vision, "pixel_values": pixels, "image_num_patches": counts[list(indices)]}

    @classmethod
    def refuse(cls, config: Any) -> None:
        if (config.vision_feature_layer, config.vision_feature_select_strategy) != (-1, "default"):
            raise UnsupportedModelError(
                "vLLM reads the last layer of InternVL's tower without [CLS]; this checkpoint has vision_feature_layer="
                f"{config.vision_feature_layer!r} and vision_feature_select_strategy="
                f"{config.vision_feature_select_strategy!r}. Prune it with transformers."
            )


class VllmGemma3(OnVllm, Gemma3):
    """Gemma 3 on vLLM, without pan and scan."""

    layout_keys: ClassVar[tuple[str, ...]] = ("num_patches",)

    @cached_property
    def tower(self) -> Tower:
        return siglip_tower(self.model.vision_tower.vision_model, self.vision_config)

    @cached_property
    def _map(self) -> TokenMap:
        side = self.vision_config.image_size // self.vision_config.patch_size
        return pooled(side, side, side // math.isqrt(self.model.config.mm_tokens_per_image))

    def token_maps(self, vision: dict[str, Any]) -> list[TokenMap]:
        if any(int(crops) != 1 for crops in vision["num_patches"]):
            raise UnsupportedCallError(
                "In vLLM gridprune does not prune Gemma 3's pan and scan, which puts words between the crops of an "
                "image. Leave do_pan_and_scan out."
            )
        return super().token_maps(vision)


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
