"""Methods inside the language model: later layers see fewer visual tokens than the first ones."""

from .base import InsideMethod, LayerView, Stop

__all__ = ["InsideMethod", "LayerView", "Stop"]
