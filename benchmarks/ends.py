"""Image in, first token out: unpruned, pruned, with k native tokens, and as research code prunes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from gridprune.bench.calls import first_token, native, shortened
from gridprune.hf.pruning import Pruning, prune
from gridprune.methods.gridprune import GridPrune

from .rig import QUESTION, Rig
from .shapes import IMAGE_TOKEN, FixedWords

Call = Callable[[], Any]


def variants(rig: Rig) -> dict[str, Call]:
    """Calls by name; each returns an object with `past_key_values`."""
    found: dict[str, Call] = {"unpruned": partial(first_token, rig.model, rig.call())}
    for k in rig.shape.keeps:
        if has_cls(rig):
            found[f"research {k}"] = partial(_research, rig, k)
        found[f"native {k}"] = partial(native, _pruning(rig, k), rig.call(), _short(rig, k))
        found[f"pruned {k}"] = partial(first_token, rig.model, rig.call(), _pruning(rig, k))
    return found


def _pruning(rig: Rig, k: int) -> Pruning:
    """GridPrune by the context manager that users use."""
    return prune(rig.model, GridPrune(keep=k), question=QUESTION, clip=rig.text, processor=FixedWords())


def _short(rig: Rig, k: int) -> dict[str, Any]:
    """What pruning to k hands to the model."""
    if k not in rig.short:
        rig.short[k] = shortened(_pruning(rig, k), rig.call())
    return rig.short[k]


def rows(rig: Rig, k: int) -> int:
    """Visual tokens of the prompt that is pruned to k, separators that stay included."""
    if k not in rig.rows:
        rig.rows[k] = _short(rig, k)["input_ids"].shape[1] - rig.shape.prompt
    return rig.rows[k]


def has_cls(rig: Rig) -> bool:
    """Whether there is a [CLS] row for research code to read."""
    return rig.family.tower.saliency == "cls"


def _research(rig: Rig, k: int) -> Any:
    """As research code does it: eager attention, all attention maps kept, the k largest of the [CLS] row.

    Behind them stand as many newlines as pruning leaves, so that the language model has the same work.
    """
    module = rig.family.tower.module
    module.set_attn_implementation("eager")  # type: ignore[operator]
    try:
        output = rig.family.features({**rig.vision, "output_attentions": True})
    finally:
        module.set_attn_implementation("sdpa")  # type: ignore[operator]
    maps = output.attentions[rig.family.tower.block(rig.family.tower.saliency_block)]  # [V, H, S, S]
    row = maps[:, :, 0, 1:].mean(1).flatten()[rig.map.candidates.source[:, 0]]  # [N]
    tokens = rig.family.embeddings(output, [rig.map])[0]
    kept = tokens[rig.map.candidate_positions][row.topk(k).indices.sort().values]
    shown = torch.cat([kept, tokens[rig.map.separator][: rows(rig, k) - k]])
    ids = rig.prompt(len(shown))
    embeds = rig.model.get_input_embeddings()(ids).masked_scatter((ids == IMAGE_TOKEN)[..., None], shown)
    states = rig.language(inputs_embeds=embeds, use_cache=True)
    rig.model.lm_head(states.last_hidden_state[:, -1:])
    return states
