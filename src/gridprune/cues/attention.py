"""Saliency from queries and keys: one softmax row of [CLS], or the attention each token receives, streamed."""

from __future__ import annotations

import torch
from torch import Tensor

MOST_QUERIES = 1024  # queries that `received_attention` averages over; more are sub-sampled at a uniform stride
_BLOCK_ELEMENTS = 1 << 24  # logits held at once: 64 MB


def cls_attention(query: Tensor, key: Tensor, mask: Tensor | None = None) -> Tensor:
    """What [CLS], the first token, pays to every token, averaged over heads.

    Args:
        query, key: (V, H, S, d) as the attention sees them, before scaling.
        mask: additive or boolean, broadcastable to (V, H, S, S).

    Returns:
        (V, S) fp32, rows sum to one.
    """
    return _probabilities(query[:, :, :1], _per_head(key, query), _rows(mask, slice(0, 1))).mean(1)[:, 0]


def received_attention(query: Tensor, key: Tensor, mask: Tensor | None = None, prefix: int = 0) -> Tensor:
    """How much attention each token receives: column means of the attention matrix, averaged over heads.

    At most `MOST_QUERIES` queries are used: of S tokens every ceil(S / MOST_QUERIES)-th, from the first patch on. They
    are streamed in blocks, so that memory stays bounded whatever S is.

    Args:
        query, key: (V, H, S, d) as the attention sees them, before scaling.
        mask: additive or boolean, broadcastable to (V, H, S, S).
        prefix: tokens in front of the patches, which do not vote.

    Returns:
        (V, S) fp32, rows sum to one.
    """
    views, heads, length, _ = query.shape
    key = _per_head(key, query)
    voters = torch.arange(prefix, length, -(-length // MOST_QUERIES), device=query.device)
    block = max(1, _BLOCK_ELEMENTS // (views * heads * length))
    total = query.new_zeros(views, length, dtype=torch.float32)
    for start in range(0, len(voters), block):
        some = voters[start : start + block]
        total += _probabilities(query[:, :, some], key, _rows(mask, some)).sum((1, 2))
    return total / (heads * len(voters))


def _probabilities(query: Tensor, key: Tensor, mask: Tensor | None) -> Tensor:
    """(V, H, q, S) fp32 softmax."""
    logits = (query.float() * query.shape[-1] ** -0.5) @ key.float().transpose(-1, -2)
    if mask is None:
        return logits.softmax(-1)
    low = torch.finfo(torch.float32).min
    return (logits.masked_fill(~mask, low) if mask.dtype == torch.bool else logits + mask.float()).softmax(-1)


def _per_head(key: Tensor, query: Tensor) -> Tensor:
    """Grouped keys repeated, one per query head."""
    return key.repeat_interleave(query.shape[1] // key.shape[1], dim=1) if key.shape[1] != query.shape[1] else key


def _rows(mask: Tensor | None, rows: Tensor | slice) -> Tensor | None:
    """The rows of a mask that belong to some queries; a mask with one row serves all."""
    return mask if mask is None or mask.shape[-2] == 1 else mask[..., rows, :]
