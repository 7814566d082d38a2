"""LLaVA-1.5 and LLaVA-NeXT on vLLM."""

from __future__ import annotations

import re
from typing import Any, ClassVar

from torch import nn
from vllm.model_executor.models.llava import (
    LlavaDummyInputsBuilder,
    LlavaForConditionalGeneration,
    LlavaMultiModalProcessor,
    LlavaProcessingInfo,
)
from vllm.model_executor.models.llava_next import (
    LlavaNextForConditionalGeneration,
    LlavaNextMultiModalProcessor,
    LlavaNextProcessingInfo,
)
from vllm.model_executor.models.utils import WeightsMapper
from vllm.multimodal import MULTIMODAL_REGISTRY

from .families import OnVllm, VllmLlava, VllmLlavaNext
from .model import Pruned
from .processor import PruningProcessor

# The norm that CLIP applies before its projection, which vLLM leaves out; and towers saved by recent
# transformers, whose names have lost the level `vision_model`.
_NAMES = WeightsMapper(
    orig_to_new_regex={
        re.compile(r"^(?:model\.)?vision_tower\.(?:vision_model\.)?post_layernorm\."): "clip_post_norm.",
        re.compile(r"^(?:model\.)?vision_tower\.(?!vision_model\.)"): "vision_tower.vision_model.",
    }
)


class LlavaProcessor(PruningProcessor, LlavaMultiModalProcessor):
    family_class = VllmLlava


class LlavaNextProcessor(PruningProcessor, LlavaNextMultiModalProcessor):
    family_class = VllmLlavaNext

    def _candidates(self, item: Any, places: int) -> int:
        vision = {"pixel_values": item["pixel_values"].data[None], "image_sizes": item["image_sizes"].data[None]}
        return len(self.geometry.token_maps(vision)[0].candidates)


class _WithPostNorm(Pruned):
    """A model on a CLIP tower, with the norm that relevance needs."""

    def _add_modules(self, config: Any) -> None:
        vision = config.vision_config
        self.clip_post_norm = nn.LayerNorm(vision.hidden_size, eps=vision.layer_norm_eps)


@MULTIMODAL_REGISTRY.register_processor(LlavaProcessor, info=LlavaProcessingInfo, dummy_inputs=LlavaDummyInputsBuilder)
class PrunedLlava(_WithPostNorm, LlavaForConditionalGeneration):
    """`LlavaForConditionalGeneration` with pruned images."""

    family_class: ClassVar[type[OnVllm]] = VllmLlava
    hf_to_vllm_mapper = LlavaForConditionalGeneration.hf_to_vllm_mapper | _NAMES
    supports_tower_connector_lora = False


@MULTIMODAL_REGISTRY.register_processor(
    LlavaNextProcessor, info=LlavaNextProcessingInfo, dummy_inputs=LlavaDummyInputsBuilder
)
class PrunedLlavaNext(_WithPostNorm, LlavaNextForConditionalGeneration):
    """`LlavaNextForConditionalGeneration` with pruned images."""

    family_class: ClassVar[type[OnVllm]] = VllmLlavaNext
    hf_to_vllm_mapper = LlavaNextForConditionalGeneration.hf_to_vllm_mapper | _NAMES
    supports_tower_connector_lora = False
