"""Methods inside the language model: later layers see fewer visual tokens than the first ones."""

from .base import DropPoint, InsideMethod, LayerView

__all__ = ["DropPoint", "InsideMethod", "LayerView"]
