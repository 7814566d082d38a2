"""`generate` around a shortened prompt: lengths that count the prompt, the streamer, and the sequences handed back."""

from __future__ import annotations

from copy import copy
from typing import Any

import torch
from torch import Tensor


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


class PromptStreamer:
    """Hands a streamer the original prompt in place of the shortened one; everything else goes through."""

    def __init__(self, streamer: Any, prompt: Tensor) -> None:
        self._streamer, self._prompt = streamer, prompt

    def put(self, value: Tensor) -> None:
        if self._prompt is not None:
            value, self._prompt = self._prompt.cpu(), None  # type: ignore[assignment]
        self._streamer.put(value)

    def end(self) -> None:
        self._streamer.end()


def restore_prompt(output: Any, original: Tensor, shortened: int) -> Any:
    """Put the original prompt back in front of the generated tokens.

    Args:
        output: what `generate` returned, a tensor or an output object.
        original: (B, L) ids.
        shortened: width of the prompt that was fed.
    """
    sequences = output if isinstance(output, Tensor) else output.sequences
    prompt = original.to(sequences.device)
    copies = sequences.shape[0] // prompt.shape[0]
    restored = torch.cat([prompt.repeat_interleave(copies, dim=0), sequences[:, shortened:]], dim=1)
    if isinstance(output, Tensor):
        return restored
    output = copy(output)
    output.sequences = restored
    return output
