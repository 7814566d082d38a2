"""Every name of vLLM that the plugin stands on. An upgrade that moves one fails here first, by name."""

from __future__ import annotations

import base64
import copy
import dataclasses
import inspect
import io
import pickle
import re
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import typer
from hooks import plugin_imports
from PIL import Image
from vllm.config import CompilationConfig, LoRAConfig, ModelConfig, MultiModalConfig, SchedulerConfig, VllmConfig
from vllm.distributed import get_tensor_model_parallel_world_size, tensor_model_parallel_all_gather
from vllm.entrypoints.cli.serve import ServeSubcommand, make_arg_parser
from vllm.entrypoints.generate.base.protocol import validate_request_mm_kwargs
from vllm.exceptions import VLLMValidationError
from vllm.model_executor.layers.attention.mm_encoder_attention import MMEncoderAttention
from vllm.model_executor.models import (
    clip,
    gemma3_mm,
    interns1,
    interns1_vit,
    llava,
    llava_next,
    llava_onevision,
    qwen2_5_vl,
    qwen2_vl,
    qwen3_vl,
    siglip,
)
from vllm.model_executor.models.interfaces import SupportsMultiModalPruning
from vllm.model_executor.models.utils import WeightsMapper
from vllm.multimodal.hasher import MultiModalHasher
from vllm.multimodal.inputs import MultiModalFeatureSpec, MultiModalFieldConfig, PlaceholderRange
from vllm.multimodal.media import MediaConnector
from vllm.multimodal.parse import DictEmbeddingItems, EmbeddingItems
from vllm.multimodal.processing import (
    BaseMultiModalProcessor,
    BaseProcessingInfo,
    InputProcessingContext,
    PromptReplacement,
)
from vllm.multimodal.processing.inputs import ProcessorInputs
from vllm.renderers.base import BaseRenderer
from vllm.renderers.hf import HfRenderer
from vllm.renderers.registry import RENDERER_REGISTRY
from vllm.tokenizers.registry import TokenizerRegistry
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.v1.metrics import loggers
from vllm.v1.worker.gpu.model_states.mm_pruning import MultiModalPruner

from gridprune.cli.main import app
from gridprune.cli.serve import command_line
from gridprune.vllm import ARCHITECTURES, mrope, register
from gridprune.vllm.gemma import Gemma3Processor
from gridprune.vllm.internvl import InternVLProcessor
from gridprune.vllm.llava import LlavaNextProcessor, LlavaProcessor, OneVisionProcessor
from gridprune.vllm.qwen import PrunedQwen, Qwen2VLProcessor, Qwen3VLProcessor, Qwen25VLProcessor, tell_runner
from gridprune.vllm.server import Renderer
from vllm import ModelRegistry

_PROCESSOR_HOOKS = {
    "apply": ["self", "inputs", "timing_ctx"],
    "get_dummy_inputs": ["self", "seq_len", "mm_counts", "mm_options"],
    "_get_mm_hashes": ["self", "inputs"],
    "_get_cache_missing_processor_kwargs": ["self", "inputs", "mm_is_cached"],
    "_apply_hf_processor_main": ["self", "mm_items", "hf_kwargs"],
    "_get_mm_fields_config": ["self", "hf_inputs", "hf_processor_mm_kwargs"],
    "_get_prompt_updates": ["self", "mm_items", "hf_processor_mm_kwargs", "out_mm_kwargs"],
}
_MODELS: list[Any] = [
    llava.LlavaForConditionalGeneration,
    llava_next.LlavaNextForConditionalGeneration,
    qwen2_vl.Qwen2VLForConditionalGeneration,
    qwen2_5_vl.Qwen2_5_VLForConditionalGeneration,
    qwen3_vl.Qwen3VLForConditionalGeneration,
    llava_onevision.LlavaOnevisionForConditionalGeneration,
    gemma3_mm.Gemma3ForConditionalGeneration,
]
_QWEN_MODELS = _MODELS[2:5]


def parameters(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


def attributes(function: Any) -> set[str]:
    """Names that the source of a function reads or sets on `self`."""
    return set(re.findall(r"self\.(\w+)", inspect.getsource(function)))


@pytest.mark.parametrize(("module", "name"), plugin_imports())
def test_import(module: str, name: str) -> None:
    """Every name that a file of the plugin imports, read from the files."""
    assert hasattr(import_module(module), name)


def test_the_imports_were_found() -> None:
    assert {module for module, _ in plugin_imports()} >= {"vllm", "vllm.config", "vllm.multimodal.hasher"}


@pytest.mark.parametrize("name", _PROCESSOR_HOOKS)
def test_processor_hook(name: str) -> None:
    assert parameters(getattr(BaseMultiModalProcessor, name)) == _PROCESSOR_HOOKS[name]


@pytest.mark.parametrize(
    "ours",
    [
        LlavaProcessor, LlavaNextProcessor, OneVisionProcessor, Qwen2VLProcessor, Qwen25VLProcessor, Qwen3VLProcessor,
        InternVLProcessor, Gemma3Processor,
    ],
)  # fmt: skip
def test_our_hooks_take_what_the_stock_processors_take(ours: type) -> None:
    stock = ours.__mro__[2]
    for name in _PROCESSOR_HOOKS:
        assert parameters(getattr(ours, name)) == parameters(getattr(stock, name)), name


def test_the_hooks_are_called_where_we_expect_them() -> None:
    """Hashes before look-ups, asks of missing images into processing, updates behind it: cached and uncached."""
    for way in ("_cached_apply_hf_processor", "_apply_hf_processor"):
        source = inspect.getsource(getattr(BaseMultiModalProcessor, way))
        for hook in ("_get_mm_hashes", "_apply_hf_processor_main", "_get_mm_fields_config", "_get_mm_prompt_updates"):
            assert f"self.{hook}(" in source, (way, hook)
    assert "self._get_cache_missing_processor_kwargs(" in inspect.getsource(
        BaseMultiModalProcessor._cached_apply_hf_processor
    )


def test_processor_inputs_and_hashes() -> None:
    fields = {f.name for f in dataclasses.fields(ProcessorInputs)}
    assert {"prompt", "mm_data_items", "hf_processor_mm_kwargs"} <= fields
    assert parameters(MultiModalHasher.hash_kwargs)[:1] == ["algorithm"] or "algorithm" in str(
        inspect.signature(MultiModalHasher.hash_kwargs)
    )
    one, other = (MultiModalHasher.hash_kwargs("blake3", image="p", ask=ask, settings={}) for ask in ("a", "b"))
    assert one != other


def test_fields_updates_and_places() -> None:
    assert parameters(MultiModalFieldConfig.batched) == ["modality", "keep_on_cpu"]
    assert {"modality", "target", "replacement"} <= {f.name for f in dataclasses.fields(PromptReplacement)}
    assert {"offset", "length", "is_embed"} <= {f.name for f in dataclasses.fields(PlaceholderRange)}
    assert {"data", "modality", "mm_position"} <= {f.name for f in dataclasses.fields(MultiModalFeatureSpec)}
    assert issubclass(EmbeddingItems, object)
    assert issubclass(DictEmbeddingItems, object)


@pytest.mark.parametrize("model", _MODELS, ids=lambda model: model.__name__)
def test_model_hooks(model: Any) -> None:
    assert parameters(model.__init__) == ["self", "vllm_config", "prefix"]
    assert parameters(model.embed_multimodal) == ["self", "kwargs"]
    assert isinstance(model.hf_to_vllm_mapper, WeightsMapper)
    assert model.__name__ in ARCHITECTURES
    assert "language_model" in inspect.getsource(model.__init__)


def test_what_is_read_of_the_configuration() -> None:
    assert {
        "model_config", "compilation_config", "lora_config", "scheduler_config", "device_config",
    } <= {f.name for f in dataclasses.fields(VllmConfig)}  # fmt: skip
    assert {"hf_config", "model"} <= set(ModelConfig.__annotations__)
    assert callable(ModelConfig.get_multimodal_config)
    assert {"get_hf_config", "get_hf_processor"} <= set(dir(BaseProcessingInfo))
    assert "get_mm_config" in dir(InputProcessingContext)


def test_requests_are_not_trusted_with_options_unless_the_server_says_so() -> None:
    given = {"mm_processor_kwargs": {"gridprune_keep": 3}, "media_io_kwargs": None}
    validate_request_mm_kwargs(**given, trust_request_mm_kwargs=True)
    with pytest.raises(VLLMValidationError, match="--trust-request-mm-kwargs"):
        validate_request_mm_kwargs(**given, trust_request_mm_kwargs=False)


def test_the_renderer_and_the_options_of_our_server() -> None:
    ours = parameters(BaseRenderer.process_for_engine_async)
    assert ours[:3] == ["self", "prompt", "arrival_time"]
    assert "skip_mm_cache" in ours
    assert {"mm_processor", "model_config"} <= attributes(BaseRenderer)
    register()
    assert RENDERER_REGISTRY.load_renderer_cls("gridprune") is Renderer
    assert RENDERER_REGISTRY.load_renderer_cls("hf") is HfRenderer  # nobody else's changes
    assert TokenizerRegistry.tokenizers["gridprune"] == TokenizerRegistry.tokenizers["hf"]
    given = [option for option in command_line("embedded", {}) if option.startswith("--")]
    assert {"--tokenizer-mode", "--middleware", "--enable-prompt-tokens-details"} <= set(given)
    assert set(given) <= set(make_arg_parser(FlexibleArgumentParser())._option_string_actions)


def test_options_and_metrics_of_the_cluster_page_exist() -> None:
    page = (Path(__file__).parents[2] / "docs" / "cluster.md").read_text(encoding="utf-8")
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    ours = {option for name in ("serve", "plan") for each in commands[name].params for option in each.opts}
    theirs = make_arg_parser(FlexibleArgumentParser())._option_string_actions
    named = set(re.findall(r"(?<![\w-])--[a-z-]+\b", page)) - {"--no-cache-dir"}  # pip's
    assert "--data-parallel-start-rank" in named
    assert named <= ours | set(theirs)
    metrics = set(re.findall(r"vllm:\w+", page))
    assert "vllm:num_preemptions" in metrics
    assert {name for name in metrics if f'"{name}"' not in inspect.getsource(loggers)} == set()


def test_headless_nodes_are_known_to_the_command_that_serves() -> None:
    """Not to the older entry point, which would start a second API server instead."""
    assert parameters(ServeSubcommand.cmd) == ["args"]
    assert "run_headless(args)" in inspect.getsource(ServeSubcommand.cmd)
    assert command_line("embedded", {})[2:4] == ["vllm.entrypoints.cli.main", "serve"]


def test_tower_of_llava() -> None:
    assert "require_post_norm=False" in inspect.getsource(llava.LlavaForConditionalGeneration.__init__)
    assert {"encoder", "post_layernorm"} <= attributes(clip.CLIPVisionTransformer.__init__)
    assert "self_attn" in attributes(clip.CLIPEncoderLayer.__init__)
    assert "self.attn(query_states, key_states, value_states)" in inspect.getsource(clip.CLIPAttention.forward)
    assert {"vision_tower", "multi_modal_projector"} <= attributes(llava.LlavaForConditionalGeneration.__init__)
    assert parameters(llava_next.LlavaNextForConditionalGeneration._merge_image_patch_embeddings) == [
        "self", "image_size", "patch_embeddings", "strategy",
    ]  # fmt: skip


def test_towers_of_siglip_and_internvl() -> None:
    assert {"encoder", "post_layernorm"} <= attributes(siglip.SiglipVisionTransformer.__init__)
    assert "self_attn" in attributes(siglip.SiglipEncoderLayer.__init__)
    assert "self.attn(query_states, key_states, value_states)" in inspect.getsource(siglip.SiglipAttention.forward)
    assert {"encoder", "layernorm"} <= attributes(interns1_vit.InternS1VisionModel.__init__)
    assert {"layer"} <= attributes(interns1_vit.InternS1VisionEncoder.__init__)
    assert {"attention"} <= attributes(interns1_vit.InternS1VisionLayer.__init__)
    assert "self.attn(q, k, v)" in inspect.getsource(interns1_vit.InternSdpaAttention.forward)


def test_what_internvl_onevision_and_gemma_take_for_granted() -> None:
    """The class that serves InternVL, its shuffle, which reads nothing of the model, and what is fixed in vLLM."""
    served = interns1.InternS1ForConditionalGeneration
    assert ModelRegistry.models["InternVLForConditionalGeneration"].class_name == served.__name__
    assert not attributes(served.pixel_shuffle)
    assert "vit_embeds[:, 1:, :]" in inspect.getsource(served.extract_feature)
    merge = inspect.signature(llava_onevision.LlavaOnevisionForConditionalGeneration._merge_image_patch_embeddings)
    assert merge.parameters["vision_aspect_ratio"].default == "anyres_max_9"
    assert {"image_newline", "strategy"} <= set(merge.parameters)
    assert "boi_token" in inspect.getsource(gemma3_mm.Gemma3MultiModalProcessor._get_prompt_updates)
    assert "num_patches" in inspect.getsource(gemma3_mm.Gemma3MultiModalProcessor._get_mm_fields_config)


@pytest.mark.parametrize(
    ("tower", "attention", "merger", "norm"),
    [
        (qwen2_vl.Qwen2VisionTransformer, qwen2_vl.Qwen2VisionAttention, qwen2_vl.Qwen2VisionPatchMerger, "ln_q"),
        (
            qwen2_5_vl.Qwen2_5_VisionTransformer,
            qwen2_5_vl.Qwen2_5_VisionAttention,
            qwen2_5_vl.Qwen2_5_VisionPatchMerger,
            "ln_q",
        ),
        (
            qwen3_vl.Qwen3_VisionTransformer,
            qwen3_vl.Qwen2_5_VisionAttention,
            qwen3_vl.Qwen3_VisionPatchMerger,
            "norm",
        ),
    ],
)
def test_tower_of_qwen(tower: Any, attention: Any, merger: Any, norm: str) -> None:
    assert {"blocks", "merger"} <= attributes(tower.__init__)
    assert {"attn", "hidden_size_per_attention_head"} <= attributes(attention.__init__)
    call = inspect.getsource(attention.forward)
    assert "query=q" in call
    assert "key=k" in call
    assert f"self.{norm}(x" in inspect.getsource(merger.forward)


def test_attention_operator_runs_hooks() -> None:
    assert parameters(MMEncoderAttention.forward_native)[:4] == ["self", "query", "key", "value"]
    assert "__call__" not in vars(MMEncoderAttention)


@pytest.mark.parametrize("model", _QWEN_MODELS, ids=lambda model: model.__name__)
def test_positions(model: Any) -> None:
    assert "visual" in attributes(model.__init__)
    assert parameters(model.get_mrope_input_positions) == ["self", "input_tokens", "mm_features"]


def test_positions_are_recomputed_as_runners_ask_for_it() -> None:
    """When, and with what, stands in hooks.py."""
    expected = ["self", "input_ids", "multimodal_embeddings", "mrope_positions", "num_computed_tokens"]
    assert parameters(SupportsMultiModalPruning.recompute_mrope_positions) == expected
    assert parameters(PrunedQwen.recompute_mrope_positions) == expected
    assert callable(MultiModalConfig.is_multimodal_pruning_enabled)


def test_the_flag_survives_the_copies_that_vllm_makes_of_a_configuration() -> None:
    stock, told = MultiModalConfig(), MultiModalConfig()
    configured = SimpleNamespace(get_multimodal_config=lambda: told)
    tell_runner(SimpleNamespace(model_config=configured, use_v2_model_runner=True))  # type: ignore[arg-type]
    for each in (told, copy.deepcopy(told), pickle.loads(pickle.dumps(told))):
        assert each.is_multimodal_pruning_enabled()
        assert each.get_video_pruning_spec() is None  # videos are not sampled
    assert not stock.is_multimodal_pruning_enabled()


def test_tokens_and_positions_part_as_the_second_runner_strips_them() -> None:
    """It cuts trailing columns off for drafts: what is left is what we attached them to, image or not."""
    values = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    pruner = MultiModalPruner(torch.nn.Module(), None, None, inputs_embeds_size=8)  # type: ignore[arg-type]
    sent = [mrope.attach(values, torch.arange(5), torch.arange(5)), mrope.attach_nothing(values)]
    assert all(torch.equal(left, values) for left in pruner.strip(sent))


def test_a_server_takes_images_inline_only_if_no_domain_is_allowed() -> None:
    """What docs/vllm.md says about closing it."""
    connector = MediaConnector(allowed_media_domains=["none.invalid"])
    pixel = io.BytesIO()
    Image.new("RGB", (1, 1)).save(pixel, "PNG")
    inline = "data:image/png;base64," + base64.b64encode(pixel.getvalue()).decode()
    assert connector.fetch_image(inline) is not None
    with pytest.raises(ValueError, match=r"none\.invalid"):
        connector.fetch_image("http://127.0.0.1:9/image.png")
    with pytest.raises(RuntimeError, match="allowed-local-media-path"):
        connector.fetch_image("file:///etc/hostname")


def test_options_that_are_refused_have_their_names() -> None:
    assert "enable_tower_connector_lora" in {f.name for f in dataclasses.fields(LoRAConfig)}
    assert {"compile_mm_encoder", "cudagraph_mm_encoder"} <= {f.name for f in dataclasses.fields(CompilationConfig)}
    assert {"mm_encoder_tp_mode", "video_pruning_rate", "mm_processor_kwargs", "mm_hasher_algorithm"} <= {
        f.name for f in dataclasses.fields(MultiModalConfig)
    }
    assert "max_num_batched_tokens" in {f.name for f in dataclasses.fields(SchedulerConfig)}


def test_tensor_parallel_gathering() -> None:
    assert parameters(tensor_model_parallel_all_gather) == ["input_", "dim"]
    assert parameters(get_tensor_model_parallel_world_size) == []


def test_registration_is_additive() -> None:
    from gridprune.vllm import register

    before = dict(ModelRegistry.models)
    register()
    changed = {name for name, model in ModelRegistry.models.items() if before.get(name) is not model}
    assert changed == {architecture.name for architecture in ARCHITECTURES.values()}
    assert changed.isdisjoint(ARCHITECTURES)
    ModelRegistry.models.update(before)
