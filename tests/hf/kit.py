"""Shared test kit: tiny random models, prompts built without any processor, and a reference built token by token.

A new family is one :class:`Case`: how to build a model, what an image looks like to it, and which ids stand for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor

from gridprune.core.token_map import TokenMap
from gridprune.methods.base import Cues, Method, Selection

PAD, IMAGE, VIDEO, VOCABULARY = 0, 100, 101, 128
TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "pad_token_id": PAD,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


@dataclass(frozen=True)
class Sample:
    """A random image.

    Attributes:
        size: height and width in pixels, or what else the family counts by (see its case).
        seed: decides the pixels.
        frames: frames of a video; 0 for a still image.
    """

    size: tuple[int, int]
    seed: int = 0
    frames: int = 0

    def pixels(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=torch.Generator().manual_seed(self.seed + 7))


Row = Sequence[int | Sample]


@dataclass(frozen=True, eq=False)
class Case:
    """One row of the matrix.

    Attributes:
        build: a fresh random model.
        tokens: the ids that stand for an image, separators included.
        vision: the vision arguments for the images of each row.
        sizes: image sizes to test with, different token counts first if the family has them.
        extras: further arguments along the prompt, from the ids.
        frames: frames of the videos this case is about; 0 for still images.
        placeholder: the id that stands for a visual token.
        reference: further arguments of the reference call, from what was written out.
        run: the reference call itself, for models whose forward cannot take all that `inputs_embeds` leave out.
    """

    name: str
    build: Callable[[], Any]
    tokens: Callable[[Sample], list[int]]
    vision: Callable[[list[list[Sample]]], dict[str, Any]]
    sizes: tuple[tuple[int, int], ...]
    extras: Callable[[Tensor], dict[str, Tensor]] = lambda ids: {}
    frames: int = 0
    placeholder: int = IMAGE
    reference: Callable[[Any, Row, Written], dict[str, Any]] | None = None
    run: Callable[[Any, Case, Row, Written, Sequence[Tensor], dict[str, Any]], Any] | None = None

    def image(self, number: int) -> Sample:
        return Sample(self.sizes[number % len(self.sizes)], seed=number, frames=self.frames)

    def ids(self, row: Row) -> list[int]:
        return [token for item in row for token in ([item] if isinstance(item, int) else self.tokens(item))]

    def call(self, *rows: Row, right: bool = False) -> dict[str, Any]:
        """Arguments of a model call; rows are padded on the left."""
        ids = [self.ids(row) for row in rows]
        longest = max(len(row) for row in ids)
        pads = [[PAD] * (longest - len(row)) for row in ids]
        real = [[1] * len(row) for row in ids]
        padded = torch.tensor([i + p if right else p + i for i, p in zip(ids, pads)])
        mask = torch.tensor([r + p if right else p + r for r, p in zip(real, pads)])
        images = [[item for item in row if isinstance(item, Sample)] for row in rows]
        vision = self.vision(images) if any(images) else {}
        return {"input_ids": padded, "attention_mask": mask, **vision, **self.extras(padded)}

    def features(self, model: Any, images: Sequence[Sample]) -> list[Tensor]:
        """Per image the embeddings that the model's own encoder gives, (n, D)."""
        if not images:
            return []
        counts = [self.tokens(image).count(self.placeholder) for image in images]
        return list(torch.cat(self._flat(self._encoded(model, images).pooler_output)).split(counts))

    def _encoded(self, model: Any, images: Sequence[Sample]) -> Any:
        encoder = model.model.get_video_features if self.frames else model.model.get_image_features
        return encoder(**self.vision([list(images)]), return_dict=True)

    @staticmethod
    def _flat(pooled: Any) -> list[Tensor]:
        return [part.reshape(-1, part.shape[-1]) for part in pooled]


@dataclass(frozen=True, kw_only=True)
class Uneven(Method):
    """Keeps a number of tokens that depends on the image: what merging of uneven budgets is tested with."""

    salt: int = 0

    name: ClassVar[str] = "uneven"
    fixed_count: ClassVar[bool] = False

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"features"})

    def count(self, cues: Cues, token_map: TokenMap) -> int:
        loudest = int(cues.require("features").float().pow(2).sum(-1).argmax())
        return 1 + (3 * loudest + 1 + self.salt) % (len(token_map) - 1)

    def select(self, cues: Cues, token_map: TokenMap, k: int) -> Selection:
        scores = cues.require("features").float().pow(2).sum(-1)
        return Selection(scores.topk(k, dim=1).indices.sort(dim=1).values)


@lru_cache(maxsize=2)
def model(case: Case) -> Any:
    """The case's model; tests must leave it as it was."""
    torch.manual_seed(0)
    with torch.device("cpu"):  # it is kept for other tests, whatever the default of the one that asks first
        built = case.build().eval()
    built.generation_config.eos_token_id = None
    built.generation_config.pad_token_id = PAD
    built.config.eos_token_id = None
    for parameter in built.parameters():  # lively logits, so that ties and near-ties cannot hide a mistake
        if parameter.dim() > 1:
            parameter.data.normal_(0, 0.3, generator=torch.Generator().manual_seed(parameter.numel()))
    built.get_output_embeddings().weight.data[IMAGE : IMAGE + 20] = 0  # nothing but text is ever generated
    return built


@dataclass
class Written:
    """A prompt of kept tokens, written out one by one: (n, D) embeddings, original columns, ids, and which image."""

    embeddings: list[Tensor] = field(default_factory=list)
    columns: list[int] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    visual: list[tuple[int, int] | None] = field(default_factory=list)


def write(case: Case, net: Any, row: Row, masks: Sequence[Tensor]) -> Written:
    """The kept tokens of one row, token by token.

    Args:
        masks: per image of the row (n,) bool, which of its tokens stay.
    """
    images = [item for item in row if isinstance(item, Sample)]
    features = case.features(net, images)
    table = net.get_input_embeddings()
    out, column, number = Written(), 0, 0
    for item in row:
        if isinstance(item, int):
            _append(out, table(torch.tensor(item)), column, item, None)
            column += 1
            continue
        place = 0
        for token in case.tokens(item):
            if token != case.placeholder:
                _append(out, table(torch.tensor(token)), column, token, None)
            else:
                if bool(masks[number][place]):
                    _append(out, features[number][place], column, token, (number, place))
                place += 1
            column += 1
        number += 1
    return out


def _append(out: Written, embedding: Tensor, column: int, token: int, visual: tuple[int, int] | None) -> None:
    out.embeddings.append(embedding)
    out.columns.append(column)
    out.ids.append(token)
    out.visual.append(visual)


@torch.no_grad()
def reference(
    case: Case, net: Any, row: Row, masks: Sequence[Tensor], *, positions: str = "contiguous", **arguments: Any
) -> Any:
    """The model's output on the kept tokens of one row, through `inputs_embeds` and nothing of gridprune's."""
    written = write(case, net, row, masks)
    call: dict[str, Any] = {"inputs_embeds": torch.stack(written.embeddings)[None]}
    ids = torch.tensor([written.ids])
    if positions == "original":
        call["position_ids"] = torch.tensor([written.columns])
        call["attention_mask"] = torch.ones_like(ids)
    if case.reference is not None:
        call |= case.reference(net, row, written)
    if case.run is not None:
        return case.run(net, case, row, written, masks, {**call, **arguments})
    return net(**call, **arguments)


def in_full(case: Case, net: Any, row: Row, masks: Sequence[Tensor], values: Tensor) -> Tensor:
    """(B, L, ...) from values of the kept tokens (B, W, ...): at a dropped column what stands at the last one before it
    that was kept, and nothing before the first."""
    columns, found = write(case, net, row, masks).columns, []
    for column in range(len(case.ids(row))):
        before = [i for i, kept in enumerate(columns) if kept <= column]
        found.append(values[:, before[-1]] if before else torch.zeros_like(values[:, 0]))
    return torch.stack(found, dim=1)


def shuffled(text: int, count: int = 5) -> list[int]:
    """A few different text ids."""
    return [10 + (text * 17 + 7 * i) % 80 for i in range(count)]


def variant(case: Case, **changes: Any) -> Case:
    return replace(case, **changes)
