"""Gemma 3 on vLLM."""

from __future__ import annotations

from typing import ClassVar

from vllm.model_executor.models.gemma3_mm import (
    Gemma3DummyInputsBuilder,
    Gemma3ForConditionalGeneration,
    Gemma3MultiModalProcessor,
    Gemma3ProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY

from .families import OnVllm, VllmGemma3
from .llava import SHORT_NAMES
from .model import Pruned
from .processor import PruningProcessor


class Gemma3Processor(PruningProcessor, Gemma3MultiModalProcessor):
    family_class = VllmGemma3

    @property
    def marker(self) -> int:
        return int(self.info.get_tokenizer().get_vocab()[self.info.get_hf_processor().boi_token])


@MULTIMODAL_REGISTRY.register_processor(
    Gemma3Processor, info=Gemma3ProcessingInfo, dummy_inputs=Gemma3DummyInputsBuilder
)
class PrunedGemma3(Pruned, Gemma3ForConditionalGeneration):
    """`Gemma3ForConditionalGeneration` with pruned images, whose kept tokens see each other in both directions."""

    family_class: ClassVar[type[OnVllm]] = VllmGemma3
    hf_to_vllm_mapper = Gemma3ForConditionalGeneration.hf_to_vllm_mapper | SHORT_NAMES
