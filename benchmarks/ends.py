"""Image in, first token out: unpruned, pruned, with k native tokens, and as research code prunes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gridprune.hf.pruning import prune
from gridprune.methods.gridprune import GridPrune

from .rig import QUESTION, Rig
from .shapes import IMAGE_TOKEN, FixedWords

Call = Callable[[], Any]


def variants(rig: Rig) -> dict[str, Call]:
    """Calls by name; each returns an object with `past_key_values`."""
    found: dict[str, Call] = {"unpruned": partial(rig.model, **rig.call())}
    for k in rig.shape.keeps:
        if has_cls(rig):
            found[f"research {k}"] = partial(_research, rig, k)
        found[f"native {k}"] = partial(_native, rig, k)
        found[f"pruned {k}"] = pruned(rig, k)
    return found


def pruned(rig: Rig, k: int) -> Call:
    """GridPrune by the context manager that users use."""
    pruning = prune(rig.model, GridPrune(keep=k), question=QUESTION, clip=rig.text, processor=FixedWords())
    whole = rig.call()

    def run() -> Any:
        with pruning:
            return rig.model(**whole)

    return run


def rows(rig: Rig, k: int) -> int:
    """Visual tokens of the prompt that is pruned to k, separators that stay included."""
    if k not in rig.rows:
        rig.rows[k] = pruned(rig, k)().past_key_values.get_seq_length() - rig.shape.prompt
    return rig.rows[k]


def has_cls(rig: Rig) -> bool:
    """Whether there is a [CLS] row for research code to read."""
    return rig.family.tower.saliency == "cls"


def _native(rig: Rig, k: int) -> Any:
    """The limit: the same encoder, then k visual tokens as if the image had no more, and newlines as pruning has.

    Blocks behind the feature layer are left out, as pruning leaves them out: nothing but looking and choosing differs.
    """
    with rig.family.tower.reading(last=rig.family.last_block(rig.vision)):
        features = rig.family.features(rig.vision)
    return _answered(rig, rig.family.embeddings(features, [rig.map])[0][: rows(rig, k)])


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
    return _answered(rig, torch.cat([kept, tokens[rig.map.separator][: rows(rig, k) - k]]))


def _answered(rig: Rig, kept: Tensor) -> Any:
    """The language model on a prompt with the visual tokens `kept` (k, D)."""
    ids = rig.prompt(len(kept))
    embeds = rig.model.get_input_embeddings()(ids).masked_scatter((ids == IMAGE_TOKEN)[..., None], kept)
    states = rig.language(inputs_embeds=embeds, use_cache=True)
    rig.model.lm_head(states.last_hidden_state[:, -1:])
    return states
