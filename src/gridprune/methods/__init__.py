"""The methods: which visual tokens stay. One file each; see `base.py` for the contract and `registry.py` for names."""

from .base import Cues, Merge, Method, Selection
from .registry import available, create, get

__all__ = ["Cues", "Merge", "Method", "Selection", "available", "create", "get"]
