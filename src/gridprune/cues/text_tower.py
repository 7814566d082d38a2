"""The text half of a vision tower: what CLIP's and SigLIP's have in common, and loading what a checkpoint holds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..core.graphs import Graphs, fingerprint
from ..core.reading import READINGS, Reading
from ..errors import CheckpointError, SettingError
from .notes import NOTES_FILE, note, notes
from .question import split_words

CLIP_TEXT = "CLIP text tower"
SIGLIP_TEXT = "SigLIP text tower"
_CACHE_SIZE = 256


class TextTower(ABC):
    """Embeds questions, and patches of the vision tower it was trained with, in one space.

    Attributes:
        source: what kind of text tower it is, in words; a family says which kind its vision tower has.
        text_model: the tower.
        tokenizer: its tokenizer.
        reading: which end of the cosine means "relevant" with this tower (:func:`gridprune.core.reading.read`).
    """

    source: ClassVar[str]
    pooled: ClassVar[str]  # what the tower calls the embedding of a text

    def __init__(self, text_model: Any, tokenizer: Any, reading: Reading) -> None:
        if reading not in READINGS:
            raise SettingError(f"reading must be one of {', '.join(READINGS)}, got {reading!r}.")
        self.text_model = text_model.eval()
        self.tokenizer = tokenizer
        self.reading: Reading = reading
        self._graphs = Graphs()
        self._cache: OrderedDict[tuple[str, str], Tensor] = OrderedDict()

    @property
    @abstractmethod
    def patch_width(self) -> int:
        """Width C of the vision tower this text side belongs to."""

    @abstractmethod
    def tokens(self, segments: list[str]) -> dict[str, Tensor]:
        """Arguments of the tower, (S, L) on the CPU; where the tower is recorded, of few different lengths L."""

    @abstractmethod
    def word_states(self, question: str) -> tuple[list[int], Tensor]:
        """The ids of a question, special ones included, and (T, E) embeddings of them all, cut to the context."""

    @abstractmethod
    def embed_patches(self, states: Tensor, post_norm: nn.Module | None) -> Tensor:
        """(..., E) embeddings of patch states (..., C)."""

    @property
    @abstractmethod
    def patch_weights(self) -> Sequence[nn.Module | Tensor]:
        """What :meth:`embed_patches` reads."""

    @property
    def context(self) -> int:
        """Tokens the text tower takes at once, special ones included."""
        return int(self.text_model.config.max_position_embeddings)

    @property
    def device(self) -> torch.device:
        return next(self.text_model.parameters()).device

    @torch.no_grad()
    def embed(self, question: str) -> Tensor:
        """(E,) fp32: the mean of the unit embeddings of the question's segments.

        A question that fits the context is one segment. A longer one is cut into as few runs of words as fit, each with
        its own special tokens; since the cosine is linear in the unit text embedding, the dot product with this mean is
        the mean of the segments' cosines. Embeddings are cached, so a question asked of many images costs one pass.
        """
        return self._remembered("mean", question, self._embed)

    def _embed(self, question: str) -> Tensor:
        return nn.functional.normalize(self.embed_segments(self._segments(question)).float(), dim=-1).mean(0)

    def embed_segments(self, segments: list[str]) -> Tensor:
        """(S, E) embeddings of texts that fit the context; on a GPU one CUDA graph for each length."""
        given = {name: value.to(self.device) for name, value in self.tokens(segments).items()}
        return self._graphs.run(  # type: ignore[no-any-return]
            fingerprint(self.text_model), partial(_read, self.text_model, self.pooled), given
        )

    @torch.no_grad()
    def embed_words(self, question: str) -> Tensor:
        """(T, E) fp32 unit embeddings of the question's own tokens (none special, no padding), cut to the context."""
        return self._remembered("words", question, lambda asked: self.own_words(*self.word_states(asked)))

    def _remembered(self, what: str, question: str, embed: Callable[[str], Tensor]) -> Tensor:
        key = what, question
        if key not in self._cache:
            self._cache[key] = embed(question)
            while len(self._cache) > _CACHE_SIZE:
                self._cache.popitem(last=False)
        return self._cache[key]

    def _segments(self, question: str) -> list[str]:
        parts = 1
        while True:
            segments = list(split_words(question, parts)) or [question]
            lengths = [len(ids) for ids in self.tokenizer(segments)["input_ids"]]
            if max(lengths) <= self.context or parts >= len(question.split()):
                return segments
            parts += 1

    @torch.no_grad()
    def project_patches(self, states: Tensor, post_norm: nn.Module | None) -> Tensor:
        """(..., E) fp32 unit embeddings of patch states (..., C).

        Args:
            post_norm: the norm behind the last block of the model's tower.

        Raises:
            CheckpointError: the states have another width than this side's vision tower.
        """
        if states.shape[-1] != self.patch_width:
            raise CheckpointError(
                f"This text side belongs to a vision tower of width {self.patch_width}, but the model's tower has "
                f"width {states.shape[-1]}. Give the checkpoint that the model's vision tower was taken from."
            )
        if post_norm is not None:  # a tower that ran under autocast leaves another dtype than its norm takes
            states = states.to(next(post_norm.parameters()).dtype)
        return nn.functional.normalize(self.embed_patches(states, post_norm).float(), dim=-1)

    def own_words(self, ids: list[int], states: Tensor) -> Tensor:
        """Unit rows of `states` (T, E) without special tokens and padding; all if there are only such."""
        mask = self.tokenizer.get_special_tokens_mask(ids, already_has_special_tokens=True)
        own = [i for i, special in enumerate(mask) if not special] or list(range(len(mask)))
        return nn.functional.normalize(states[torch.tensor(own, device=states.device)].float(), dim=-1)

    def forget(self) -> None:
        """Drop the embeddings cached so far."""
        self._cache.clear()

    def to(self, device: torch.device | str) -> TextTower:
        """Move the text tower; embeddings cached so far are dropped."""
        self.text_model.to(device)
        self.forget()
        return self


def _read(text_model: Any, pooled: str, given: dict[str, Tensor]) -> Tensor:
    return getattr(text_model(**given), pooled)  # type: ignore[no-any-return]


def stored_reading(folder: Path, default: Reading) -> Reading:
    """The reading of relevance noted beside a checkpoint.

    Raises:
        CheckpointError: what is noted there is none.
    """
    noted = notes(folder)
    found = noted.get("reading", noted.get("relevance_sign", default))  # the second is of checkouts before 0.1.0
    if found not in READINGS:
        raise CheckpointError(
            f'{folder / NOTES_FILE} has {found!r} for "reading"; it must be one of {", ".join(READINGS)}. '
            "`gridprune sign --write` measures and stores it."
        )
    return found  # type: ignore[no-any-return]


def store_reading(folder: Path, reading: Reading) -> Path:
    """Note the reading of relevance beside a checkpoint, keeping whatever else its `gridprune.json` holds."""
    return note(folder, reading=reading, relevance_sign=None)
