"""`generate` around a shortened prompt: lengths that count the prompt, what callbacks see, and what is handed back."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..compat import BEFORE_5_24
from .layout import PromptLayout
from .outputs import Columns

# What counts the prompt in the logits processors and stopping criteria that `generate` makes itself.
_LENGTHS = ("max_length", "min_length", "prompt_length_to_skip", "begin_index", "regulation_start")
_IGNORED = "prompt_ignore_length"


def shorten_limits(call: dict[str, Any], model: Any, cut: int) -> None:
    """`max_length` and `min_length` count the prompt: take off what was cut, wherever they were set."""
    config = call.get("generation_config") or model.generation_config
    for limit, fresh in (("max_length", "max_new_tokens"), ("min_length", "min_new_tokens")):
        if call.get(limit) is not None:
            call[limit] = max(call[limit] - cut, 0)
        elif getattr(config, limit, None) and call.get(fresh) is None and getattr(config, fresh, None) is None:
            call[limit] = max(getattr(config, limit) - cut, 0)


def infer_mask(ids: Tensor, call: dict[str, Any], model: Any) -> Tensor | None:
    """The mask that `generate` infers from padding ids when none is given; None if it would infer nothing."""
    config = call.get("generation_config") or model.generation_config
    pad, end = (_first(call.get(name), getattr(config, name, None)) for name in ("pad_token_id", "eos_token_id"))
    ends = end if isinstance(end, (list, tuple)) else [end]
    if pad is None or pad in ends or not bool((ids == pad).any()):
        return None
    return (ids != pad).long()


def is_static(call: dict[str, Any], model: Any) -> bool:
    """Whether `generate` is asked to make a static cache."""
    config = call.get("generation_config") or model.generation_config
    return "static" in str(_first(call.get("cache_implementation"), getattr(config, "cache_implementation", None)))


def pad_token(model: Any) -> int:
    """An id for padding that was needed because rows were shortened by different amounts."""
    text = model.config.get_text_config()
    return int(_first(getattr(model.generation_config, "pad_token_id", None), getattr(text, "pad_token_id", None), 0))


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)


Wrap = Callable[[Callable[..., Any]], Callable[..., Any]]


def callbacks(call: dict[str, Any], wrap: Wrap) -> dict[str, Any]:
    """The call with everything wrapped that `generate` calls back. What is transformers' own stays what it is: given
    beside a setting that makes the same, it takes that one's place, and `generate` tells them by their class."""
    found = dict(call)
    for name in ("logits_processor", "stopping_criteria"):
        if call.get(name):
            found[name] = [each if _own(each) else Callback(each, wrap(each)) for each in call[name]]
    if call.get("prefix_allowed_tokens_fn") is not None:
        found["prefix_allowed_tokens_fn"] = wrap(call["prefix_allowed_tokens_fn"])
    if call.get("streamer") is not None:
        found["streamer"] = Streamer(call["streamer"], wrap(call["streamer"].put), wrap(call["streamer"].end))
    return found


def _own(callback: Any) -> bool:
    return type(callback).__module__.startswith("transformers.")


class Callback:
    """A logits processor or stopping criterion, called in another way; everything else goes through."""

    def __init__(self, given: Any, call: Callable[..., Any]) -> None:
        self._given, self._call = given, call

    def __call__(self, input_ids: Tensor, scores: Any) -> Any:
        return self._call(input_ids, scores)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._given, name)


class Streamer:
    """A streamer, called in another way; everything else goes through."""

    def __init__(self, given: Any, put: Callable[..., Any], end: Callable[..., Any]) -> None:
        self._given, self.put, self.end = given, put, end

    def __getattr__(self, name: str) -> Any:
        return getattr(self._given, name)


@dataclass(frozen=True, eq=False)
class Prompt:
    """The prompt as it was given, in place of the one that was fed.

    Attributes:
        original: (B, L) ids.
        layout: how they were shortened.
    """

    original: Tensor
    layout: PromptLayout

    @property
    def cut(self) -> int:
        """Columns by which it became shorter."""
        return self.layout.full - self.layout.width

    def before(self, ids: Tensor) -> Tensor:
        """Sequences (B * copies, W + t) with the original prompt in front, (B * copies, L + t)."""
        prompt = self.original.to(ids.device).repeat_interleave(len(ids) // len(self.original), dim=0)
        return torch.cat([prompt, ids[:, self.layout.width :]], dim=1)

    def shown(self, call: dict[str, Any], model: Any) -> dict[str, Any]:
        """The call with callbacks that see the prompt as it was given."""
        beams, several = (_setting(call, model, name, 1) for name in ("num_beams", "num_return_sequences"))
        found = dict(call)
        for name in ("logits_processor", "stopping_criteria"):
            if call.get(name):
                found[name] = [self._seeing(each, max(beams, several)) for each in call[name]]
        if call.get("prefix_allowed_tokens_fn") is not None:
            rows = several if beams == 1 and BEFORE_5_24 else 1  # beams of one prompt count as one; now samples do too
            found["prefix_allowed_tokens_fn"] = self._prefixed(call["prefix_allowed_tokens_fn"], rows)
        if call.get("streamer") is not None:
            given, prompt = call["streamer"], iter([self.original.cpu()])
            found["streamer"] = Streamer(given, lambda ids: given.put(next(prompt, ids)), given.end)
        return found

    def _prefixed(self, allowed: Callable[[int, Tensor], Any], rows: int) -> Callable[[int, Tensor], Any]:
        def seeing(row: int, ids: Tensor) -> Any:
            prompt = self.original[row // rows].to(ids.device)
            return allowed(row, torch.cat([prompt, ids[self.layout.width :]]))

        return seeing

    def _seeing(self, callback: Any, copies: int) -> Any:
        """A callback that sees the original prompt; transformers' own see the short one and count it."""
        if not _own(callback):
            return Callback(callback, lambda ids, scores: callback(self.before(ids), scores))
        given, callback = vars(callback), copy(callback)
        for name in _LENGTHS:
            if given.get(name) is not None:
                setattr(callback, name, given[name] - self.cut)
        if given.get(_IGNORED) is not None:
            setattr(callback, _IGNORED, self._ignored(given[_IGNORED], copies))
        return callback

    def _ignored(self, count: int | Tensor, copies: int) -> int | Tensor:
        """How many columns of the short prompt the first `count` of every row (B * copies) become."""
        latest = np.pad(self.layout.rows(copies).latest + 1, ((0, 0), (1, 0)))
        each = np.broadcast_to(torch.as_tensor(count, device="cpu").numpy(), len(latest))
        whole = self.layout.full
        reached = np.take_along_axis(latest, each.clip(max=whole)[:, None], axis=1)[:, 0] + (each - whole).clip(min=0)
        if isinstance(count, Tensor) or (reached != reached[0]).any():
            return torch.from_numpy(reached)
        return int(reached[0])

    def restored(self, output: Any, columns: Columns) -> Any:
        """What `generate` returned, a tensor or an output object, with the original prompt."""
        if isinstance(output, Tensor):
            return self.before(output)
        output = columns.generated(copy(output))
        output.sequences = self.before(output.sequences)
        return output


def _setting(call: dict[str, Any], model: Any, name: str, otherwise: Any) -> Any:
    """A setting of a call of `generate`, wherever it was set."""
    config = call.get("generation_config")
    return _first(call.get(name), getattr(config, name, None), getattr(model.generation_config, name, None), otherwise)
