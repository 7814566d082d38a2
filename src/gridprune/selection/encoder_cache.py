"""Work that need not be done again: the processing and encoding of images that come back."""

from __future__ import annotations

import copy
import hashlib
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch

from ..errors import SettingError
from ..families.base import Blocks, Encoded, Family


class EncoderCache:
    """The encoder's outputs for the last `calls` sets of images, by the content of their pixels.

    Give it to `prune(..., cache=...)`, or to several of them: the same image asked again, in a later turn or by
    another method, then costs no vision pass, and the features are the very same. A method that reads tower blocks
    which were not read before has them read once more, for all that come after it.
    An entry is one call's images together, so a batch is found again as a whole only. It holds all that the encoder
    returned and what was read of the tower. Safe to use from threads.

    Entries belong to a model and assume that its weights stay as they are: call :meth:`clear` when you change them.
    What was encoded without gradients, or under another `torch.autocast`, is not used where they are on; outputs that
    carry gradients are never kept, so an encoder that is being trained runs in every call.

    Attributes:
        hits, misses: how often a vision pass was saved, and made.
    """

    def __init__(self, calls: int = 8) -> None:
        """Args:
        calls: how many entries to hold; the one unused for longest goes first.

        Raises:
            SettingError: `calls` is not a positive whole number.
        """
        if isinstance(calls, bool) or not isinstance(calls, int) or calls < 1:
            raise SettingError(f"An encoder cache holds a whole number of calls, at least 1, got {calls!r}.")
        self.calls = calls
        self.hits = self.misses = 0
        self._entries: OrderedDict[object, tuple[Blocks, Encoded]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def clear(self) -> None:
        """Forget all entries."""
        with self._lock:
            self._entries.clear()

    def encoded(
        self, family: Family, vision: dict[str, Any], read: Blocks, encode: Callable[[Blocks], Encoded]
    ) -> Encoded:
        """What `encode` gives for these arguments with at least the blocks `read`, from memory if it is there."""
        key = (weakref.ref(family.model), family.modality, _digest(vision), *_modes(vision))
        with self._lock:
            before, held = self._entries.get(key, (Blocks(), None))
            if held is not None and read <= before:
                self.hits += 1
                self._entries.move_to_end(key)
                return held
        read = read | before
        found = encode(read)
        with self._lock:
            self.misses += 1
            if any(each.requires_grad for each in found.embeddings):
                return found
            self._entries[key] = read, found
            self._entries.move_to_end(key)
            while len(self._entries) > self.calls:
                self._entries.popitem(last=False)
        return found


def _modes(vision: dict[str, Any]) -> tuple[object, ...]:
    """What decides beside the arguments what an encoder returns: gradients, and autocast's type."""
    kinds = sorted({value.device.type for value in vision.values() if isinstance(value, torch.Tensor)})
    casts = [(kind, torch.get_autocast_dtype(kind)) for kind in kinds if torch.is_autocast_enabled(kind)]
    return torch.is_grad_enabled(), *casts


def _digest(vision: dict[str, Any]) -> bytes:
    """Equal for equal arguments: names, types, shapes, devices and every byte."""
    digest = hashlib.blake2b()
    for name, value in sorted(vision.items()):
        if isinstance(value, torch.Tensor):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)} {value.device}".encode())
            digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        else:
            digest.update(f"{name} {value!r}".encode())
    return digest.digest()


def processed_once(processor: Any) -> Any:
    """A copy of a processor that works on its first image or video only, and takes later ones to be the same."""
    own = copy.copy(processor)
    for name in ("image_processor", "video_processor"):
        if getattr(own, name, None) is not None:
            setattr(own, name, _Once(getattr(own, name)))
    return own


class _Once:
    """An image or video processor that is called once; every later call is handed a copy of what that gave."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        self._first: Any = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._first is None:
            self._first = self._processor(*args, **kwargs)
        return copy.copy(self._first)  # processors take entries out of it

    def __getattr__(self, name: str) -> Any:
        return getattr(self._processor, name)
