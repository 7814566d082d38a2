"""InternVL in transformers' own format on vLLM, which serves it by its class for Intern-S1."""

from __future__ import annotations

from typing import ClassVar

from vllm.model_executor.models.interns1 import (
    InternS1DummyInputsBuilder,
    InternS1ForConditionalGeneration,
    InternS1MultiModalProcessor,
    InternS1ProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY

from .families import OnVllm, VllmInternVL
from .model import Pruned
from .processor import PruningProcessor


class InternVLProcessor(PruningProcessor, InternS1MultiModalProcessor):
    family_class = VllmInternVL


@MULTIMODAL_REGISTRY.register_processor(
    InternVLProcessor, info=InternS1ProcessingInfo, dummy_inputs=InternS1DummyInputsBuilder
)
class PrunedInternVL(Pruned, InternS1ForConditionalGeneration):
    """`InternVLForConditionalGeneration` with pruned images; videos are not pruned."""

    family_class: ClassVar[type[OnVllm]] = VllmInternVL
