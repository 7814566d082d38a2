"""The sentence of the library, once: encode the images, collect cues, let a method choose, gather what it keeps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..core.graphs import Graphs, fingerprint
from ..core.token_map import TokenMap
from ..cues.tower import Captured
from ..families.base import Blocks, Encoded, Family
from ..methods.base import Cues, Method, Needs, Selection
from ..methods.checks import Decision, checked_select, decide, deciding
from .collect import (
    Look,
    TextSide,
    check_available,
    collect,
    cues_of,
    may_be_recorded,
    read_modules,
    tower_features,
    wanted_blocks,
)
from .encoder_cache import EncoderCache


@dataclass(eq=False)
class Choice:
    """What was decided for one image: its row in a batched selection, the cues behind it, and the kept tokens."""

    selection: Selection
    cues: Cues
    row: int

    @property
    def kept(self) -> Tensor:
        """(k,) candidate indices on the CPU."""
        return self.selection.rows[self.row]


@dataclass(eq=False)
class Selector:
    """Chooses visual tokens of one modality of one loaded model, for any of the methods that `needs` was made of.

    Attributes:
        text: what questions are compared with images by.
        needs: what is read of the tower in one vision pass; a method may be given that needs less.
        cache: where to look for the encoder's output first.
        graphs: where decisions are recorded as CUDA graphs; None: they are not.
        accelerate: whether the encoder is recorded as well.
    """

    family: Family
    text: TextSide = field(default_factory=TextSide)
    needs: Needs = field(default_factory=Needs)
    cache: EncoderCache | None = None
    graphs: Graphs | None = None
    accelerate: bool = False

    @classmethod
    def of(cls, family: Family, text: TextSide, *methods: Method, **settings: Any) -> Selector:
        """A selector for these methods, with `cache`, `graphs` and `accelerate`.

        Raises:
            MissingCueError: one of them needs what this model cannot give; the message names the remedy.
            UnsupportedModelError: the tower is compiled and cannot be read.
        """
        for method in methods:
            check_available(family, method, text)
        return cls(family, text, Needs.of(*methods), **settings)

    def ask(self, method: Method, questions: Sequence[str]) -> None:
        """Let the text tower read questions it has not read, in front of the vision tower: copying ids to the device
        waits for all that was launched."""
        if self.text.clip is not None and "relevance" in method.needs and self.text.by_tower(self.family):
            with deciding(self.text.clip.device):
                for question in dict.fromkeys(filter(str.strip, questions)):
                    self.text.clip.embed(question)

    def encode(self, vision: dict[str, Any], maps: list[TokenMap] | None = None) -> Encoded:
        """One vision pass, or what is remembered of it.

        Args:
            maps: the images' geometry, for families that read it off the prompt.
        """
        own = self.family.token_maps(vision) if maps is None else maps
        read = wanted_blocks(self.family, self.needs, self.text)
        if self.cache is None:
            return self._encode(vision, own, read)
        return self.cache.encoded(self.family, vision, read, lambda blocks: self._encode(vision, own, blocks))

    def _encode(self, vision: dict[str, Any], maps: list[TokenMap], read: Blocks) -> Encoded:
        family, graphs = self.family, self.graphs
        if not self.accelerate or graphs is None or not family.one_size:
            return family.encode(vision, maps, read)
        tensors = {name: value for name, value in vision.items() if isinstance(value, Tensor)}
        pixels = tensors.get(family.pixel_keys[0])
        ready = pixels is not None and graphs.able(pixels.device)
        weights = fingerprint(*family.encoder_parts) if ready else None
        if weights is None:
            return family.encode(vision, maps, read)
        lengths = [len(token_map) for token_map in maps]
        others = {name: value for name, value in vision.items() if name not in tensors}
        key = ("encoder", family.modality, read, tuple(lengths), repr(others), weights)
        flat, captured, kind = graphs.run(key, partial(_encoded, family, maps, read, others), tensors)
        embeddings = list(flat.split(lengths))
        return Encoded(kind(pooler_output=embeddings), embeddings, maps, family.parts(vision, maps), captured, vision)

    def cues(
        self, encoded: Encoded, images: Sequence[int], questions: Sequence[str], needs: Needs | None = None
    ) -> Cues:
        """The cues of some images of one geometry, batched in that order; `needs` is a part of the selector's."""
        return collect(self.family, needs or self.needs, encoded, images, questions, self.text)

    def choose(
        self,
        method: Method,
        encoded: Encoded,
        questions: Sequence[str],
        counts: Sequence[int] | None = None,
        images: Sequence[int] | None = None,
    ) -> list[Choice]:
        """Run the method on images, those of one geometry in one batch, with one host synchronisation a batch.

        Args:
            questions: one per encoded image.
            counts: tokens to keep of each encoded image; None: the method decides.
            images: which of the encoded images to choose for, in this order; None: all.
        """
        result: dict[int, Choice] = {}
        images = range(len(encoded.maps)) if images is None else images
        for members in self._batches(method, encoded.maps, counts, images):
            k = None if counts is None else counts[members[0]]
            selection, cues = self._decide(method, encoded, members, [questions[i] for i in members], k)
            result.update({i: Choice(selection, cues, row) for row, i in enumerate(members)})
        return [result[i] for i in images]

    def _decide(
        self, method: Method, encoded: Encoded, members: list[int], questions: list[str], k: int | None
    ) -> tuple[Selection, Cues]:
        """The decision about images of one geometry: kernel by kernel, or as a graph where method and device allow."""
        needs, token_map, device = Needs.of(method), encoded.maps[members[0]], encoded.embeddings[0].device
        weights = None
        if self.graphs is not None and may_be_recorded(method) and len(members) == len(encoded.maps):
            with deciding(device):
                if self.graphs.able(device):
                    weights = fingerprint(*read_modules(self.family, needs, self.text))
        if self.graphs is None or weights is None:
            cues = self.cues(encoded, members, questions, needs)
            return checked_select(method, cues, token_map.candidates, k), cues
        with deciding(device):
            k = method.count(Cues(images=len(members)), token_map.candidates) if k is None else k
            method.check_count(token_map.candidates, k)
            look = Look.at(self.family, needs, encoded, members, questions, self.text)
            reading = self.text.clip and self.text.clip.reading
            key = (method, token_map.key, k, members[-1], repr(encoded.parts), reading, weights)
            work = partial(_decided, self.family, self.text, method, token_map, len(members), k)
            decision, cues = self.graphs.run(key, work, look)
            return decision.checked(method, len(members), len(token_map.candidates)), cues

    @staticmethod
    def _batches(
        method: Method, maps: Sequence[TokenMap], counts: Sequence[int] | None, images: Sequence[int]
    ) -> Iterator[list[int]]:
        """The images that can be selected from in one batch: of one geometry, and of one count."""
        groups: dict[object, list[int]] = {}
        for i in images:
            # Methods whose count depends on the image take one at a time.
            key = (maps[i].key, counts and counts[i]) if method.fixed_count else i
            groups.setdefault(key, []).append(i)
        yield from groups.values()

    def gather(self, encoded: Encoded, image: int, choice: Choice, mask: Tensor | None = None) -> Tensor:
        """The kept embeddings (n_kept, D) of one image in prompt order, merged if the method says so.

        Args:
            mask: (n,) bool, which tokens of the prompt stay; by the image's token map if not given.
        """
        embeddings, token_map, merge = encoded.embeddings[image], encoded.maps[image], choice.selection.merge
        mask = token_map.keep_mask(choice.kept) if mask is None else mask
        kept = embeddings[_where(mask, embeddings.device)]
        if merge is None:
            return kept
        one = slice(choice.row, choice.row + 1)
        token = None if merge.token is None else merge.token[one]
        own = replace(merge, group=merge.group[one], weight=merge.weight[one], token=token)
        if merge.space == "tower_features":
            states = tower_features(self.family, encoded, image)
            merged = self.family.project(own.apply(states[None], len(choice.kept))[0])
        else:
            candidates = embeddings[token_map.places_on(embeddings.device)]
            merged = own.apply(candidates[None], len(choice.kept))[0]
        content = _where(~token_map.separator[mask], kept.device)
        return kept.index_copy(0, content, merged.to(kept.dtype))


class _OnHost(TorchFunctionMode):
    """Keeps on the CPU what is made of lists: copying it to the device cannot be recorded. transformers' encoders make
    lengths in this way, which nobody reads; where somebody did, devices would be mixed, which raises."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        return function(*args, **{**kwargs, "device": "cpu"} if function is torch.tensor else kwargs)


def _encoded(
    family: Family, maps: list[TokenMap], read: Blocks, others: dict[str, Any], tensors: dict[str, Tensor]
) -> tuple[Tensor, Captured, type]:
    """All images' embeddings (n, D), what was read of the tower, and the kind of output."""
    with _OnHost():
        encoded = family.encode({**others, **tensors}, maps, read)
    return torch.cat(encoded.embeddings), encoded.captured, type(encoded.output)


def _decided(
    family: Family, text: TextSide, method: Method, token_map: TokenMap, images: int, k: int, look: Look
) -> tuple[Decision, Cues]:
    """From what was seen to what is kept, and those of the cues that reports show: kernels alone."""
    cues = cues_of(family, Needs.of(method), look, token_map, range(images), text)
    unseen = {name: None for name in cues.tensors() if name not in ("relevance", "saliency")}
    return decide(method, cues, token_map.candidates, k), replace(cues, saliency_at={}, **unseen)  # type: ignore[arg-type]


def _where(mask: Tensor, device: torch.device) -> Tensor:
    """Indices of the true entries of a mask on the CPU, on `device`."""
    return torch.from_numpy(np.flatnonzero(mask.numpy())).to(device)
