"""A model of real shape on the bench: what it is called with, and how few blocks stand for all of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gridprune import families
from gridprune.bench.clock import Timing
from gridprune.families.base import Family
from gridprune.selection.collect import TextSide

from .shapes import IMAGE_TOKEN, FixedText, FixedWords, Shape, build

QUESTION = "what is this"


class Rig:
    """One shape with random weights and one random image.

    Attributes:
        vision, map: the image, and where its tokens lie.
        inside: modules that are timed within every call: tower, projector, language model, and the blocks of each kind.
        missing: by kind of block, how many more the real model has than were built.
        short: budget -> what pruning hands to the model, where it was looked at.
        rows: budget -> visual tokens the pruned prompt holds: newlines of rows that keep a token stay beside the k.
    """

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.model = build(shape)
        self.family: Family = families.find(self.model)
        vision = {key: value.to(self.model.device) for key, value in shape.vision().items()}
        self.vision = {k: v.to(self.model.dtype) if v.is_floating_point() else v for k, v in vision.items()}
        self.map = self.family.token_maps(self.vision)[0]
        config = self.family.vision_config
        self.text: Any = FixedText(config.hidden_size, config.projection_dim) if shape.clip else None
        self.side = TextSide(self.text, FixedWords())
        self.language = self.family.base.language_model
        tower, last = self.family.tower, self.family.last_block(self.vision)
        kinds: dict[str, list[nn.Module]] = {}
        for index, block in enumerate(list(tower.blocks)[: None if last is None else last + 1]):
            kinds.setdefault(_kind(index, tower.full_blocks), []).append(block)
        real = {"block": shape.tower_layers - shape.tower_full, "full block": shape.tower_full}
        held = {"block": tower.depth - len(tower.full_blocks), "full block": len(tower.full_blocks)}
        self._kinds = tuple(kinds)
        self.short: dict[int, dict[str, Any]] = {}
        self.rows = {} if len(self.map) > len(self.map.candidates) else {k: k for k in shape.keeps}
        self.missing = {kind: real[kind] - held[kind] for kind in kinds} | {"layer": shape.layers - shape.build_layers}
        self.inside: dict[str, list[nn.Module]] = {
            **{"tower": [tower.module], "language": [self.language], "layer": list(self.language.layers)},
            **kinds,
        }
        projector = getattr(self.family.base, "multi_modal_projector", None)
        self.inside |= {} if projector is None else {"projector": [projector]}

    @property
    def lengths(self) -> list[int]:
        """Tokens of an image in the prompt: all, separators included, and every budget."""
        return [len(self.map), *self.shape.keeps]

    # -- the whole model's time from the built one's ---------------------------------------------------------------

    def whole(self, timing: dict[str, Timing], name: str) -> Timing:
        """Of a call: its time plus, for every block that is missing, the time of one of its kind in the same call."""
        return _extended(timing, name, name, self.missing)

    def tower(self, timing: dict[str, Timing], name: str) -> Timing:
        """Of the whole tower in a call."""
        return _extended(timing, f"{name}/tower", name, {kind: self.missing[kind] for kind in self._kinds})

    def prefill(self, timing: dict[str, Timing], name: str) -> Timing:
        """Of the whole language model in a call."""
        return _extended(timing, f"{name}/language", name, {"layer": self.missing["layer"]})

    def outside(self, timing: dict[str, Timing], name: str) -> Timing:
        """Of a call without tower, projector and language model: looking, choosing, and what holds them together."""
        parts = [timing[part] for p in ("tower", "projector", "language") if (part := f"{name}/{p}") in timing]
        return Timing(tuple(s - sum(part.seconds[i] for part in parts) for i, s in enumerate(timing[name].seconds)))

    def decode(self, timing: dict[str, Timing], name: str) -> Timing:
        """Of the whole language model in a call for one more token."""
        return _extended(timing, name, name, {"layer": self.missing["layer"]})

    # -- prompts -------------------------------------------------------------------------------------------------

    def call(self) -> dict[str, Any]:
        """The arguments of a forward call with the image."""
        ids = self.prompt(len(self.map))
        types = {} if self.shape.clip else {"mm_token_type_ids": (ids == IMAGE_TOKEN).int()}  # for M-RoPE
        return {"input_ids": ids, **self.vision, **types}

    def prompt(self, images: int) -> Tensor:
        """(1, L) ids with `images` visual tokens in the middle."""
        half = self.shape.prompt // 2
        row = [1, *[10] * (half - 1), *[IMAGE_TOKEN] * images, *[11] * (self.shape.prompt - half)]
        return torch.tensor([row], device=self.model.device)


def _kind(index: int, full: tuple[int, ...]) -> str:
    return "full block" if index in full else "block"


def _extended(timing: dict[str, Timing], base: str, name: str, missing: dict[str, int]) -> Timing:
    rounds = range(len(timing[base].seconds))
    return Timing(
        tuple(
            timing[base].seconds[i] + sum(n * timing[f"{name}/{kind}"].seconds[i] for kind, n in missing.items() if n)
            for i in rounds
        )
    )
