"""The embedded multimodal LLM: generated scenes and questions, a small LLaVA and CLIP trained on them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .data import Example, iter_examples, text_prior
from .scenes import make_scene

if TYPE_CHECKING:
    from pathlib import Path

    from .loading import TinyModel

__all__ = ["Example", "iter_examples", "load", "make_scene", "text_prior"]


def load(folder: str | Path | None = None, *, attn_implementation: str = "sdpa") -> TinyModel:
    """Load the packaged model (or ``folder``): see :func:`gridprune.tiny.loading.load`."""
    from .loading import load as load_model  # transformers is imported only when the model is wanted

    return load_model(folder, attn_implementation=attn_implementation)
