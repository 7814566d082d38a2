"""Model families, found by the class of a loaded model."""

from .base import Encoded, Family, ImageSpan
from .registry import available, describe, find

__all__ = ["Encoded", "Family", "ImageSpan", "available", "describe", "find"]
