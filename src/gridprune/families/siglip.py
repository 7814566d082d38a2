"""Families on a SigLIP tower with a fixed number of tokens an image: PaliGemma and Gemma 3.

Both mask attention by `token_type_ids`, which are gathered with the prompt: the images of Gemma 3 and the prefix of
PaliGemma stay bidirectional.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import ClassVar

from ..core.token_map import TokenMap
from ..cues.text_tower import SIGLIP_TEXT
from .limits import CHUNKED_PREFILL, LATER_IMAGES, Limit
from .maps import pooled
from .raster import OneView, Raster


class PaliGemma(Raster):
    """PaliGemma and PaliGemma 2; positions count from 1."""

    name: ClassVar[str] = "paligemma"
    classes: ClassVar[tuple[str, ...]] = ("PaliGemmaForConditionalGeneration",)
    text_tower: ClassVar[str] = SIGLIP_TEXT
    dense: ClassVar[bool] = True
    first_position: ClassVar[int] = 1
    limits: ClassVar[Mapping[str, Limit]] = {
        LATER_IMAGES: Limit("the bidirectional prefix cannot grow behind what was generated"),
        CHUNKED_PREFILL: Limit("a chunk would cut the prefix, which sees itself in both directions"),
    }


class Gemma3(OneView):
    """Gemma 3: squares of patches are averaged, 4 x 4 in the released models."""

    name: ClassVar[str] = "gemma3"
    classes: ClassVar[tuple[str, ...]] = ("Gemma3ForConditionalGeneration",)
    text_tower: ClassVar[str] = SIGLIP_TEXT
    dense: ClassVar[bool] = True
    limits: ClassVar[Mapping[str, Limit]] = {
        LATER_IMAGES: Limit("generate masks them by the types of the wrong tokens", before="5.23"),
        CHUNKED_PREFILL: Limit("a chunk would cut an image, which sees itself in both directions"),
    }

    @cached_property
    def _map(self) -> TokenMap:
        side = self.vision_config.image_size // self.vision_config.patch_size
        return pooled(side, side, self.base.multi_modal_projector.kernel_size)
