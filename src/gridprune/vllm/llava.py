"""LLaVA-1.5, LLaVA-NeXT and LLaVA-OneVision on vLLM."""

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
from vllm.model_executor.models.llava_onevision import (
    LlavaOnevisionDummyInputsBuilder,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionMultiModalProcessor,
    LlavaOnevisionProcessingInfo,
)
from vllm.model_executor.models.utils import WeightsMapper
from vllm.multimodal import MULTIMODAL_REGISTRY

from .families import OnVllm, VllmLlava, VllmLlavaNext, VllmOneVision
from .model import Pruned
from .processor import PruningProcessor

# Towers saved by recent transformers, whose names have lost the level `vision_model`.
SHORT_NAMES = WeightsMapper(
    orig_to_new_regex={re.compile(r"^(?:model\.)?vision_tower\.(?!vision_model\.)"): "vision_tower.vision_model."}
)
# And the norm that CLIP applies before its projection, which vLLM leaves out.
_POST_NORM = re.compile(r"^(?:model\.)?vision_tower\.(?:vision_model\.)?post_layernorm\.")
_CLIP_NAMES = WeightsMapper(orig_to_new_regex={_POST_NORM: "clip_post_norm."}) | SHORT_NAMES


class LlavaProcessor(PruningProcessor, LlavaMultiModalProcessor):
    family_class = VllmLlava


class LlavaNextProcessor(PruningProcessor, LlavaNextMultiModalProcessor):
    family_class = VllmLlavaNext

    def _candidates(self, item: Any, places: int) -> int:
        vision = {"pixel_values": item["pixel_values"].data[None], "image_sizes": item["image_sizes"].data[None]}
        return len(self.geometry.token_maps(vision)[0].candidates)


class OneVisionProcessor(PruningProcessor, LlavaOnevisionMultiModalProcessor):
    family_class = VllmOneVision
    _candidates = LlavaNextProcessor._candidates


class _WithPostNorm(Pruned):
    """A model on a CLIP tower, with the norm that relevance needs."""

    def _add_modules(self, config: Any) -> None:
        vision = config.vision_config
        self.clip_post_norm = nn.LayerNorm(vision.hidden_size, eps=vision.layer_norm_eps)


@MULTIMODAL_REGISTRY.register_processor(LlavaProcessor, info=LlavaProcessingInfo, dummy_inputs=LlavaDummyInputsBuilder)
class PrunedLlava(_WithPostNorm, LlavaForConditionalGeneration):
    """`LlavaForConditionalGeneration` with pruned images."""

    family_class: ClassVar[type[OnVllm]] = VllmLlava
    hf_to_vllm_mapper = LlavaForConditionalGeneration.hf_to_vllm_mapper | _CLIP_NAMES


@MULTIMODAL_REGISTRY.register_processor(
    LlavaNextProcessor, info=LlavaNextProcessingInfo, dummy_inputs=LlavaDummyInputsBuilder
)
class PrunedLlavaNext(_WithPostNorm, LlavaNextForConditionalGeneration):
    """`LlavaNextForConditionalGeneration` with pruned images."""

    family_class: ClassVar[type[OnVllm]] = VllmLlavaNext
    hf_to_vllm_mapper = LlavaNextForConditionalGeneration.hf_to_vllm_mapper | _CLIP_NAMES


@MULTIMODAL_REGISTRY.register_processor(
    OneVisionProcessor, info=LlavaOnevisionProcessingInfo, dummy_inputs=LlavaOnevisionDummyInputsBuilder
)
class PrunedOneVision(Pruned, LlavaOnevisionForConditionalGeneration):
    """`LlavaOnevisionForConditionalGeneration` with pruned images; videos are not pruned."""

    family_class: ClassVar[type[OnVllm]] = VllmOneVision
    hf_to_vllm_mapper = LlavaOnevisionForConditionalGeneration.hf_to_vllm_mapper | SHORT_NAMES
