"""What a family is: everything gridprune must know about one kind of model, and nothing about any method.

A family finds the images in a call, runs the model's *own* encoder on them, says where each visual token lies, and
hands shortened features back in the container the model expects. A new family is one file with one subclass.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..core.token_map import TokenMap
from ..cues.first_layer import FirstAttention, find_first_attention, stored_head_weights
from ..cues.text_tower import CLIP_TEXT as CLIP_TEXT  # re-exported for families
from ..cues.tower import Captured, Tower, find_clip_tower
from ..errors import MissingCueError, UnsupportedCallError, UnsupportedModelError
from .limits import CHUNKED_PREFILL, SPLIT_IMAGES, Limit
from .parts import CropBatch, TowerLayout
from .spans import placeholder_runs

EMBEDDINGS = "the language model's input embeddings"


@dataclass(eq=False)
class Encoded:
    """The images of one call after the model's own encoder, in prompt order.

    Attributes:
        output: what `get_image_features` returned.
        embeddings: per image (n, D), projected, separators included.
        maps: per image the geometry of these n tokens.
        parts: how captured tower tensors are cut into images.
        captured: what was read from the tower.
        vision: the arguments they were encoded from.
    """

    output: Any
    embeddings: list[Tensor]
    maps: list[TokenMap]
    parts: TowerLayout
    captured: Captured
    vision: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class ImageSpan:
    """Where an image's tokens stand in the prompt: row of the batch, columns (n,), and their geometry."""

    row: int
    columns: Tensor
    token_map: TokenMap


class Family(ABC):
    """One kind of model and one modality, bound to one loaded model.

    Declared by a subclass:
        name, classes: what it is called, and the model classes it serves.
        pixel_keys: arguments that hold pixels; their presence means there are images.
        layout_keys: further arguments with one entry per image on the first axis.
        option_keys: further arguments that go to the encoder as they are.
        relevance: where text relevance comes from, `CLIP_TEXT` or `EMBEDDINGS`.
        text_tower: the kind of text tower that the vision tower was trained with and that may be given; "" for none.
        modality: the key in `mm_encoder_outputs`.
        dense: whether the model wants the features as one tensor and not as a list.
        vision_models: `model_type`s of vision configs that this family serves, if it shares classes with another.
        first_position: position of a prompt's first token in a direct forward call.
        video: whether videos are pruned as well.
        one_size: whether all that its encoder sees has one size, and nothing in it reads values: it can be recorded
            as a CUDA graph for every number of crops.
        limits: ways of calling that the stock model cannot answer rightly (named at the top of this file), and why.
    """

    name: ClassVar[str]
    classes: ClassVar[tuple[str, ...]]
    pixel_keys: ClassVar[tuple[str, ...]] = ("pixel_values",)
    layout_keys: ClassVar[tuple[str, ...]] = ()
    option_keys: ClassVar[tuple[str, ...]] = ()
    relevance: ClassVar[str] = EMBEDDINGS
    text_tower: ClassVar[str] = ""
    modality: ClassVar[str] = "image"
    vision_models: ClassVar[tuple[str, ...]] = ()
    dense: ClassVar[bool] = False
    first_position: ClassVar[int] = 0
    video: ClassVar[bool] = False
    one_size: ClassVar[bool] = False
    limits: ClassVar[Mapping[str, Limit]] = {CHUNKED_PREFILL: SPLIT_IMAGES}

    def __init__(self, model: Any) -> None:
        self.model = model

    @classmethod
    def serves(cls, model: Any) -> bool:
        """Whether this family knows the model, by the names of its classes and the kind of its vision tower."""
        if not {parent.__name__ for parent in type(model).__mro__} & set(cls.classes):
            return False
        kind = getattr(getattr(model.config, "vision_config", None), "model_type", None)
        return not cls.vision_models or kind in cls.vision_models

    # -- the model -----------------------------------------------------------------------------------------------

    @property
    def base(self) -> Any:
        """The model without its language-modelling head."""
        return self.model.model

    @property
    def vision_config(self) -> Any:
        """The configuration of the vision tower."""
        return self.model.config.vision_config

    @property
    def placeholder(self) -> int:
        """The id that stands for one visual token in `input_ids`."""
        return int(getattr(self.model.config, f"{self.modality}_token_id"))

    @property
    def window(self) -> int | None:
        """How many of the last tokens some layers of the language model see; None if all layers see all of them."""
        text = self.model.config.get_text_config()
        kinds = getattr(text, "layer_types", None)
        return getattr(text, "sliding_window", None) if kinds is None or "sliding_attention" in kinds else None

    @property
    def streams(self) -> list[Family]:
        """This family for each modality of the model: images, and videos if it has them."""
        return [self]

    @cached_property
    def tower(self) -> Tower:
        """The vision tower's reader; raises UnsupportedModelError if the tower cannot be read."""
        return find_clip_tower(self.base.vision_tower)

    @property
    def feature_block(self) -> int:
        """Index of the tower block whose output the projector reads."""
        return block_of_layer(self.tower, single_layer(self.model))

    @cached_property
    def first_attention(self) -> FirstAttention:
        """The language model's first attention layer; raises UnsupportedModelError if it has none that can be read."""
        return find_first_attention(self.base.get_decoder())

    @cached_property
    def head_weights(self) -> tuple[float, ...] | None:
        """Weights of its query heads, from `gridprune calibrate`; raises CheckpointError if they are for another."""
        return stored_head_weights(self.model.config, self.first_attention.heads)

    # -- the images of a call ----------------------------------------------------------------------------------

    @property
    def vision_keys(self) -> tuple[str, ...]:
        """All arguments that go to the encoder."""
        return (*self.pixel_keys, *self.layout_keys, *self.option_keys)

    def vision(self, call: dict[str, Any]) -> dict[str, Any] | None:
        """The vision arguments of a call; None if it has no pixels of this modality."""
        if all(call.get(key) is None for key in self.pixel_keys):
            return None
        return {key: call[key] for key in self.vision_keys if call.get(key) is not None}

    def take_images(self, vision: dict[str, Any], indices: Sequence[int]) -> dict[str, Any]:
        """The same vision arguments for some of the images."""
        per_image = (*self.pixel_keys, *self.layout_keys)
        return {key: value[list(indices)] if key in per_image else value for key, value in vision.items()}

    def take_places(self, vision: dict[str, Any], places: list[ImageSpan], new: list[int]) -> dict[str, Any]:
        """The vision arguments of the images `new` among `places`."""
        return self.take_images(vision, new)

    @abstractmethod
    def token_maps(self, vision: dict[str, Any]) -> list[TokenMap]:
        """Geometry of every image's tokens, without running the tower.

        Of every tile's, where only the prompt tells which tiles are one image: :meth:`places` has the images.
        """

    def locate(self, ids: Tensor, vision: dict[str, Any]) -> list[ImageSpan] | None:
        """Each image's place in `ids` (B, L) on the CPU; None if they do not hold exactly the images' tokens."""
        maps = self.token_maps(vision)
        runs = placeholder_runs(ids, self.placeholder, [len(token_map) for token_map in maps])
        return None if runs is None else [ImageSpan(*run, token_map) for run, token_map in zip(runs, maps)]

    def places(self, ids: Tensor, vision: dict[str, Any]) -> list[ImageSpan]:
        """Each image's place in `ids` (B, L) on the CPU.

        Raises:
            UnsupportedCallError: the prompt does not hold exactly the placeholders that the images need.
        """
        found = self.locate(ids, vision)
        if found is None:
            raise UnsupportedCallError(
                f"The prompt holds {int((ids == self.placeholder).sum())} {self.modality} placeholder tokens, which is "
                f"not what the {self.modality}s given with it need. Build the prompt with the model's processor, "
                f"and give it every image that the prompt names."
            )
        return found

    # -- encoding ------------------------------------------------------------------------------------------------

    def encode(self, vision: dict[str, Any], maps: list[TokenMap], read: Blocks) -> Encoded:
        """Run the model's own encoder once, reading the tower's blocks that `read` names."""
        with self.reading(read, self.last_block(vision)) as captured:
            output = self.features(vision)
        return Encoded(output, self.embeddings(output, maps), maps, self.parts(vision, maps), captured, vision)

    @property
    def encoder_parts(self) -> list[nn.Module | Tensor]:
        """Whose weights :meth:`encode` reads: everything in front of the language model."""
        decoder = self.base.get_decoder()
        own = [each for each in self.base._parameters.values() if each is not None]
        return [*own, *(part for part in self.base.children() if part is not decoder)]

    def last_block(self, vision: dict[str, Any]) -> int | None:
        """The last tower block whose output anybody reads, where that is known; those behind it need not run."""
        return None

    def reading(self, read: Blocks, last: int | None = None) -> Any:
        """The tower's `reading` context; a tower that need not be read is not looked for, nor touched."""
        if not read.states and not read.attention:
            return nullcontext(Captured())
        return self.tower.reading(states=read.states, attention=read.attention, last=last)

    def features(self, vision: dict[str, Any]) -> Any:
        """What the model's own encoder returns."""
        return getattr(self.base, f"get_{self.modality}_features")(**vision, return_dict=True)

    def embeddings(self, output: Any, maps: list[TokenMap]) -> list[Tensor]:
        """Per image (n, D) out of an encoder output."""
        parts, lengths = list(output.pooler_output), [len(token_map) for token_map in maps]
        if [part.shape[:-1] for part in parts] == [(length,) for length in lengths]:
            return parts
        flat = torch.cat([part.reshape(-1, part.shape[-1]) for part in parts])
        return list(torch.split(flat, lengths))

    def parts(self, vision: dict[str, Any], maps: list[TokenMap]) -> TowerLayout:
        """How the tower's tensors are cut into images."""
        return CropBatch([1] * len(maps), self.prefix)

    @property
    def prefix(self) -> int:
        """Tokens in front of a crop's patches in the tower."""
        return self.tower.prefix

    def project(self, tower_features: Tensor) -> Tensor:
        """The model's projector on one image's patch states (P, C): (n, D) tokens.

        Raises:
            UnsupportedCallError: this family's projector cannot be run on merged patches.
        """
        raise UnsupportedCallError(
            f"The projector of {self.name} fuses neighbouring patches, so methods that merge before it cannot "
            f"run here. Methods that merge projected embeddings, or only drop tokens, can."
        )

    def handed_on(self, encoded: Encoded, kept: list[Tensor], masks: list[Tensor], rows: Sequence[int]) -> Any:
        """An encoder output with only the kept tokens, for `mm_encoder_outputs`.

        One entry per row of the batch, not per image: so `generate` repeats them rightly for beams and samples,
        which transformers before 5.19 does not do for several images in a row.

        Args:
            kept: per image (k, D).
            masks: per image (n,) bool.
            rows: the row each image stands in.
        """
        return type(encoded.output)(pooler_output=by_row(kept, rows))

    def packed(self, output: Any) -> Any:
        """The output that a forward call takes: lists become one tensor for models that want one."""
        if not self.dense or not isinstance(output.pooler_output, (list, tuple)):
            return output
        return type(output)(pooler_output=torch.cat(list(output.pooler_output))[None])

    def crops(self, vision: dict[str, Any]) -> Tensor:
        """The pixels of all crops in the order the tower sees them, (V, 3, H, W).

        Raises:
            MissingCueError: the tower does not see crops of one size.
        """
        raise MissingCueError(
            f"The cue 'laplacian' is read off crops of one size, which {self.name} does not have. Use a method "
            f"that needs no image structure, or take it from features: S2Prune(structure='features')."
        )

    def image(self, vision: dict[str, Any], maps: Sequence[TokenMap], index: int) -> Tensor:
        """The pixels the tower saw as the whole of image `index`, normalised as the processor did it.

        (3, H, W), or (T, 3, H, W) for a video, whose tokens count T frames.

        Args:
            maps: the geometry of all images of the call.
        """
        return vision[self.pixel_keys[0]][index].detach()  # type: ignore[no-any-return]

    # -- positions -----------------------------------------------------------------------------------------------

    def rope(
        self, call: dict[str, Any], ids: Tensor, mask: Tensor | None, types: Tensor
    ) -> tuple[Tensor, Tensor] | None:
        """Positions (3, B, L) and the next free one (B, 1) for models with M-RoPE; None for models that count 0, 1, 2.

        Args:
            call: all arguments of the call.
            ids: (B, L), the part of the prompt that no cache holds.
            mask: (B, L), 0 where that part is padding; None if it has none.
            types: (B, L), each of its tokens' modality (0 is text).
        """
        return None

    def token_types(self, ids: Tensor) -> Tensor:
        """Each token's modality, for models with M-RoPE: 0 text, 1 image, 2 video."""
        types = torch.zeros_like(ids)
        for stream in self.streams:
            types = types.masked_fill(ids == stream.placeholder, 2 if stream.modality == "video" else 1)
        return types

    # -- for people ----------------------------------------------------------------------------------------------

    @classmethod
    def saliency_source(cls) -> str:
        """Where saliency comes from, in words."""
        return "[CLS] attention of the penultimate block" if cls.relevance == CLIP_TEXT else "attention received"


@dataclass(frozen=True)
class Blocks:
    """Tower blocks to read: those whose output, and those whose queries and keys are wanted."""

    states: frozenset[int] = frozenset()
    attention: frozenset[int] = frozenset()

    def __or__(self, other: Blocks) -> Blocks:
        return Blocks(self.states | other.states, self.attention | other.attention)

    def __le__(self, other: Blocks) -> bool:
        return self.states <= other.states and self.attention <= other.attention


def by_row(values: Sequence[Tensor], rows: Sequence[int]) -> list[Tensor]:
    """What belongs to one row of the batch, joined; `rows` ascend."""
    found: dict[int, list[Tensor]] = {}
    for value, row in zip(values, rows):
        found.setdefault(row, []).append(value)
    return [torch.cat(parts) if len(parts) > 1 else parts[0] for parts in found.values()]


def single_layer(model: Any) -> int:
    """`vision_feature_layer` if it is one layer.

    Raises:
        UnsupportedModelError: features of several layers have no single patch state.
    """
    layer = getattr(model.config, "vision_feature_layer", -1)
    if not isinstance(layer, int):
        raise UnsupportedModelError(
            f"vision_feature_layer is {layer!r}: features of several layers have no single patch state. Methods that "
            "need relevance of a CLIP text tower or tower features cannot run on this model."
        )
    return layer


def block_of_layer(tower: Tower, layer: int) -> int:
    """The block whose output is `hidden_states[layer]`; hidden_states[0] is the embedding."""
    return tower.block(layer - 1 if layer > 0 else layer)


def embedding_table(model: nn.Module) -> nn.Module:
    """The module that embeds text ids."""
    return model.get_input_embeddings()  # type: ignore[operator, no-any-return]


def as_sizes(image_sizes: Any) -> Tensor:
    """(images, 2) int64 of H, W on the CPU, from the forms a processor may return."""
    return torch.as_tensor(image_sizes, device="cpu").reshape(-1, 2).long()
