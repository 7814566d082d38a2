"""The vLLM plugin: architectures that prune, beside the stock ones. Nothing happens unless one of them is asked for.

    LLM(model, hf_overrides=gridprune.vllm.overrides(model, method="gridprune", keep=64))

or ``gridprune serve MODEL --keep 64``. A question, a budget and the server's settings are a part of every image's
multimodal hash, so vLLM's caches stay right. See docs/vllm.md.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .architectures import ARCHITECTURES, overrides

__all__ = ["ARCHITECTURES", "overrides", "register"]


def __getattr__(name: str) -> Any:  # lazy: the command line imports this package for `serve` alone
    if name in ("ARCHITECTURES", "overrides"):
        return getattr(import_module(".architectures", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def register() -> None:
    """Make the architectures known to vLLM, from its entry point `vllm.general_plugins`. May be called repeatedly."""
    from vllm import ModelRegistry

    from .architectures import ARCHITECTURES

    for architecture in ARCHITECTURES.values():
        ModelRegistry.register_model(architecture.name, architecture.target)
