"""Attention modules that show their queries and keys to readers, who come and go in any order.

While anybody reads, the module has its own copy of the configuration, which names a registered wrapper around the
attention in use; with the last reader it gets its own configuration back.
"""

from __future__ import annotations

import copy
import threading
import weakref
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ..cues.tower import implementation

Reader = Callable[[Tensor, Tensor, Tensor | None], None]

_LOCK = threading.Lock()
_WATCHES: weakref.WeakKeyDictionary[nn.Module, _Watch] = weakref.WeakKeyDictionary()


def watch(attend: Any, read: Reader) -> Callable[[], None]:
    """Call `read` with queries (B, H, S, d), keys and 4-D mask of each run of `attend`; returns what ends it."""
    with _LOCK:
        found = _WATCHES[attend] = _WATCHES.get(attend) or _Watch(attend)
        found.readers = (*found.readers, read)

    def stop() -> None:
        with _LOCK:
            found.readers = tuple(each for each in found.readers if each != read)
            if not found.readers:
                del _WATCHES[attend]
                found.end(attend)

    return stop


class _Watch:
    def __init__(self, attend: Any) -> None:
        self.readers: tuple[Reader, ...] = ()
        self.own, used = attend.config, attend.config._attn_implementation
        self.name = f"gridprune_inside_{id(attend)}_{used}"  # models look for "flash" in it

        def wrapper(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
            mask = args[0] if args else kwargs.get("attention_mask")
            for read in self.readers:
                read(query, key, mask if isinstance(mask, Tensor) and mask.dim() == 4 else None)
            return implementation(attend, used)(module, query, key, value, *args, **kwargs)

        ALL_ATTENTION_FUNCTIONS[self.name] = wrapper
        attend.config = copy.copy(self.own)
        attend.config._attn_implementation_internal = self.name

    def end(self, attend: Any) -> None:
        attend.config = self.own
        ALL_ATTENTION_FUNCTIONS._local_mapping.pop(self.name, None)
