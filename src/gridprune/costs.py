"""What a language model costs, from its shape alone: the one place for formulas of FLOPs and of keys and values.

keys and values   2 x layers x key-value heads x head size x bytes of the dtype, per token of the prompt
FLOPs             per layer 2 n d q + 2 n d v + 3 n d m + 2 n^2 q with q, v the widths of queries and of keys; for
                  q = v = d it is L (4 n d^2 + 2 n^2 d + 3 n d m), the convention of the FastV line of papers: a
                  multiplication and its addition count as one, and the head is left out
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class LanguageModel:
    """The shape of a language model, as far as memory and FLOPs depend on it.

    Attributes:
        layers: layers that attend to everything before.
        sliding: layers that see the last `window` tokens only.
        linear: layers with a state of fixed size in place of keys and values.
        heads, kv_heads, head_dim: attention heads, heads of keys and values, and the width of one.
        hidden, mlp: width, and width inside the MLP (that of all active experts together).
    """

    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    mlp: int
    sliding: int = 0
    window: int = 0
    linear: int = 0

    @classmethod
    def of(cls, text: Any) -> LanguageModel:
        """Read a text config of transformers."""
        kinds = getattr(text, "layer_types", None) or ["full_attention"] * text.num_hidden_layers
        experts = getattr(text, "num_experts_per_tok", None)
        sliding, linear = kinds.count("sliding_attention"), kinds.count("linear_attention")
        return cls(
            layers=len(kinds) - sliding - linear,
            sliding=sliding,
            window=getattr(text, "sliding_window", None) or 0,
            linear=linear,
            heads=text.num_attention_heads,
            kv_heads=getattr(text, "num_key_value_heads", None) or text.num_attention_heads,
            head_dim=getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
            hidden=text.hidden_size,
            mlp=experts * text.moe_intermediate_size if experts else text.intermediate_size,
        )

    def kv_bytes(self, tokens: int, itemsize: int, gpus: int = 1) -> int:
        """Keys and values of `tokens` tokens that one of `gpus` tensor-parallel GPUs holds."""
        heads = -(-self.kv_heads // gpus)  # more GPUs than heads: each holds a copy of one
        reached = self.layers * tokens + self.sliding * min(tokens, self.window)
        return 2 * reached * heads * self.head_dim * itemsize

    def flops(self, tokens: float) -> float:
        """Of one pass over `tokens` tokens; see the head of this file."""
        query, value = self.heads * self.head_dim, self.kv_heads * self.head_dim
        projections = tokens * self.hidden * (2 * query + 2 * value + 3 * self.mlp)
        reached = self.layers * tokens + self.sliding * min(tokens, self.window)
        return (self.layers + self.sliding + self.linear) * projections + 2 * reached * tokens * query
