"""Model families, found by the class of a loaded model."""

from .base import Encoded, Family, Place
from .registry import available, describe, find

__all__ = ["Encoded", "Family", "Place", "available", "describe", "find"]
