"""What a family is: everything gridprune must know about one kind of model, and nothing about any method.

A family finds the pictures in a call, runs the model's *own* encoder on them, says where each visual token lies, and
hands shortened features back in the container the model expects. A new family is one file with one subclass.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..cues.tower import Captured, Tower
from ..errors import UnsupportedCallError
from ..token_map import TokenMap


@dataclass(eq=False)
class Encoded:
    """The pictures of one call after the model's own encoder, in prompt order.

    Attributes:
        output: what `get_image_features` returned.
        embeddings: per image (n_i, D), projected, separators included.
        maps: per image the geometry of these n_i tokens.
        views: per image the rows of the tower's batch that belong to it.
        captured: what the tower's hooks saw.
    """

    output: Any
    embeddings: list[Tensor]
    maps: list[TokenMap]
    views: list[slice]
    captured: Captured


class Family(ABC):
    """One kind of model, bound to one loaded model."""

    name: ClassVar[str]
    classes: ClassVar[tuple[str, ...]]
    vision_keys: ClassVar[tuple[str, ...]]
    saliency: ClassVar[str]
    relevance: ClassVar[str]
    video: ClassVar[bool] = False
    modality: ClassVar[str] = "image"

    def __init__(self, model: Any) -> None:
        self.model = model

    @property
    @abstractmethod
    def tower(self) -> Tower:
        """The vision tower's reader; raises UnsupportedModelError if its attention cannot be read."""

    @property
    @abstractmethod
    def feature_block(self) -> int:
        """Index of the tower block whose output the projector reads."""

    @property
    def image_token_id(self) -> int:
        """The placeholder that stands for one visual token in `input_ids`."""
        return int(self.model.config.image_token_id)

    @abstractmethod
    def count_images(self, vision: dict[str, Any]) -> int:
        """How many pictures the vision arguments of a call hold."""

    @abstractmethod
    def take_images(self, vision: dict[str, Any], indices: Sequence[int]) -> dict[str, Any]:
        """The same vision arguments for some of the pictures."""

    @abstractmethod
    def token_maps(self, vision: dict[str, Any]) -> list[TokenMap]:
        """Geometry of every picture's tokens, without running the tower."""

    @abstractmethod
    def encode(self, vision: dict[str, Any]) -> Encoded:
        """Run the model's own encoder once, with captures on."""

    @abstractmethod
    def project(self, tower_features: Tensor) -> Tensor:
        """The model's projector on (..., C) tower features: (..., D)."""

    @abstractmethod
    def handed_on(self, encoded: Encoded, kept: list[Tensor]) -> Any:
        """An encoder output that holds only the kept embeddings per image, for `mm_encoder_outputs`."""

    def encode_resized(self, vision: dict[str, Any], grid: tuple[int, int]) -> Encoded:
        """Every picture encoded at a native grid of r x c tokens; the maps stay those of the full prompt.

        Raises:
            UnsupportedCallError: this family cannot encode a smaller picture.
        """
        raise UnsupportedCallError(
            f"The family {self.name} cannot encode a smaller picture, so the baseline 'downsample' is not available."
        )

    def picture(self, vision: dict[str, Any], index: int) -> Tensor:
        """The pixels the tower saw as the whole of picture `index`: (3, H, W), normalised as the processor did it."""
        raise UnsupportedCallError(f"The family {self.name} cannot show the picture it saw; give `image=`.")

    def position_ids(self, call: dict[str, Any]) -> Tensor | None:
        """Positions of the unshortened prompt for models that do not count 0, 1, 2, ...; None for 1-D RoPE."""
        return None


def stack_output(output: Any, pooled: list[Tensor]) -> Any:
    """A light copy of an encoder output with another `pooler_output` and without the tower's hidden states."""
    return type(output)(last_hidden_state=None, pooler_output=pooled)


def as_sizes(image_sizes: Any) -> torch.Tensor:
    """(images, 2) int64 of H, W on the CPU, from the forms a processor may return."""
    return torch.as_tensor(image_sizes).reshape(-1, 2).cpu().long()
