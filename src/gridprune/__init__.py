"""gridprune: training-free pruning of visual tokens for stock Hugging Face multimodal LLMs.

from gridprune import GridPrune, prune
with prune(model, GridPrune(keep=64), processor=processor) as pruning:
    model.generate(**inputs)
pruning.report.save("kept.png")
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_EXPORTS = {
    "Budget": ".core.budget",
    "GridPrune": ".methods.gridprune",
    "GridPruneError": ".errors",
    "Method": ".methods.base",
    "Pruning": ".hf.pruning",
    "TokenMap": ".core.token_map",
    "ask_many": ".runtime.ask",
    "find_keep": ".runtime.ladder",
    "prune": ".hf.pruning",
}
__all__ = ["Budget", "GridPrune", "GridPruneError", "Method", "Pruning", "TokenMap", "ask_many", "find_keep", "prune"]


def __getattr__(name: str) -> Any:  # lazy: `import gridprune` costs no torch import
    if name in _EXPORTS:
        return getattr(import_module(_EXPORTS[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
