"""Attention mass: a kept visual token counts in every softmax as many times as there are tokens that it stands for.

Pruning takes attention from the image: where N tokens competed with the text, k do. Adding log s to the logits of a
kept token, s the number of tokens nearest to it (itself included), gives it the mass that s copies of it would have, as
RESTORE (arXiv 2606.01711) and ERA (arXiv 2606.31982) propose. Written from descriptions of them; RESTORE's other parts,
merged anchors and its term for distance, are not here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..compat import cache_of
from ..errors import UnsupportedCallError, UnsupportedModelError
from ..families.base import Encoded
from ..methods.ops.similarity import merge_into_nearest
from ..selection.selector import Choice, Selector
from .cache_record import mass_of
from .intercept import Interceptor
from .layers import decoder_layers
from .outputs import ShortenedCall
from .prompt_pruner import PendingImages, PromptPruner
from .targets import Targets

_ADDITIVE = ("sdpa", "eager")


def weighed(mask: Tensor | None, bias: Tensor, queries: int, keys: int) -> Tensor:
    """An additive attention mask (B, 1 or H, Q, K) with `bias` on its first columns; without a mask, a causal one.

    Args:
        mask: boolean or additive, as the stock model makes it.
        bias: (B, W) logarithms in the dtype of the attention, W at most K.
    """
    if mask is None:
        mask = torch.ones(queries, keys, dtype=torch.bool, device=bias.device).tril(keys - queries)[None, None]
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=bias.dtype).masked_fill_(~mask, torch.finfo(bias.dtype).min)
    return mask + nn.functional.pad(bias, (0, keys - bias.shape[1]))[:, None, None]


@torch.no_grad()
def log_mass(selector: Selector, encoded: Encoded, image: int, choice: Choice) -> Tensor:
    """(k,) fp32 on the CPU: for each kept token the logarithm of the number of tokens it stands for.

    A method that merges says itself which tokens flow where; otherwise a dropped token goes to the kept one of the
    largest cosine.
    """
    merge, row = choice.selection.merge, choice.row
    if merge is None or merge.token is not None:
        embeddings = encoded.embeddings[image]
        features = embeddings[encoded.maps[image].candidate_positions.to(embeddings.device)]
        merge, row = merge_into_nearest(features[None], choice.kept.to(features.device)[None], "features"), 0
    group = merge.group[row].cpu()
    size = torch.bincount(group[group >= 0], minlength=len(choice.kept))
    return size.clamp(min=1).float().log()


@dataclass(eq=False)
class WeighedPruner(PromptPruner):
    """A :class:`PromptPruner` whose kept visual tokens carry the mass of the dropped ones, in every layer and step.

    The masses are noted on the cache, by column of the prompt as it was given, so that later calls go on with them.
    """

    local: threading.local = field(default_factory=threading.local)
    handles: list[RemovableHandle] = field(default_factory=list)

    def check(self) -> None:
        """Raise an :class:`UnsupportedModelError` unless an additive mask reaches every layer's attention."""
        layers, name = decoder_layers(self.model), type(self.model).__name__
        attention = self.model.get_decoder().config._attn_implementation
        if attention not in _ADDITIVE:
            raise UnsupportedModelError(
                f"attention_mass adds to the attention mask, which {attention!r} does not take: load {name} with "
                "attn_implementation='sdpa', or leave attention_mass out."
            )
        if self.family.window is not None:
            raise UnsupportedModelError(
                f"Some layers of {name} see a window of {self.family.window} tokens only, and masks of windows are not "
                "weighed: leave attention_mass out."
            )
        if torch.is_grad_enabled() and any(layer.training and _checkpoints(layer) for layer in layers):
            raise UnsupportedModelError(
                "Gradient checkpointing runs layers again when the call is over, without the mass: switch it off, or "
                "leave attention_mass out."
            )

    def install(self) -> None:
        self.check()
        for layer in decoder_layers(self.model):
            attention: Any = layer.self_attn
            self.handles.append(attention.register_forward_pre_hook(self._before_attention, with_kwargs=True))

    def uninstall(self) -> None:
        while self.handles:
            self.handles.pop().remove()

    def generate(self, original: Callable[..., Any], call: dict[str, Any]) -> Any:
        try:
            return super().generate(original, call)
        finally:
            self.local.bias = None

    def before_forward(self, call: dict[str, Any], targets: Targets | None) -> ShortenedCall | None:
        self.local.bias = None
        return super().before_forward(call, targets)

    def _plan(self, call: dict[str, Any], *, new_only: bool, generating: bool) -> ShortenedCall | None:
        self.check()
        self.local.fresh = []
        plan = super()._plan(call, new_only=new_only, generating=generating)
        if plan is None or plan.record is None:
            return plan
        layout = plan.record.layout
        mass = np.zeros((len(layout.columns), layout.full), dtype=np.float32)
        past = mass_of(cache_of(call), len(mass))
        if past is not None:
            mass[:, : past.shape[1]] = past
        for row, columns, values in self.local.fresh:
            mass[row, columns] = values
        if mass.any():
            plan.record = replace(plan.record, mass=mass)
            self.local.bias = layout.gather(torch.from_numpy(mass).to(plan.original.device), 0)
        return plan

    def _prune_images(self, new: PendingImages, ids: Tensor, mask: Tensor | None, keep: np.ndarray, offset: int) -> Any:
        self.local.masses = []
        output = super()._prune_images(new, ids, mask, keep, offset)
        for place, (kept, values) in zip(new.places, self.local.masses):
            columns = place.columns[place.token_map.candidate_positions[kept]].numpy() + offset
            self.local.fresh.append((place.row, columns, values.numpy()))
        return output

    def _gathered(
        self,
        selector: Selector,
        encoded: Encoded,
        choices: Sequence[Choice],
        masks: list[Tensor],
        rows: Sequence[int],
    ) -> Any:
        self.local.masses = [(each.kept, log_mass(selector, encoded, i, each)) for i, each in enumerate(choices)]
        return super()._gathered(selector, encoded, choices, masks, rows)

    def _before_attention(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        bias = getattr(self.local, "bias", None)
        if bias is None or not Interceptor.answers(self.model, self):
            return None
        hidden = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        mask, cache, queries = kwargs.get("attention_mask"), cache_of(kwargs), hidden.shape[1]
        held = 0 if cache is None else int(cache.get_seq_length(module.layer_idx))
        keys = held + queries if mask is None else mask.shape[-1]
        if keys < bias.shape[1]:
            raise UnsupportedCallError("The cache holds a part of the prompt only; leave attention_mass out.")
        own = bias.to(hidden.device, hidden.dtype).repeat_interleave(len(hidden) // len(bias), dim=0)  # beams
        return args, {**kwargs, "attention_mask": weighed(mask, own, queries, keys)}


def _checkpoints(layer: nn.Module) -> bool:
    return bool(getattr(layer, "gradient_checkpointing", False))
