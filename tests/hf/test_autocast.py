"""`torch.autocast` around a call: the model follows it, cues and decisions do not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from gridprune import GridPrune, families, prune
from gridprune.core.token_map import TokenMap
from gridprune.cues.siglip_text import SiglipText
from gridprune.cues.text_tower import CLIP_TEXT, SIGLIP_TEXT
from gridprune.errors import MissingCueError
from gridprune.methods.base import Cues, Method, Needs, Selection
from gridprune.selection.collect import TextSide, check_available, collect, wanted_blocks

from .kit import model, shuffled
from .models import LLAVA
from .test_cues import clip_text
from .test_siglip import siglip
from .words import tokenizer

BF16 = ("cpu", torch.bfloat16)
NEEDS = ("relevance", "word_relevance", "question_embeds", "saliency", "keys", "queries_cls", "tower_features")
ANY_TYPE = {"features", "tower_features", "keys", "queries_cls", "question_embeds"}  # as the model computed them


@dataclass(frozen=True, kw_only=True)
class Reads(Method):
    """Wants some cues."""

    wanted: frozenset[str] = frozenset()
    at: tuple[float, ...] = ()

    name: ClassVar[str] = "reads"

    @property
    def needs(self) -> frozenset[str]:
        return self.wanted

    @property
    def saliency_depths(self) -> tuple[float, ...]:
        return self.at

    def select(self, cues: Cues, token_map: TokenMap, k: int) -> Selection:
        raise AssertionError


def text_side(family) -> TextSide:
    made = {CLIP_TEXT: clip_text, SIGLIP_TEXT: lambda: SiglipText.from_model(siglip(), tokenizer())}
    return TextSide(made.get(family.text_tower, lambda: None)(), tokenizer())


def available(family, text, need) -> bool:
    try:
        check_available(family, Reads(wanted=frozenset({need})), text)
    except MissingCueError:
        return False
    return True


def test_cues_of_the_same_encoding_are_the_same(case, net):
    family = families.find(net)
    family = next(stream for stream in family.streams if (stream.modality == "video") == bool(case.frames))
    vision = family.vision(case.call([*shuffled(1), case.image(0)]))
    maps, text = family.token_maps(vision), text_side(family)
    method = Reads(wanted=frozenset(n for n in NEEDS if available(family, text, n)) | {"features"}, at=(0.5,))
    assert {"relevance", "saliency"} <= method.needs
    with torch.no_grad():
        with torch.autocast(*BF16):
            encoded = family.encode(vision, maps, wanted_blocks(family, Needs.of(method), TextSide()))
            found = collect(family, Needs.of(method), encoded, [0], ["what is red?"], text)
        afresh = text_side(family)  # towers remember what they embedded
        expected = collect(family, Needs.of(method), encoded, [0], ["what is red?"], afresh)
    values = {**expected.tensors(), "saliency_at": expected.saliency_at[0.5]}
    for name, value in {**found.tensors(), "saliency_at": found.saliency_at[0.5]}.items():
        assert torch.equal(value, values[name]), name
        assert value.dtype in (torch.float32, torch.bool) or name in ANY_TYPE


def test_questions_are_not_remembered_in_half(monkeypatch):
    """A text tower keeps what it embedded: not of a call under autocast for one without."""
    net, call = model(LLAVA), LLAVA.call([*shuffled(1), LLAVA.image(0), *shuffled(2)])
    found = []
    for first in (True, False):
        with torch.no_grad(), prune(net, GridPrune(keep=8), clip=clip_text(), question="What is red?") as pruning:
            with torch.autocast(*BF16, enabled=first):
                net(**call)
            net(**call)
        found.append(pruning.reports[-1].relevance)
    assert torch.equal(*found)
