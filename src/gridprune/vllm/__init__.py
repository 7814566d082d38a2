"""The vLLM plugin: architectures that prune, beside the stock ones. Nothing happens unless one of them is asked for.

    LLM(model, hf_overrides=gridprune.vllm.overrides(model, method="gridprune", keep=64))

or ``gridprune serve MODEL --keep 64``. A question, a budget and the server's settings are a part of every picture's
multimodal hash, so vLLM's caches stay right. See docs/vllm.md.
"""

from __future__ import annotations

from .architectures import ARCHITECTURES, overrides

__all__ = ["ARCHITECTURES", "overrides", "register"]


def register() -> None:
    """Make the architectures known to vLLM, from its entry point `vllm.general_plugins`. May be called repeatedly."""
    from vllm import ModelRegistry

    for architecture in ARCHITECTURES.values():
        ModelRegistry.register_model(architecture.name, architecture.target)
