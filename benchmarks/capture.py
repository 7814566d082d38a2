"""What it costs to read a vision tower's attention while it runs, against sdpa, and what eager attention costs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gridprune.bench.clock import Ratio
from gridprune.cues.attention import cls_attention, received_attention
from gridprune.cues.tower import Tower, find_clip_tower, find_tower

from .clock import interleave

_BLOCKS = 4  # of the towers that are not built whole; the cost of reading one block is set against all blocks


def overheads(rounds: int, progress: Callable[[str], None], *, large: bool = True) -> dict[str, Any]:
    """Relative extra cost of one captured block by tower: [median, quartile, quartile], and eager attention's.

    Args:
        large: CLIP-L, SigLIP-so400m and Qwen2.5-VL; otherwise the embedded model's CLIP alone.
    """
    found = {}
    for name, make in (_LARGE if large else _SMALL).items():
        progress(f"capture: {name}")
        module, tower, run, depth = make()
        found[name] = _overhead(module, tower, run, depth, rounds)
    return found


@torch.no_grad()
def _overhead(module: Any, tower: Tower, run: Callable[[], Any], depth: int, rounds: int) -> dict[str, Any]:
    block = tower.block(tower.saliency_block)

    def captured() -> Tensor:
        with tower.reading(states={block}, attention={block}) as seen:
            run()
        query, key = seen.queries[block][0], seen.keys[block][0]
        return cls_attention(query, key) if tower.saliency == "cls" else received_attention(query, key)

    def eager() -> Any:
        module.set_attn_implementation("eager")
        try:
            return run()
        finally:
            module.set_attn_implementation("sdpa")

    timing = interleave({"sdpa": run, "capture": captured, "eager": eager}, rounds)
    whole = depth / tower.depth  # blocks of the real tower over blocks built: its extra is one block's, whatever depth

    def extra(name: str, times: float) -> list[float]:
        ratio = Ratio.from_values(
            (a - b) * times / (b * whole) for a, b in zip(timing[name].seconds, timing["sdpa"].seconds)
        )
        return ratio.to_list()

    return {
        "capture": extra("capture", 1.0),
        "eager": extra("eager", whole),
        "sdpa_seconds": timing["sdpa"].to_list(),
        "blocks_built": tower.depth,
        "blocks": depth,
    }


_Made = tuple[Any, Tower, Callable[[], Any], int]


def _clip(**config: Any) -> Callable[[], _Made]:
    def make() -> _Made:
        from transformers import CLIPVisionConfig, CLIPVisionModel

        module: Any = CLIPVisionModel(CLIPVisionConfig(**config)).eval()
        pixels = torch.randn(1, 3, config["image_size"], config["image_size"])
        tower = find_clip_tower(module)
        return module, tower, lambda: module(pixels), tower.depth

    return make


def _siglip() -> _Made:
    from transformers import SiglipVisionConfig, SiglipVisionModel

    config = SiglipVisionConfig(
        hidden_size=1152,
        intermediate_size=4304,
        num_hidden_layers=_BLOCKS,
        num_attention_heads=16,
        image_size=384,
        patch_size=14,
        vision_use_head=False,
    )
    module: Any = SiglipVisionModel(config).eval()
    pixels = torch.randn(1, 3, 384, 384)
    return module, find_clip_tower(module), lambda: module(pixels), 27


def _qwen() -> _Made:
    from .shapes import get_shape

    shape = get_shape("qwen2.5-vl-7b")
    module = shape.make(1, _BLOCKS).model.visual.eval()
    vision = shape.vision()
    tower = find_tower(module, full_blocks=(_BLOCKS - 1,), saliency_block=_BLOCKS - 1)
    return module, tower, lambda: module(vision["pixel_values"], vision["image_grid_thw"]), shape.tower_layers


_SMALL: dict[str, Callable[[], _Made]] = {
    "embedded CLIP, 192 px": _clip(
        image_size=192,
        patch_size=8,
        hidden_size=192,
        intermediate_size=768,
        num_hidden_layers=6,
        num_attention_heads=3,
    )
}
_LARGE: dict[str, Callable[[], _Made]] = {
    **_SMALL,
    "CLIP-L, 336 px": _clip(
        image_size=336,
        patch_size=14,
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
    ),
    "SigLIP-so400m, 384 px": _siglip,
    "Qwen2.5-VL, 1296 tokens": _qwen,
}
