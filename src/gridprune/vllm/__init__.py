"""The vLLM plugin: architectures that prune, beside the stock ones. Nothing happens unless one of them is asked for.

    LLM(model, hf_overrides=gridprune.vllm.overrides(model, method="gridprune", keep=64))

or ``gridprune serve MODEL --keep 64``. A question, a budget and the server's settings are a part of every image's
multimodal hash, so vLLM's caches stay right. What was kept comes back: :func:`listening`. See docs/vllm.md.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .architectures import ARCHITECTURES, overrides
    from .told import Kept, listening

__all__ = ["ARCHITECTURES", "Kept", "listening", "overrides", "register"]

_FROM = {"ARCHITECTURES": ".architectures", "overrides": ".architectures", "Kept": ".told", "listening": ".told"}


def __getattr__(name: str) -> Any:  # lazy: the command line imports this package for `serve` alone
    if name in _FROM:
        return getattr(import_module(_FROM[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def register() -> None:
    """Make the architectures, and the renderer of our server, known to vLLM, under names of our own.

    Called by vLLM's entry point `vllm.general_plugins`, in every process; may be called repeatedly.
    """
    from vllm.renderers.registry import RENDERER_REGISTRY
    from vllm.tokenizers.registry import TokenizerRegistry

    from vllm import ModelRegistry

    from .architectures import ARCHITECTURES
    from .settings import FIELD

    for architecture in ARCHITECTURES.values():
        ModelRegistry.register_model(architecture.name, architecture.target)
    if FIELD not in RENDERER_REGISTRY.renderers:  # vLLM chooses both by --tokenizer-mode
        RENDERER_REGISTRY.register(FIELD, "gridprune.vllm.server", "Renderer")
        TokenizerRegistry.register(FIELD, *TokenizerRegistry.tokenizers["hf"])
