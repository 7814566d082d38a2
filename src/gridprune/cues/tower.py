"""Reading a vision tower while it runs: block outputs, queries and keys, captured by hooks on stock modules.

Nothing is computed twice and no eager attention is used: a hook on the query and key projections of one block sees what
the attention sees, and one softmax row per head gives the [CLS] saliency. Captures are kept per thread, so that two
threads may run the same tower at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..errors import UnsupportedModelError


@dataclass
class Captured:
    """What one run of the tower left behind, by block index (0-based, absolute)."""

    states: dict[int, Tensor] = field(default_factory=dict)  # [V, S, C] output of the block
    queries: dict[int, Tensor] = field(default_factory=dict)  # [V, S, C] before the split into heads
    keys: dict[int, Tensor] = field(default_factory=dict)  # [V, S, C]


@dataclass(eq=False)
class Tower:
    """A CLIP-like vision transformer: a list of blocks with `self_attn.q_proj` and `self_attn.k_proj`, with [CLS] first.

    Attributes:
        blocks: the transformer blocks.
        heads: attention heads per block.
        post_norm: the norm that CLIP applies before its projection, or None.
        prefix: tokens in front of the patches (1 for [CLS], 0 for none).
        saliency_block: index of the block whose attention is the saliency, negative from the end.
    """

    blocks: nn.ModuleList
    heads: int
    post_norm: nn.Module | None
    prefix: int = 1
    saliency_block: int = -2
    _local: threading.local = field(default_factory=threading.local, repr=False)

    @property
    def depth(self) -> int:
        return len(self.blocks)

    def block(self, index: int) -> int:
        """Absolute block index of a possibly negative one.

        Raises:
            UnsupportedModelError: the tower has no such block.
        """
        absolute = index if index >= 0 else self.depth + index
        if not 0 <= absolute < self.depth:
            raise UnsupportedModelError(f"The vision tower has {self.depth} blocks; there is no block {index}.")
        return absolute

    def block_at(self, depth: float) -> int:
        """The block at a relative depth in (0, 1]: 1 is the last."""
        return min(max(round(depth * self.depth), 1), self.depth) - 1

    def install(self, *, states: set[int], attention: set[int]) -> list[torch.utils.hooks.RemovableHandle]:
        """Hook the wanted blocks. The hooks do nothing outside :meth:`capture`; the caller removes the handles."""
        handles = []
        for index in states:
            handles.append(self.blocks[index].register_forward_hook(self._store("states", index)))
        for index in attention:
            attend = self.blocks[index].self_attn
            handles.append(attend.q_proj.register_forward_hook(self._store("queries", index)))
            handles.append(attend.k_proj.register_forward_hook(self._store("keys", index)))
        return handles

    def _store(self, kind: str, index: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: object, output: Tensor | tuple[Tensor, ...]) -> None:
            captured: Captured | None = getattr(self._local, "captured", None)
            if captured is not None:
                tensor = output[0] if isinstance(output, tuple) else output
                getattr(captured, kind)[index] = tensor.detach()

        return hook

    @contextmanager
    def capture(self) -> Iterator[Captured]:
        """Collect what the installed hooks see in this thread."""
        before = getattr(self._local, "captured", None)
        self._local.captured = Captured()
        try:
            yield self._local.captured
        finally:
            self._local.captured = before

    def cls_attention(self, captured: Captured, index: int) -> Tensor:
        """Attention of [CLS] to the patches in one block, mean over heads: fp32 (V, P), P without the prefix."""
        return cls_attention(captured.queries[index][:, 0], captured.keys[index], self.heads, self.prefix)


def cls_attention(query: Tensor, keys: Tensor, heads: int, prefix: int = 1) -> Tensor:
    """One softmax row per head, averaged over heads.

    Args:
        query: (V, C) the [CLS] query, heads concatenated, before scaling.
        keys: (V, S, C) keys of all tokens.
        heads: number of heads; C must be divisible by it.
        prefix: tokens in front of the patches to drop after the softmax.

    Returns:
        (V, S - prefix) fp32; a row sums to one minus the attention [CLS] pays to the prefix.
    """
    views, length, width = keys.shape
    q = query.float().view(views, heads, 1, width // heads)
    k = keys.float().view(views, length, heads, width // heads).transpose(1, 2)  # [V, H, S, d]
    logits = (q * (width // heads) ** -0.5) @ k.transpose(-1, -2)  # [V, H, 1, S]
    return logits.softmax(-1).mean(1)[:, 0, prefix:]


def received_attention(queries: Tensor, keys: Tensor, heads: int, prefix: int = 0, block: int = 256) -> Tensor:
    """How much attention each token receives: column means of the attention matrix, streamed over blocks of queries.

    Args:
        queries: (V, S, C) heads concatenated, before scaling.
        keys: (V, S, C).
        heads: number of heads.
        prefix: tokens in front of the patches to drop.
        block: queries per step; memory is O(heads * block * S).

    Returns:
        (V, S - prefix) fp32.
    """
    views, length, width = keys.shape
    k = keys.float().view(views, length, heads, width // heads).permute(0, 2, 3, 1)  # [V, H, d, S]
    q = queries.float().view(views, length, heads, width // heads).transpose(1, 2) * (width // heads) ** -0.5
    total = keys.new_zeros(views, length, dtype=torch.float32)
    for start in range(prefix, length, block):  # over blocks of queries: memory stays linear in S
        total += (q[:, :, start : start + block] @ k).softmax(-1).sum((1, 2))
    return total[:, prefix:] / (heads * (length - prefix))


def find_clip_tower(tower: nn.Module) -> Tower:
    """Describe a CLIP vision tower, found by its parts and not by their names' order in a version of transformers.

    Raises:
        UnsupportedModelError: the module is not built like CLIP's vision transformer.
    """
    blocks = next((m.layers for m in tower.modules() if isinstance(getattr(m, "layers", None), nn.ModuleList)), None)
    if blocks is None or not all(hasattr(getattr(b, "self_attn", None), "q_proj") for b in blocks):
        raise UnsupportedModelError(
            f"The vision tower {type(tower).__name__} is not built like CLIP's (blocks with self_attn.q_proj/k_proj), "
            "so its [CLS] attention cannot be read. Use a method without the cue 'saliency'."
        )
    post_norm = next((m.post_layernorm for m in tower.modules() if hasattr(m, "post_layernorm")), None)
    has_cls = any(hasattr(m, "class_embedding") for m in tower.modules())
    return Tower(blocks, heads=blocks[0].self_attn.num_heads, post_norm=post_norm, prefix=int(has_cls))
