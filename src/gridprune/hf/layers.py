"""Decoder layers of a live model: what runs through them, cut to the tokens that are left."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..compat import is_compiled
from ..errors import UnsupportedModelError
from .cache_record import layers_of

if TYPE_CHECKING:
    from .layer_pruner import Prefill


def decoder_layers(model: Any) -> nn.ModuleList:
    """The decoder layers of a language model whose layers take `position_embeddings`.

    Raises:
        UnsupportedModelError: the language model is built in another way, or compiled.
    """
    decoder = model.get_decoder()
    if is_compiled(decoder):
        raise UnsupportedModelError(
            "The language model is compiled, so hooks on its layers do not run; methods inside it are not supported. "
            "Use a method of the stage 'pre-llm'."
        )
    layers = getattr(decoder, "layers", None)
    if layers is None or not all(hasattr(getattr(layer, "self_attn", None), "config") for layer in layers):
        raise UnsupportedModelError(
            f"The language model {type(decoder).__name__} is not a plain list of decoder layers; methods inside it are "
            "not supported here. Use a method of the stage 'pre-llm'."
        )
    if any(getattr(decoder.config, name, 0) for name in ("num_kv_shared_layers", "hidden_size_per_layer_input")):
        raise UnsupportedModelError(
            f"Layers of {type(decoder).__name__} take keys of earlier layers, or something of their own for every "
            "token; methods inside it are not supported here. Use a method of the stage 'pre-llm'."
        )
    return layers  # type: ignore[no-any-return]


def true_columns(mask: Tensor) -> tuple[Tensor, Tensor]:
    """(B, n) ascending columns of the true entries, 0 where a row has fewer, and which of them exist."""
    counts = mask.sum(1)
    width = int(counts.max())
    exists = torch.arange(width, device=mask.device) < counts[:, None]
    columns = (~mask).to(torch.uint8).argsort(dim=1, stable=True)[:, :width]
    return columns.masked_fill(~exists, 0), exists


def states_at(values: Tensor, places: Tensor) -> Tensor:
    """(B, n, D) rows of (B, W, D)."""
    return values.gather(1, places[..., None].expand(-1, -1, values.shape[-1]))


def attention_rows(query: Tensor, key: Tensor, mask: Tensor | None, rows: Tensor) -> Tensor:
    """(B, R, S) fp32 attention of some rows (B, R) of a causal map, mean over heads; query (B, H, S, d)."""
    index = rows[:, None, :, None].expand(-1, query.shape[1], -1, query.shape[-1])
    key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    logits = query.gather(2, index).float() * query.shape[-1] ** -0.5 @ key.float().transpose(-1, -2)  # [B, H, R, S]
    visible = torch.arange(key.shape[2], device=key.device) <= rows[..., None]  # [B, R, S]
    low = torch.finfo(torch.float32).min
    logits = logits.masked_fill(~visible[:, None], low)
    if mask is not None:
        of_rows = mask.expand(len(rows), -1, -1, -1).gather(2, rows[:, None, :, None].expand(-1, 1, -1, mask.shape[-1]))
        logits = logits.masked_fill(~of_rows, low) if mask.dtype == torch.bool else logits + of_rows.float()
    return logits.softmax(-1).mean(1)


def arguments_left(kwargs: dict[str, Any], run: Prefill) -> dict[str, Any]:
    """A layer's arguments for the tokens that are left."""
    columns = run.columns
    if columns.shape[1] == run.ids.shape[1]:
        return kwargs
    out = dict(kwargs)
    cos, sin = kwargs["position_embeddings"]
    out["position_embeddings"] = tuple(states_at(part.expand(len(columns), -1, -1), columns) for part in (cos, sin))
    positions = kwargs.get("position_ids")
    if positions is not None:
        out["position_ids"] = positions.expand(*positions.shape[:-2], len(columns), -1).gather(
            -1, columns.expand(*positions.shape[:-2], -1, -1)
        )
    mask = kwargs.get("attention_mask")
    if mask is not None:
        rows = columns[:, None, :, None].expand(-1, mask.shape[1], -1, mask.shape[-1])
        square = mask.expand(len(columns), -1, -1, -1).gather(2, rows)
        out["attention_mask"] = square.gather(3, columns[:, None, None].expand(-1, *square.shape[1:3], -1))
    return out


def later_mask(kwargs: dict[str, Any], cache: Any, index: int) -> dict[str, Any]:
    """The mask of a later step for a layer whose cache is shorter than the first layer's."""
    mask, record = kwargs.get("attention_mask"), layers_of(cache)
    if mask is None or record is None:
        return kwargs
    length, spans = record
    columns = spans[max(first for first in spans if first <= index)]
    later = torch.arange(length, mask.shape[-1], device=mask.device).expand(len(columns), -1)
    seen = torch.cat([columns, later], dim=1)
    picked = mask.expand(len(columns), -1, -1, -1).gather(3, seen[:, None, None].expand(-1, *mask.shape[1:3], -1))
    return {**kwargs, "attention_mask": picked}
