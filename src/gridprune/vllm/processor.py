"""In front of vLLM's processors: the question and the budget of every image, its hash, and its number of places.

A request's images are asked about before anything is looked up: the question comes from the request or is read from
its prompt, the budget from the request or from the server. Both are part of the image's hash, so vLLM's processor
cache, encoder cache and prefix cache hold one entry per question and budget, and never a wrong one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from cachetools import LRUCache
from torch import Tensor
from vllm.multimodal.hasher import MultiModalHasher
from vllm.multimodal.inputs import MultiModalFieldConfig, MultiModalKwargsItems
from vllm.multimodal.parse import DictEmbeddingItems, EmbeddingItems, MultiModalDataItems
from vllm.multimodal.processing import PromptUpdate
from vllm.multimodal.processing.inputs import ProcessorInputs

from ..core.budget import Budget
from ..core.token_map import TokenMap
from ..cues.question import QuestionReader
from ..errors import QuestionError
from .architectures import of_config
from .families import OnVllm, Shape, images_in
from .settings import FIELD, PruneRequest, ResolvedRequest, Settings, asks_of, build, split_request
from .told import Kept, tell

if TYPE_CHECKING:
    from transformers import BatchFeature

_ASKS = FIELD + "_asks"  # how asks travel from one hook to the next
Kwargs = Mapping[str, Any]
MOST_REMEMBERED = 2**16  # images; vLLM's processor cache of 4 GiB holds fewer, so it has none that is forgotten here


@dataclass
class _Ask:
    """What is asked of one image on its way through vLLM's hooks.

    Attributes:
        request: what is asked.
        kept: what became of it, once the image was processed; None if a cache had it.
    """

    request: PruneRequest
    kept: Kept | None = None

    def settle(self, token_map: TokenMap) -> Tensor:
        """What the model gets of it."""
        settled = self.request.settle(token_map)
        self.kept = Kept(settled.keep, settled.total, settled.method)
        return settled.pack()


class PruningProcessor:
    """A mixin in front of one of vLLM's multimodal processors."""

    family_class: type[OnVllm]

    def __init__(self, info: Any, dummy_inputs: Any) -> None:
        super().__init__(info, dummy_inputs)  # type: ignore[call-arg]
        self.info = info
        config = info.get_hf_config()
        self.family_class.refuse(config)
        self.settings = Settings.read(getattr(config, FIELD, {}))
        self.architecture = of_config(config)
        for method in self.settings.allowed():
            self.architecture.check(method)
        self._kept: LRUCache[str, Kept] = LRUCache(maxsize=MOST_REMEMBERED)
        split_request(info.ctx.get_mm_config().mm_processor_kwargs or {})
        self.geometry = self.family_class(Shape(config))

    # -- what is asked -------------------------------------------------------------------------------------------

    def apply(self, inputs: ProcessorInputs, timing_ctx: Any) -> Any:
        """Find out what is asked of each image, then let vLLM do its work."""
        given = dict(inputs.hf_processor_mm_kwargs)
        if _ASKS not in given:
            ours, given = split_request(given)
            images = _count_images(inputs.mm_data_items)
            if images:
                requests = asks_of(ours, self.settings, images, lambda: self._read_questions(inputs, images))
                self.architecture.check(build(requests[0].method))
                given[_ASKS] = [_Ask(request) for request in requests]
            inputs = replace(inputs, hf_processor_mm_kwargs=given)
        made = super().apply(inputs, timing_ctx)  # type: ignore[misc]
        for known_by, ask in zip(made["mm_hashes"].get("image", ()), given.get(_ASKS, ())):
            if ask.kept is not None:  # else it is not new here
                self._kept[known_by] = ask.kept
        if kept := self.kept(made):
            tell(kept)
        return made

    def kept(self, made: Mapping[str, Any]) -> list[Kept]:
        """What is kept of each image of a processed prompt; those that pass unpruned are left out."""
        return [self._kept[each] for each in made.get("mm_hashes", {}).get("image", ()) if each in self._kept]

    def _read_questions(self, inputs: ProcessorInputs, images: int) -> Sequence[str]:
        ids = torch.tensor([inputs.prompt], device="cpu")
        places = (ids[0] == self.marker).nonzero()
        if len(places) != images:
            raise QuestionError(
                f"The prompt holds {len(places)} image placeholders for {images} images. Build it with the model's "
                "chat template, one placeholder per image."
            )
        images_at = [(0, place) for place in places]
        return self._reader.read(ids, images_at, torch.ones_like(ids), self.settings.guide)

    @property
    def marker(self) -> int:
        """The id that stands for a whole image in a prompt that was not processed yet."""
        return self.geometry.placeholder

    @cached_property
    def _reader(self) -> QuestionReader:
        return QuestionReader(self.info.get_hf_processor())

    def get_dummy_inputs(self, seq_len: int, mm_counts: Mapping[str, int], mm_options: Any) -> ProcessorInputs:
        """The worst case, for vLLM's memory profile: images that are kept whole."""
        inputs = super().get_dummy_inputs(seq_len, mm_counts, mm_options)  # type: ignore[misc]
        whole = PruneRequest(Budget.parse("100%"), "What is it?", method=self.settings.label)
        asks = {_ASKS: [_Ask(whole) for _ in range(mm_counts.get("image", 0))]}
        return replace(inputs, hf_processor_mm_kwargs={**inputs.hf_processor_mm_kwargs, **asks})

    # -- what it is known by -------------------------------------------------------------------------------------

    def _get_mm_hashes(self, inputs: ProcessorInputs) -> Any:
        asks, plain = _split(inputs.hf_processor_mm_kwargs)
        hashes = dict(super()._get_mm_hashes(replace(inputs, hf_processor_mm_kwargs=plain)))  # type: ignore[misc]
        if asks:
            algorithm = self.info.ctx.get_mm_config().mm_hasher_algorithm
            hashes["image"] = [
                MultiModalHasher.hash_kwargs(
                    algorithm, image=own, ask=ask.request.identity(), settings=self.settings.identity()
                )
                for own, ask in zip(hashes["image"], asks)
            ]
        return hashes

    def _get_cache_missing_processor_kwargs(self, inputs: ProcessorInputs, mm_is_cached: Any) -> Kwargs:
        asks, plain = _split(inputs.hf_processor_mm_kwargs)
        inputs = replace(inputs, hf_processor_mm_kwargs=plain)
        missing = dict(super()._get_cache_missing_processor_kwargs(inputs, mm_is_cached))  # type: ignore[misc]
        if asks:
            missing[_ASKS] = [ask for ask, cached in zip(asks, mm_is_cached["image"]) if not cached]
        return missing

    # -- what the model gets -------------------------------------------------------------------------------------

    def _apply_hf_processor_main(self, mm_items: MultiModalDataItems, hf_kwargs: Kwargs) -> BatchFeature:
        asks, plain = _split(hf_kwargs)
        processed = super()._apply_hf_processor_main(mm_items, plain)  # type: ignore[misc]
        vision = images_in(self.geometry, processed)
        if asks and vision is not None:
            maps = self.geometry.token_maps(vision)
            processed[FIELD] = [ask.settle(where) for ask, where in zip(asks, maps)]
        return processed

    def _get_mm_fields_config(self, hf_inputs: BatchFeature, hf_processor_mm_kwargs: Kwargs) -> Any:
        _, plain = _split(hf_processor_mm_kwargs)
        stock = super()._get_mm_fields_config(hf_inputs, plain)  # type: ignore[misc]
        return {**stock, FIELD: MultiModalFieldConfig.batched("image", keep_on_cpu=True)}

    def _get_prompt_updates(
        self, mm_items: MultiModalDataItems, hf_processor_mm_kwargs: Kwargs, out_mm_kwargs: MultiModalKwargsItems
    ) -> Sequence[PromptUpdate]:
        _, plain = _split(hf_processor_mm_kwargs)
        updates = super()._get_prompt_updates(mm_items, plain, out_mm_kwargs)  # type: ignore[misc]
        return [self._shortened(update, out_mm_kwargs) if update.modality == "image" else update for update in updates]

    def _shortened(self, update: Any, out_mm_kwargs: MultiModalKwargsItems) -> Any:
        """The same update with as many places as tokens are kept."""

        def replacement(index: int) -> Any:
            full = update.replacement(index)
            packed = out_mm_kwargs["image"][index].get(FIELD)
            if packed is None:  # embeddings that the client computed
                return full
            keep = ResolvedRequest.unpack(packed.data).keep
            ids = getattr(full, "full", full)  # vLLM takes ids, or details that hold ids
            first, places = ids.index(self.geometry.placeholder), ids.count(self.geometry.placeholder)
            if keep == self._candidates(out_mm_kwargs["image"][index], places):
                return full
            cut = [*ids[: first + keep], *ids[first + places :]]
            return cut if full is ids else replace(full, full=cut)

        return replace(update, replacement=replacement)

    def _candidates(self, item: Any, places: int) -> int:
        """Tokens that can be chosen from: all places of an image, unless some are separators."""
        return places


def _split(kwargs: Kwargs) -> tuple[list[_Ask], dict[str, Any]]:
    plain = dict(kwargs)
    return plain.pop(_ASKS, []), plain


def _count_images(items: MultiModalDataItems) -> int:
    """Images of a request, those that come as embeddings not counted."""
    images = items.get("image")
    return 0 if images is None or isinstance(images, (EmbeddingItems, DictEmbeddingItems)) else len(images)
