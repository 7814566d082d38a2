"""Multiplications and additions of a language model's prefill, counted from its shape."""

from __future__ import annotations

from typing import Any


def prefill_flops(config: Any, tokens: int) -> float:
    """FLOPs of one layer stack over `tokens` positions, by a text config: projections, attention, gated MLP.

    Attention counts the whole square, as a kernel without a causal shortcut computes it; the head is left out.
    """
    width, inner, heads = config.hidden_size, config.intermediate_size, config.num_attention_heads
    head = getattr(config, "head_dim", None) or width // heads
    kv = getattr(config, "num_key_value_heads", None) or heads
    projections = 2 * width * head * (2 * heads + 2 * kv)
    mlp = 6 * width * inner
    attention = 4 * tokens * heads * head
    return float(config.num_hidden_layers * tokens * (projections + mlp + attention))


def kv_bytes(config: Any, tokens: int, element: int) -> int:
    """Bytes of keys and values of all layers over `tokens` positions, `element` bytes a number."""
    heads = config.num_attention_heads
    head = getattr(config, "head_dim", None) or config.hidden_size // heads
    kv = getattr(config, "num_key_value_heads", None) or heads
    return int(2 * config.num_hidden_layers * kv * head * tokens * element)
