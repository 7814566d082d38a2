"""What the plugin takes for granted inside vLLM's two runners, as a table that is read against vLLM's sources.

A signature says what a function takes; when it is called, and with what of ours, only its source does. Each row is a
place and the pieces of it that must stand there in this order (as `ast.unparse` writes them), so that the same table is
checked on the installed version and, without importing anything, on the sources of one that is not installed.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

RANGE = ">=0.32,<0.34"  # the versions whose sources this table was read against: 0.32.0 and 0.33.0


@dataclass(frozen=True)
class Hook:
    """One row.

    Attributes:
        what: what the plugin relies on.
        file: below `vllm/`; where versions differ, the places with " or " between them.
        name: a function or class, with the class it is in.
        pieces: what its source holds, in this order.
        absent: what it does not hold.
    """

    what: str
    file: str
    name: str
    pieces: tuple[str, ...]
    absent: tuple[str, ...] = ()

    def broken(self, sources: Path) -> list[str]:
        """The pieces that are not there, or out of order, and those that should not be."""
        file = next(sources / name for name in self.file.split(" or ") if (sources / name).is_file())
        text, at, missing = source(file, self.name), 0, []
        for piece in self.pieces:
            found = text.find(piece, at)
            missing += [piece] if found < 0 else []
            at = max(at, found + len(piece)) if found >= 0 else at
        return missing + [f"not {piece}" for piece in self.absent if piece in text]


@lru_cache
def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def source(file: Path, name: str) -> str:
    """A function or class of a file, in the form that `ast.unparse` gives it."""
    node: ast.AST = _tree(file)
    for part in name.split("."):
        children = [n for n in ast.walk(node) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))]
        node = next(child for child in children if child.name == part)
    return ast.unparse(node)


def plugin_imports() -> list[tuple[str, str]]:
    """Every module and name of vLLM that a file of the plugin imports, read from the files."""
    folder = Path(__file__).parents[2] / "src" / "gridprune" / "vllm"
    return sorted(
        {
            (str(node.module), alias.name)
            for file in folder.glob("*.py")
            for node in ast.walk(_tree(file))
            if isinstance(node, ast.ImportFrom) and node.level == 0 and str(node.module).split(".")[0] == "vllm"
            for alias in node.names
        }
    )


_V1, _V2 = "v1/worker/gpu_model_runner.py", "v1/worker/gpu/"
_STATE, _PRUNER = _V2 + "model_states/default.py", _V2 + "model_states/mm_pruning.py"
_ENABLED = "is_multimodal_pruning_enabled()"

HOOKS = (
    # -- which runner, and when the plugin is registered
    Hook("plugins are found by entry point", "plugins/__init__.py", "load_general_plugins", ("DEFAULT_PLUGINS_GROUP",)),
    Hook(
        "V2 unless the environment or a feature says otherwise",
        "config/vllm.py",
        "VllmConfig.use_v2_model_runner",
        ("envs.VLLM_USE_V2_MODEL_RUNNER", "if not HAS_TRITON", "_get_v2_model_runner_unsupported_features()"),
    ),
    Hook("CPUs have both", "v1/worker/cpu_worker.py", "CPUWorker.init_device", ("CPUModelRunnerV2", "CPUModelRunner(")),
    # -- when the flag is read: by both runners after the model was built, by Qwen3-VL's layers while it is
    Hook("V1 asks after loading", _V1, "GPUModelRunner.load_model", ("load_model(", f"mm_config.{_ENABLED}")),
    Hook(
        "V1 on CPUs never asks, so its class gets a property",
        "v1/worker/cpu_model_runner.py",
        "CPUModelRunner.load_model",
        ("self.model = get_model(",),
        absent=("multimodal_pruning",),
    ),
    Hook(
        "V2 makes its state after the model",
        _V2 + "model_runner.py",
        "GPUModelRunner.load_model",
        ("self.model = ", "self.model_state = init_model_state("),
    ),
    Hook("V2's state makes the pruner", _STATE, "DefaultModelState.__init__", ("maybe_create_mm_pruner(",)),
    Hook(
        "V2 asks this configuration and this attribute",
        _PRUNER,
        "maybe_create_mm_pruner",
        (f"not model_config.multimodal_config.{_ENABLED}", "not supports_multimodal_pruning(model)"),
    ),
    Hook(
        "Qwen3-VL's layers ask while they are built",
        "model_executor/models/qwen3_vl.py",
        "mrope_positions_factor",
        (f"mm_config.{_ENABLED}", "return 4 if pruned else 1"),
    ),
    Hook(
        "others have a long table of positions anyway",
        "model_executor/layers/rotary_embedding/mrope.py",
        "MRotaryEmbedding.__init__",
        ("positions_factor: int=4", "max_position_embeddings * positions_factor"),
    ),
    # -- positions: by keyword, from trailing columns, staged back
    Hook(
        "V1 recomputes positions by keyword",
        _V1,
        "GPUModelRunner._gather_mm_embeddings",
        (
            "self.is_multimodal_pruning_enabled and self.uses_mrope",
            "self.model.recompute_mrope_positions(input_ids=",
            "multimodal_embeddings=",
            "mrope_positions=",
            "num_computed_tokens=",
        ),
    ),
    Hook(
        "V2 recomputes positions by keyword and writes them back",
        _PRUNER,
        "MultiModalPruner.recompute",
        (
            "self.model.recompute_mrope_positions(input_ids=input_ids, multimodal_embeddings=req_embeds, "
            "mrope_positions=mrope_positions, num_computed_tokens=num_computed)",
            "self.rope_state.update_prefill_positions(req_idx, new_positions, delta)",
            "assert pos == len(mm_embeds)",
        ),
    ),
    Hook(
        "V2 asks for the positions of a prompt",
        _V2 + "mm/rope.py",
        "RopeState.init_prefill_positions",
        ("mrope_model.get_mrope_input_positions(prefill_token_ids, mm_features)",),
    ),
    Hook(
        "V2 recomputes before it embeds",
        _STATE,
        "DefaultModelState.prepare_inputs_embeds",
        ("self.mm_pruner.recompute(", "self.apply_staged_writes()", "self.encoder_runner.get_inputs_embeds("),
    ),
    Hook("ours are the trailing columns", _PRUNER, "MultiModalPruner.strip", ("mm[:, :self.inputs_embeds_size]",)),
    # -- drafts of speculative decoding
    Hook(
        "V2's draft strips, and leaves positions as they are",
        _STATE,
        "DefaultModelState.gather_mm_embeddings",
        ("self.mm_pruner.strip(mm_embeds)",),
        absent=("recompute",),
    ),
    Hook(
        "V1's draft recomputes one token later",
        _V1,
        "GPUModelRunner.propose_draft_token_ids",
        ("self._gather_mm_embeddings(scheduler_output, shift_computed_tokens=1)",),
    ),
    # -- graphs of the tower, which would go past `embed_multimodal`: off unless asked for, and refused then
    Hook(
        "no graphs of the tower by default",
        "config/compilation.py",
        "CompilationConfig",
        ("compile_mm_encoder: bool = False", "cudagraph_mm_encoder: bool = False"),
    ),
    Hook(
        "V2 captures the tower only if asked",
        _V2 + "model_states/interface.py",
        "ModelState.__init__",
        ("vllm_config.compilation_config.cudagraph_mm_encoder",),
    ),
    Hook(
        "V2 encodes by embed_multimodal",
        _V2 + "mm/encoder_runner.py",
        "EncoderRunner.execute_mm_encoder",
        ("if cg_manager is not None", "self.model.embed_multimodal(**mm_kwargs_batch)"),
    ),
    Hook(
        "V1 encodes by embed_multimodal", _V1, "GPUModelRunner._execute_mm_encoder", ("model.embed_multimodal(**mm_",)
    ),
    # -- caches: all go by the hash that holds question, budget and settings
    Hook(
        "the encoder cache goes by our hash",
        _V2 + "mm/encoder_runner.py",
        "EncoderRunner.gather_mm_embeddings",
        ("mm_hash = mm_feature.identifier", "self.encoder_cache.encoder_outputs.get(mm_hash"),
    ),
    Hook("so does the prefix cache", "v1/core/kv_cache_utils.py", "_gen_mm_extra_hash_keys", ("identifier",)),
    Hook(
        "compiled graphs go by the configuration, our architecture in it, and by the flag",
        "config/model.py",
        "ModelConfig.compute_hash",
        ("'hf_overrides'", f"factors['video_pruning'] = self.multimodal_config.{_ENABLED}"),
        absent=("'hf_config'",),
    ),
    # -- waiting for the device, which a debugging option reports
    Hook("waiting can be allowed", "utils/gpu_sync_debug.py", "gpu_sync_allowed", ("return _allow_syncs()",)),
    # -- what comes back to the client: a renderer chosen by name hears of the images in the request's own context
    Hook(
        "the renderer goes by --tokenizer-mode",
        "renderers/registry.py",
        "renderer_from_config",
        ("renderer_mode, *_ = tokenizer_args_from_config(", "RENDERER_REGISTRY.load_renderer(renderer_mode"),
    ),
    Hook(
        "chats are rendered through it",
        "renderers/base.py",
        "BaseRenderer.render_chat_async",
        ("self.process_for_engine_async(",),
    ),
    Hook(
        "so are other prompts",
        "renderers/base.py",
        "BaseRenderer.render_cmpl_async",
        ("self.process_for_engine_async(",),
    ),
    Hook(
        "offline, in the caller's thread",
        "renderers/base.py",
        "BaseRenderer.render_chat",
        ("self.process_for_engine(",),
    ),
    Hook(
        "--middleware names a class by module and name",
        "entrypoints/serve/middleware/register.py",
        "init_entrypoints_middleware",
        ("middleware.rsplit('.', 1)", "inspect.isclass(imported)", "app.add_middleware(imported)"),
    ),
    Hook(
        "/metrics adds up what processes share in a folder",
        "v1/metrics/prometheus.py",
        "get_prometheus_registry",
        ("'PROMETHEUS_MULTIPROC_DIR'", "multiprocess.MultiProcessCollector(registry)", "return REGISTRY"),
    ),
    # -- what docs/vllm.md says about a server that is open to others
    Hook(
        "a server listens everywhere unless --host is given",
        "entrypoints/launchers/launcher.py",
        "setup_server",
        ("(args.host or '', args.port)",),
    ),
    Hook(
        "no key by default",
        "entrypoints/launchers/cli_args.py or entrypoints/common/cli_args.py",  # 0.32, 0.33
        "FrontendArgs",
        ("api_key: list[str] | None = None",),
    ),
    Hook(
        "addresses of images are fetched unless domains are named",
        "multimodal/media/connector.py",
        "MediaConnector._assert_url_in_allowed_media_domains",
        ("self.allowed_media_domains and", "url_spec.hostname not in self.allowed_media_domains"),
    ),
)
