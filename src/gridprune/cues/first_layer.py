"""Relevance from the language model's own first attention layer: how its queries of the question meet its keys of the
image, before anything has been run.

The cue of HAWK (arXiv 2604.07812), for any decoder: the layer's input norm on the embeddings that the model would
assemble, its query projection at the question's tokens, its key projection at the visual tokens, and their products
without rotary positions. Two projections, no layer, no text tower. Where the architecture normalises queries and keys
per head (Qwen3, Gemma 3), so does this.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..compat import device_of
from ..errors import CheckpointError, UnsupportedModelError
from .notes import NOTES_FILE, notes


@dataclass(frozen=True, eq=False)
class FirstAttention:
    """The first layer of a decoder that attends, as far as queries and keys depend on it.

    Attributes:
        norm: the layer's input norm.
        attention: its attention, with `q_proj`, `k_proj`, `head_dim` and perhaps norms of both.
        layer: its index. Above 0 the layers in front of it mix tokens in another way, and are left out all the same.
        query_norm, key_norm: names of the norms per head, where the architecture has them.
        gated: whether the query projection gives every head a gate behind its query.
    """

    norm: nn.Module
    attention: Any
    layer: int = 0
    query_norm: str = "q_norm"
    key_norm: str = "k_norm"
    gated: bool = False

    @property
    def heads(self) -> int:
        """H, its query heads."""
        return int(self.attention.q_proj.out_features // (self.attention.head_dim * (1 + self.gated)))

    def queries(self, embeddings: Tensor) -> Tensor:
        """(..., H, d) of embeddings (..., D)."""
        size = self.attention.head_dim
        query = self.attention.q_proj(self._normed(embeddings)).unflatten(-1, (-1, size * (1 + self.gated)))
        return self._per_head(self.query_norm, query[..., :size])

    def keys(self, embeddings: Tensor) -> Tensor:
        """(..., H_kv, d) of embeddings (..., D)."""
        key = self.attention.k_proj(self._normed(embeddings)).unflatten(-1, (-1, self.attention.head_dim))
        return self._per_head(self.key_norm, key)

    def _normed(self, embeddings: Tensor) -> Tensor:
        return self.norm(embeddings.to(device_of(self.norm)))  # type: ignore[no-any-return]

    def _per_head(self, name: str, values: Tensor) -> Tensor:
        norm = getattr(self.attention, name, None)
        return values if norm is None else norm(values)


def find_first_attention(decoder: nn.Module, norm: str = "input_layernorm", **settings: Any) -> FirstAttention:
    """The first layer of `decoder` with an attention of separate projections; see :class:`FirstAttention`.

    Args:
        norm: name of a layer's input norm.

    Raises:
        UnsupportedModelError: there is no such layer.
    """
    for number, layer in enumerate(getattr(decoder, "layers", ())):
        attention = getattr(layer, "self_attn", None)
        if all(hasattr(attention, name) for name in ("q_proj", "k_proj", "head_dim")) and hasattr(layer, norm):
            return FirstAttention(getattr(layer, norm), attention, number, **settings)
    raise UnsupportedModelError(
        f"The language model {type(decoder).__name__} has no layer with a query and a key projection of its own, so "
        "relevance cannot be read from it. Use a method that reads the cue 'relevance', such as 'gridprune'."
    )


def noted_head_weights(config: Any) -> Any:
    """What is noted as "head_weights" beside a model's local checkpoint, whatever it is; None if nothing is."""
    checkpoint = getattr(config, "_name_or_path", "")
    return notes(Path(checkpoint)).get("head_weights") if checkpoint and Path(checkpoint).is_dir() else None


def stored_head_weights(config: Any, heads: int) -> tuple[float, ...] | None:
    """The weights of the query heads noted beside a local checkpoint by `gridprune calibrate`; None without any.

    Raises:
        CheckpointError: what is noted there is not a number for each of the `heads`.
    """
    found = noted_head_weights(config)
    if found is None:
        return None
    numbers = isinstance(found, list) and all(type(each) in (int, float) and math.isfinite(each) for each in found)
    if not numbers or len(found) != heads or not any(found):
        raise CheckpointError(
            f'{Path(config._name_or_path) / NOTES_FILE} must have for "head_weights" a number for each of the {heads} '
            "query heads of the first attention layer, not all of them 0. Take the entry out; `gridprune calibrate "
            "--write` then measures and stores others."
        )
    return tuple(float(each) for each in found)


@torch.no_grad()
def head_relevance(first: FirstAttention, features: Tensor, words: Tensor, mask: Tensor) -> Tensor:
    """(B, H, N) fp32: for each query head the logit q.k of each visual token, mean over the question's tokens.

    Args:
        features: (B, N, D) visual tokens as the language model receives them.
        words: (B, M, D) embeddings of the question's tokens.
        mask: (B, M) bool, which of these exist.
    """
    query, key = first.queries(words), first.keys(features.to(words.dtype)).float()  # [B, M, H, d], [B, N, H_kv, d]
    weight = mask.to(query.device, torch.float32)[..., None, None]
    mean = (query.float() * weight).sum(1) / weight.sum(1)  # [B, H, d]: the mean of products with a key is its product
    grouped = mean.unflatten(1, (key.shape[2], -1))  # [B, H_kv, heads of one key, d]
    logits = grouped @ key.permute(0, 2, 3, 1)  # [B, H_kv, heads of one key, N]
    return (logits.flatten(1, 2) * key.shape[-1] ** -0.5).to(features.device)
