"""The control beside the methods: a smaller image instead of fewer tokens of a large one. Nothing is pruned."""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar

import torch
from PIL.Image import Image, Resampling
from PIL.Image import new as blank
from torch import Tensor

from ..core.budget import Budget
from ..core.token_map import TokenMap
from ..errors import BudgetError, UnsupportedCallError
from ..families.base import Family
from ..methods.base import Cues, Method, Selection
from ..methods.ops.cells import cell_centres
from ..runtime.ask import Loaded, looked_at, prepare
from .evidence import seen_part

_SHORTEST = 28  # pixels of the shorter side of an image; some processors take none that is smaller


@dataclass(frozen=True, kw_only=True)
class Downsample(Method):
    """The image is made smaller before the checkpoint's own processor, so that it has at most k visual tokens.

    The control that many published pruners fail to beat on dynamic-resolution models (VTC-Bench,
    https://arxiv.org/abs/2510.07143). It chooses nothing: runs ask for :func:`smaller`.
    """

    name: ClassVar[str] = "downsample"
    paper: ClassVar[str] = "https://arxiv.org/abs/2510.07143"
    fixed_count: ClassVar[bool] = False
    shrinks_image: ClassVar[bool] = True
    cost: ClassVar[str] = "less than none: the tower sees fewer patches"

    def select(self, cues: Cues, token_map: TokenMap, k: int) -> Selection:
        raise UnsupportedCallError("'downsample' chooses no tokens: give a smaller image instead, and do not prune.")


def shrinks_image(method: Method) -> bool:
    """Whether the runner must give a smaller image and prune nothing."""
    return bool(getattr(method, "shrinks_image", False))


@dataclass(frozen=True, eq=False)
class Smaller:
    """A prompt about a smaller image: arguments of the model and of its encoder, and how many visual tokens."""

    inputs: Any
    vision: dict[str, Any]
    tokens: int

    def centres(self, token_map: TokenMap) -> Tensor:
        """(tokens,) int64: where its tokens lie among those of the whole image, the centres of as many equal cells."""
        zones = token_map.cells(self.tokens)
        return cell_centres(token_map, zones.index, zones.size)

    @torch.no_grad()
    def features(self, family: Family) -> Tensor:
        """(n, D) visual embeddings in prompt order, separators included."""
        return torch.cat([part.flatten(0, -2) for part in family.features(self.vision).pooler_output])

    @torch.no_grad()
    def call(self, family: Family) -> dict[str, Any]:
        """The arguments of `generate`, the image encoded: a model need not hand all of `vision` on to its encoder."""
        words = {key: value for key, value in self.inputs.items() if key not in family.pixel_keys}
        return {**words, "mm_encoder_outputs": {family.modality: family.features(self.vision)}}


def smaller(loaded: Loaded, family: Family, image: Image, question: str, budget: Budget) -> Smaller:
    """Scale the image down until the checkpoint's processor makes no more tokens of it than the budget allows.

    A processor that brings all images to one size, such as that of LLaVA-1.5, is told not to: the part of the image
    that the tower sees is resized to a grid of its patches (:func:`grid_of`), and the tower interpolates its position
    embeddings, as transformers does it.

    Raises:
        BudgetError: the budget is larger than the number of the image's tokens.
        UnsupportedCallError: the model takes no image that small.
    """
    found = whole = _prepared(loaded, family, image, question)
    most, scale = budget.resolve(whole.tokens), 1.0
    if most < whole.tokens and _takes_one_size(loaded, family, image, question, whole.tokens):
        return _patches(loaded, family, image, question, whole, most)
    while found.tokens > most:
        scale *= min(0.97, math.sqrt(most / found.tokens))
        size = round(image.width * scale), round(image.height * scale)
        if min(size) < _SHORTEST:
            raise _too_large(family, found.tokens)
        found = _prepared(loaded, family, image.resize(size, Resampling.BILINEAR), question)
    return found


def check(loaded: Loaded, family: Family, methods: Iterable[Method]) -> None:
    """Refuse, as :func:`smaller` does, budgets that no image can be made small enough for."""
    for method in filter(shrinks_image, methods):
        with suppress(BudgetError):  # this image is too small for the budget, others need not be
            smaller(loaded, family, blank("RGB", (448, 448)), "?", method.budget)


def grid_of(rows: int, columns: int, k: int) -> tuple[int, int]:
    """The grid r x c inside rows x columns with the most tokens, k at most; of these, of the nearest aspect ratio."""
    most = max(r * min(columns, k // r) for r in range(1, min(rows, k) + 1))
    fitting = [(r, most // r) for r in range(1, rows + 1) if most % r == 0 and most // r <= columns]
    wanted = Fraction(rows, columns)
    return min(fitting, key=lambda rc: (max(Fraction(*rc) / wanted, wanted / Fraction(*rc)), rc))


def _prepared(loaded: Loaded, family: Family, image: Image, question: str) -> Smaller:
    inputs = prepare(loaded, image, question)
    vision, (token_map,) = looked_at(family, inputs)
    return Smaller(inputs, vision, len(token_map.candidates))


def _takes_one_size(loaded: Loaded, family: Family, image: Image, question: str, tokens: int) -> bool:
    """Whether half the image has as many tokens."""
    half = image.resize((max(image.width // 2, _SHORTEST), max(image.height // 2, _SHORTEST)))
    return _prepared(loaded, family, half, question).tokens == tokens


@dataclass(frozen=True)
class Patches:
    """A square tower's patches, fewer of them: what a processor that brings all images to one size is told instead.

    Attributes:
        rows, columns: patches of the smaller image.
        side: of a patch, in pixels.
    """

    rows: int
    columns: int
    side: int

    #: for the processor, and for the encoder
    AS_IT_IS: ClassVar[dict[str, bool]] = {"do_resize": False, "do_center_crop": False}
    ANY_SIZE: ClassVar[dict[str, bool]] = {"interpolate_pos_encoding": True}

    @classmethod
    def of(cls, loaded: Loaded, family: Family, budget: Budget) -> Patches:
        """For any image.

        Raises:
            BudgetError: the budget is larger than the number of an image's tokens.
            UnsupportedCallError: the processor does not bring images to one square size.
        """
        image = blank("RGB", (448, 448))
        whole = _prepared(loaded, family, image, "?")
        if not _takes_one_size(loaded, family, image, "?", whole.tokens):
            raise _too_large(family, whole.tokens)
        return cls._within(family, whole, budget.resolve(whole.tokens))

    @classmethod
    def _within(cls, family: Family, whole: Smaller, most: int) -> Patches:
        side = math.isqrt(whole.tokens)
        if side**2 != whole.tokens:
            raise _too_large(family, whole.tokens)
        return cls(*grid_of(side, side, most), whole.vision[family.pixel_keys[0]].shape[-1] // side)

    def cut(self, image: Image, processor: Any) -> Image:
        """The part of an image that the tower sees, as large as the patches."""
        part = seen_part(image.size, processor)
        left, top, right, bottom = (round(share * length) for share, length in zip(part, image.size * 2))
        size = self.columns * self.side, self.rows * self.side
        return image.crop((left, top, right, bottom)).resize(size, Resampling.BILINEAR)

    def prompt(self, family: Family, inputs: Any) -> Smaller:
        """The prompt about images that were cut, from what the processor made of them."""
        tokens = int((inputs["input_ids"] == family.placeholder).sum())
        vision = family.vision(dict(inputs)) or {}
        return Smaller(inputs, {**vision, **self.ANY_SIZE}, tokens)


def _patches(loaded: Loaded, family: Family, image: Image, question: str, whole: Smaller, most: int) -> Smaller:
    """The image in a square tower's patches, `most` at most."""
    patches = Patches._within(family, whole, most)
    inputs = prepare(loaded, patches.cut(image, loaded.processor), question, do_resize=False, do_center_crop=False)
    found = patches.prompt(family, inputs)
    if found.tokens != patches.rows * patches.columns:
        raise _too_large(family, whole.tokens)
    return found


def _too_large(family: Family, tokens: int) -> UnsupportedCallError:
    return UnsupportedCallError(
        f"{type(family.model).__name__} makes {tokens} visual tokens of an image, however small it is: leave "
        f"'downsample' out, or give --keep {tokens} or more."
    )
