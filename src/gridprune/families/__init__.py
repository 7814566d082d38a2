"""Model families, found by the class of a loaded model."""

from .base import Encoded, Family
from .registry import available, find

__all__ = ["Encoded", "Family", "available", "find"]
