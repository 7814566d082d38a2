"""Reading a vision tower while it runs: block outputs by hooks, queries and keys through the attention interface.

Nothing is computed twice and eager attention is never needed. For the span of one encoder call the attention module of
the block that is read gets its own copy of the configuration, which names a registered wrapper: it keeps the queries
and keys (after RoPE and norms, before scaling) and hands everything on to the implementation in use, so the features
stay bit-identical. Then the module gets its own configuration back and the wrapper leaves the registry.
"""

from __future__ import annotations

import copy
import sys
import threading
import weakref
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ..errors import UnsupportedModelError

_LOCKS: weakref.WeakKeyDictionary[nn.Module, threading.RLock] = weakref.WeakKeyDictionary()
_LOCKS_GUARD = threading.Lock()


@dataclass
class Captured:
    """What one run of the tower left behind, by block index (0-based, absolute): one tensor per call of the module.

    Attributes:
        states: outputs of the block, (V, S, C) or (S, C); they carry gradients if the tower's do.
        queries, keys: (V, H, S, d).
        masks: the attention mask of each call, or None.
    """

    states: dict[int, list[Tensor]] = field(default_factory=lambda: defaultdict(list))
    queries: dict[int, list[Tensor]] = field(default_factory=lambda: defaultdict(list))
    keys: dict[int, list[Tensor]] = field(default_factory=lambda: defaultdict(list))
    masks: dict[int, list[Tensor | None]] = field(default_factory=lambda: defaultdict(list))

    def of(self, states: Collection[int], attention: Collection[int]) -> Captured:
        """What was read of these blocks alone."""
        return Captured(
            {block: self.states[block] for block in states},
            {block: self.queries[block] for block in attention},
            {block: self.keys[block] for block in attention},
            {block: self.masks[block] for block in attention},
        )


@dataclass(eq=False)
class Tower:
    """A vision transformer that can be read.

    Attributes:
        module: the whole tower; one thread at a time reads it.
        blocks: its transformer blocks.
        attention: name of a block's attention module.
        prefix: tokens in front of the patches (1 for [CLS], 0 for none).
        saliency: "cls" for the row of the first token, "received" for column means.
        saliency_block: block whose attention is the saliency, negative from the end.
        post_norm: the norm that CLIP applies before its projection, or None.
        full_blocks: the blocks that attend to the whole image, if others attend within windows only.
    """

    module: nn.Module
    blocks: nn.ModuleList
    attention: str = "self_attn"
    prefix: int = 0
    saliency: str = "received"
    saliency_block: int = -2
    post_norm: nn.Module | None = None
    full_blocks: tuple[int, ...] = ()

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
        """The block at a relative depth in (0, 1], 1 being the last; the nearest one that sees the whole image."""
        block = min(max(round(depth * self.depth), 1), self.depth) - 1
        return min(self.full_blocks, key=lambda full: abs(full - block)) if self.full_blocks else block

    @contextmanager
    def reading(
        self, *, states: Collection[int] = (), attention: Collection[int] = (), last: int | None = None
    ) -> Iterator[Captured]:
        """Collect what the given blocks do in this thread; everything is restored at the end, also after an error.

        Args:
            states: blocks whose output is wanted.
            attention: blocks whose queries and keys are wanted.
            last: the last block anybody reads; in this thread those behind it hand on what they are given. None: all.
        """
        captured = Captured()
        unread = () if last is None else range(max([last, *states, *attention]) + 1, self.depth)
        if not states and not attention and not unread:
            yield captured
            return
        with _LOCKS_GUARD:
            lock = _LOCKS.setdefault(self.module, threading.RLock())
        with lock, ExitStack() as undo:
            for index in states:
                keep = _keep_output(captured.states[index], threading.get_ident())
                undo.callback(self.blocks[index].register_forward_hook(keep).remove)
            for index in attention:
                undo.enter_context(_watched(getattr(self.blocks[index], self.attention), index, captured))
            for index in unread:
                undo.enter_context(_idle(self.blocks[index]))
            yield captured


def _keep_output(kept: list[Tensor], thread: int) -> Callable[..., None]:
    def hook(module: nn.Module, args: object, output: Tensor | tuple[Tensor, ...]) -> None:
        if threading.get_ident() == thread:
            kept.append(output[0] if isinstance(output, tuple) else output)

    return hook


@contextmanager
def _idle(block: nn.Module) -> Iterator[None]:
    """Let a block do nothing in this thread."""
    own, thread, before = block.forward, threading.get_ident(), block.__dict__.get("forward")

    def forward(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() == thread:
            return hidden_states
        return own(hidden_states, *args, **kwargs)

    block.__dict__["forward"] = forward
    try:
        yield
    finally:
        if before is None:
            del block.__dict__["forward"]
        else:
            block.__dict__["forward"] = before


@contextmanager
def _watched(attend: Any, index: int, captured: Captured) -> Iterator[None]:
    """Let one attention module call a wrapper that keeps its queries and keys."""
    own, thread = attend.config, threading.get_ident()
    used = own._attn_implementation
    # Models look for "flash" in the name to choose their variable-length path.
    name = f"gridprune_{thread}_{index}_{used}"

    def wrapper(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() == thread:
            captured.queries[index].append(query.detach())
            captured.keys[index].append(key.detach())
            mask = args[0] if args else kwargs.get("attention_mask")
            captured.masks[index].append(mask if isinstance(mask, Tensor) else None)
        return implementation(attend, used)(module, query, key, value, *args, **kwargs)

    watched = copy.copy(own)
    watched._attn_implementation_internal = name
    ALL_ATTENTION_FUNCTIONS[name] = wrapper
    attend.config = watched
    try:
        yield
    finally:
        attend.config = own
        del ALL_ATTENTION_FUNCTIONS[name]


def implementation(attend: nn.Module, name: str | None) -> Callable[..., Any]:
    """The attention function that a stock module uses under the name `name`."""
    eager = sys.modules[type(attend).__module__].eager_attention_forward
    return eager if name in (None, "eager") else ALL_ATTENTION_FUNCTIONS.get(name, eager)


def find_tower(module: nn.Module, **settings: Any) -> Tower:
    """Describe a vision transformer, found by its parts: a list of blocks with an attention module that has a config.

    Raises:
        UnsupportedModelError: the module is not built like that.
    """
    for part in module.modules():
        for blocks in (child for child in part.children() if isinstance(child, nn.ModuleList) and len(child)):
            for attention in ("self_attn", "attn", "attention"):
                if all(hasattr(getattr(block, attention, None), "config") for block in blocks):
                    return Tower(module, blocks, attention, **settings)
    raise UnsupportedModelError(
        f"The vision tower {type(module).__name__} is not a list of blocks whose attention goes through transformers' "
        "attention interface, so it cannot be read. Use a method that needs no cue of the tower, such as 'divprune'."
    )


def find_clip_tower(module: nn.Module) -> Tower:
    """A CLIP tower: [CLS] in front, its row as saliency, and the norm in front of CLIP's projection.

    A SigLIP tower has the same layout without [CLS]; its saliency is the attention received.
    """
    has_cls = any(hasattr(part, "class_embedding") for part in module.modules())
    post_norm = next((part.post_layernorm for part in module.modules() if hasattr(part, "post_layernorm")), None)
    saliency = "cls" if has_cls else "received"
    return find_tower(module, prefix=int(has_cls), saliency=saliency, post_norm=post_norm)


def stacked(calls: list[Tensor], dim: int) -> Tensor:
    """What several calls of one module left behind, as one tensor."""
    return calls[0] if len(calls) == 1 else torch.cat(calls, dim=dim)
