"""GridPrune's share of a prompt with 16,384 visual tokens at the 7B shape, its prefill timed on one layer, once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from gridprune.core.token_map import TokenMap
from gridprune.cues.tower import Captured
from gridprune.families.base import Encoded
from gridprune.families.parts import CropBatch
from gridprune.methods.checks import checked_select
from gridprune.methods.gridprune import GridPrune
from gridprune.selection.selector import Selector

from .clock import Journal, interleave
from .rig import QUESTION, Rig
from .shapes import Shape, build_text, get_shape

SHAPE, SIDE, SHARE = "llava-1.5-7b", 128, 9


@torch.no_grad()
def measure(
    rounds: int,
    progress: Callable[[str], None],
    journal: Journal | None = None,
    shape: Shape | None = None,
    side: int = SIDE,
) -> dict[str, Any]:
    """Cues, decision and text tower at side x side tokens, over the whole language model's prefill.

    The tower's work is left out of the prefill, so the share is an upper bound. Tower outputs are random: as many crops
    as the tokens need.
    """
    journal = journal or Journal()
    rig = Rig(shape or get_shape(SHAPE))
    tokens = side * side
    method = GridPrune(keep=tokens // SHARE)
    selector = Selector.of(rig.family, rig.side, method)
    encoded = _encoded(rig, TokenMap.from_grid(side, side))
    tower, question = build_text(rig.family.vision_config), torch.full((1, 16), 7)
    question[0, -1] = 3
    embeds = torch.randn(1, rig.shape.prompt + tokens, rig.language.config.hidden_size, dtype=rig.model.dtype)

    def cues() -> Any:
        return selector.cues(encoded, [0], [QUESTION])

    found = cues()
    small: dict[str, Callable[[], Any]] = {
        "cues": cues,
        "decision": lambda: checked_select(method, found, encoded.maps[0], tokens // SHARE),
        "text": lambda: tower(input_ids=question),
    }
    timing = interleave(small, 5 * rounds, repeats={"decision": 10}, journal=journal, progress=progress)
    inside = {"language": rig.inside["language"], "layer": rig.inside["layer"]}
    prefill: dict[str, Callable[[], Any]] = {"prefill": lambda: rig.language(inputs_embeds=embeds.to(rig.model.device))}
    timing |= interleave(prefill, 1, inside=inside, journal=journal, progress=progress)
    whole = rig.prefill(timing, "prefill").median
    return {
        "shape": {
            "name": rig.shape.name,
            "visual_tokens": tokens,
            "layers_built": rig.shape.build_layers,
            "layers": rig.shape.layers,
        },
        "stages_seconds": {name: value.to_list() for name, value in timing.items()},
        "prefill": float(f"{whole:.4g}"),
        "decision_share_of_prefill": round(sum(timing[name].median for name in small) / whole, 6),
    }


def _encoded(rig: Rig, token_map: TokenMap) -> Encoded:
    """Random tower outputs for the tokens of `token_map`."""
    config, tower = rig.family.vision_config, rig.family.tower
    length = (config.image_size // config.patch_size) ** 2 + tower.prefix
    crops = -(-len(token_map) // (length - tower.prefix))
    width, heads = config.hidden_size, config.num_attention_heads
    block = tower.block(tower.saliency_block)
    by_head = (crops, heads, length, width // heads)
    captured = Captured(
        states={rig.family.feature_block: [torch.randn(crops, length, width)]},
        queries={block: [torch.randn(by_head)]},
        keys={block: [torch.randn(by_head)]},
        masks={block: [None]},
    )
    return Encoded(None, [torch.zeros(len(token_map), 1)], [token_map], CropBatch([crops], tower.prefix), captured)
