"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL on vLLM: kept tokens keep their M-RoPE positions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from vllm.config import VllmConfig
from vllm.model_executor.models.qwen2_5_vl import (
    Qwen2_5_VLDummyInputsBuilder,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLMultiModalProcessor,
    Qwen2_5_VLProcessingInfo,
)
from vllm.model_executor.models.qwen2_vl import (
    Qwen2VLDummyInputsBuilder,
    Qwen2VLForConditionalGeneration,
    Qwen2VLMultiModalProcessor,
    Qwen2VLProcessingInfo,
)
from vllm.model_executor.models.qwen3_vl import (
    Qwen3VLDummyInputsBuilder,
    Qwen3VLForConditionalGeneration,
    Qwen3VLMultiModalProcessor,
    Qwen3VLProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.platforms import current_platform
from vllm.utils.gpu_sync_debug import gpu_sync_allowed

from ..core.token_map import TokenMap
from . import mrope
from .families import OnVllm, VllmQwen
from .model import Pruned
from .processor import PruningProcessor


class Qwen2VLProcessor(PruningProcessor, Qwen2VLMultiModalProcessor):
    family_class = VllmQwen


class Qwen25VLProcessor(PruningProcessor, Qwen2_5_VLMultiModalProcessor):
    family_class = VllmQwen


class Qwen3VLProcessor(PruningProcessor, Qwen3VLMultiModalProcessor):
    family_class = VllmQwen


class PrunedQwen(Pruned):
    """What the Qwen-VL models share: where a kept token lies travels behind its embedding.

    vLLM's runner asks :meth:`recompute_mrope_positions` for models that prune, a path made for its video sampling.
    """

    family_class: ClassVar[type[OnVllm]] = VllmQwen
    supports_multimodal_pruning = True
    places_tokens: ClassVar[bool] = True  # read by vLLM's runner through :func:`tell_runner`
    supported_video_pruning_methods: ClassVar[tuple[str, ...]] = ()

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        tell_runner(vllm_config)
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        self.is_multimodal_pruning_enabled = False  # the stock model's own pruning of videos

    def placed(self, values: Tensor, token_map: TokenMap, mask: Tensor) -> Tensor:
        return mrope.attach(values, token_map.row[mask], token_map.column[mask])

    def untouched(self, embeddings: Any) -> Any:
        return [mrope.attach_nothing(each) for each in embeddings] if embeddings is not None else None

    def get_mrope_input_positions(self, input_tokens: list[int], mm_features: list[Any]) -> tuple[Tensor, int]:
        """Positions of a prompt in which images are shortened: those of the full prompt, as far as they are known.

        Text stands where it stood. The places of a shortened image hold its first position until the embeddings
        arrive and :meth:`recompute_mrope_positions` adds each token's row and column.
        """
        merge = self.config.vision_config.spatial_merge_size**2  # type: ignore[attr-defined]
        spans = mrope.spans([(f.mm_position.offset, f.mm_position.length, _full(f, merge)) for f in mm_features])
        features = [
            replace(f, mm_position=replace(f.mm_position, offset=span.start, length=span.full))
            if span.shortened
            else replace(f, mm_position=replace(f.mm_position, offset=span.start))
            for f, span in zip(mm_features, spans)
        ]
        tokens = mrope.lengthened(input_tokens, spans)
        positions, delta = super().get_mrope_input_positions(tokens, features)  # type: ignore[misc]
        return mrope.shortened(positions, spans), delta + len(tokens) - len(input_tokens)

    def recompute_mrope_positions(
        self,
        input_ids: list[int] | Tensor,
        multimodal_embeddings: Sequence[Tensor],
        mrope_positions: Tensor,
        num_computed_tokens: int,
    ) -> tuple[Sequence[Tensor], Tensor, int]:
        config: Any = self.config  # type: ignore[attr-defined]
        ids = torch.as_tensor(input_ids, device=mrope_positions.device)
        media = (ids == config.image_token_id) | (ids == config.video_token_id)
        with gpu_sync_allowed():
            positions = mrope.place(mrope_positions, media, multimodal_embeddings, num_computed_tokens)
            delta = int(positions.max()) + 1 - len(ids) if len(ids) else 0
        return [mrope.detach(each) for each in multimodal_embeddings], positions, delta


def _full(feature: Any, merge: int) -> int | None:
    """Unpruned tokens of an image; None for anything that is never pruned."""
    if feature.modality != "image" or feature.data is None:
        return None
    return int(feature.data["image_grid_thw"].data.prod()) // merge


def tell_runner(vllm_config: VllmConfig) -> None:
    """Let all of this process know that the model places tokens itself. To be called before the model is built.

    Both runners ask this engine's configuration once the model is there, and Qwen3-VL's layers while they are built:
    kept tokens stand further apart than they are many, and the table of rotary positions must reach as far.

    On CPUs vLLM's first runner never asks (its stock video sampling fails there as well), so its class gets a property
    that does. Models that do not prune are answered as before.
    """
    multimodal = vllm_config.model_config.get_multimodal_config()
    object.__setattr__(multimodal, "is_multimodal_pruning_enabled", _yes)
    if current_platform.is_cpu() and not vllm_config.use_v2_model_runner:
        from vllm.v1.worker.cpu_model_runner import CPUModelRunner

        CPUModelRunner.is_multimodal_pruning_enabled = property(_prunes, _remember)


def _yes() -> bool:  # a function of a module, since configurations are pickled
    return True


def _prunes(runner: Any) -> bool:
    placed = getattr(getattr(runner, "model", None), "places_tokens", False)
    return placed or bool(runner.__dict__.get("is_multimodal_pruning_enabled"))


def _remember(runner: Any, value: bool) -> None:
    runner.__dict__["is_multimodal_pruning_enabled"] = value


@MULTIMODAL_REGISTRY.register_processor(
    Qwen2VLProcessor, info=Qwen2VLProcessingInfo, dummy_inputs=Qwen2VLDummyInputsBuilder
)
class PrunedQwen2VL(PrunedQwen, Qwen2VLForConditionalGeneration):
    """`Qwen2VLForConditionalGeneration` with pruned images."""


@MULTIMODAL_REGISTRY.register_processor(
    Qwen25VLProcessor, info=Qwen2_5_VLProcessingInfo, dummy_inputs=Qwen2_5_VLDummyInputsBuilder
)
class PrunedQwen25VL(PrunedQwen, Qwen2_5_VLForConditionalGeneration):
    """`Qwen2_5_VLForConditionalGeneration` with pruned images."""


@MULTIMODAL_REGISTRY.register_processor(
    Qwen3VLProcessor, info=Qwen3VLProcessingInfo, dummy_inputs=Qwen3VLDummyInputsBuilder
)
class PrunedQwen3VL(PrunedQwen, Qwen3VLForConditionalGeneration):
    """`Qwen3VLForConditionalGeneration` with pruned images; deepstack features are kept at the same tokens."""
