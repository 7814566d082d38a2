"""The embedded multimodal LLM: generated scenes and questions, a small LLaVA and CLIP trained on them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .data import Example, iter_examples, text_prior
    from .loading import load
    from .scenes import make_scene

_EXPORTS = {
    "Example": ".data",
    "iter_examples": ".data",
    "load": ".loading",
    "make_scene": ".scenes",
    "text_prior": ".data",
}
__all__ = ["Example", "iter_examples", "load", "make_scene", "text_prior"]


def __getattr__(name: str) -> Any:  # lazy: the command line mounts `tiny.cli` and needs neither NumPy nor transformers
    if name in _EXPORTS:
        return getattr(import_module(_EXPORTS[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
