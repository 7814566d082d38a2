"""From a checkpoint to answers: loading, asking, batches, files that people hand over."""

from importlib import import_module
from typing import Any

_EXPORTS = {
    "EMBEDDED": ".ask",
    "EMBEDDED_FORMS": ".ask",
    "EMBEDDED_NEXT": ".ask",
    "SAMPLE": ".images",
    "SAMPLE_QUESTION": ".images",
    "Answer": ".ask",
    "Loaded": ".ask",
    "answer": ".ask",
    "ask_many": ".ask",
    "cache_bytes": ".ask",
    "find_keep": ".ladder",
    "load": ".ask",
    "looked_at": ".ask",
    "prepare": ".ask",
    "read_image": ".images",
    "read_video": ".video",
    "respond": ".ask",
}
__all__ = list(_EXPORTS)


def __getattr__(name: str) -> Any:  # lazy: images are read without torch
    if name in _EXPORTS:
        return getattr(import_module(_EXPORTS[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
