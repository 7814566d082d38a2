"""One call of a model that is being pruned: its arguments made shorter, its result made whole again."""

from __future__ import annotations

import functools
import time
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..compat import CACHE, cache_of
from ..cues.question import QuestionReader, clean
from ..errors import QuestionError, UnsupportedCallError
from ..families.base import Encoded, Family, ImageSpan
from ..families.limits import CHUNKED_PREFILL, LATER_IMAGES, PADDING_BEHIND_CACHE, STATIC_CACHE
from ..methods.base import Method
from ..report.report import Report
from ..selection.selector import Choice, Selector
from .cache_record import CacheRecord, CacheState, recall
from .generation import Prompt, infer_mask, is_static, pad_token, shorten_limits
from .layout import PromptLayout, along, contiguous_positions, shorten
from .outputs import ShortenedCall
from .positions import FedPrompt
from .targets import Targets

Positions = Literal["contiguous", "original"]
Question = str | Sequence[str] | None


@dataclass(eq=False)
class PendingImages:
    """The images of one modality in one call that no cache holds yet.

    Attributes:
        vision: the vision arguments they are encoded from.
        places: where they stand in the prompt.
    """

    selector: Selector
    vision: dict[str, Any]
    places: list[ImageSpan]


@dataclass(eq=False)
class PromptPruner:
    """Shortens the calls of one model, of any number of threads.

    Attributes:
        selectors: one for each modality of the model. The others: see :func:`gridprune.hf.pruning.prune`.
    """

    family: Family
    method: Method
    selectors: Sequence[Selector]
    processor: Any = None
    question: Question = None
    positions: Positions = "contiguous"
    reports: deque[Report] = field(default_factory=deque)

    @property
    def model(self) -> Any:
        return self.family.model

    def install(self) -> None:
        """Nothing: prompts are shortened, no layer is touched."""

    def uninstall(self) -> None:
        """Nothing to take back."""

    # -- the two ways in -----------------------------------------------------------------------------------------

    def generate(self, original: Callable[..., Any], call: dict[str, Any]) -> Any:
        """`model.generate`, with a shorter prompt; sequences come back with the original prompt in front."""
        if call.get("inputs") is not None and call.get("input_ids") is None:
            call = {**call, "input_ids": call["inputs"]}
            del call["inputs"]
        ids, mask = call.get("input_ids"), call.get("attention_mask")
        new_only = ids is not None and mask is not None and mask.shape[-1] != ids.shape[-1]
        with torch.no_grad():  # as in `generate` itself
            plan = self._plan(call, new_only=new_only, generating=True)
        if plan is None:
            return original(**call)
        if not plan.stock:
            self._check_generation(call)
        prompt = Prompt(plan.original, plan.prompt)
        if not plan.prompt.identity:
            shorten_limits(plan.call, self.model, prompt.cut)
            plan.call = prompt.shown(plan.call, self.model)
        plan.remember(None)
        output = original(**plan.call)
        plan.remember(getattr(output, CACHE, None))
        return output if plan.prompt.identity else prompt.restored(output, plan.columns)

    def _check_generation(self, call: dict[str, Any]) -> None:
        if call.get("assistant_model") is not None:
            raise UnsupportedCallError("Assisted generation with an assistant_model cannot be pruned; leave it out.")
        if call.get("prefill_chunk_size") is not None:
            self._refuse(CHUNKED_PREFILL)
        if is_static(call, self.model):
            self._refuse(STATIC_CACHE)

    def before_forward(self, call: dict[str, Any], targets: Targets | None) -> ShortenedCall | None:
        """The shortened arguments of a direct call; None if there is nothing to prune."""
        plan = self._plan(call, new_only=True, generating=False)
        if plan is None:
            return None
        if plan.dropped is not None and targets is not None:
            targets.exclude(plan.dropped)
        if "logits_to_keep" in plan.call:  # counted along the prompt as it was given, by the head
            plan.call["logits_to_keep"] = 0
        wanted = call.get("return_dict")
        plan.as_tuple = not (self.model.config.return_dict if wanted is None else wanted)
        plan.call = self.packed({**plan.call, "return_dict": True})
        plan.remember(None)
        return plan

    def packed(self, call: dict[str, Any]) -> dict[str, Any]:
        """The arguments of a forward call, features in the container the model wants."""
        call = self._masked(call)
        outputs = call.get("mm_encoder_outputs")
        if not outputs:
            return call
        streams = {stream.modality: stream for stream in self.family.streams}
        packed = {name: streams[name].packed(value) if name in streams else value for name, value in outputs.items()}
        return {**call, "mm_encoder_outputs": packed}

    def _masked(self, call: dict[str, Any]) -> dict[str, Any]:
        """Give back the mask that `generate` drops when it is all ones: without it, and without a cache, models read
        gaps in the positions as the borders of packed sequences."""
        ids, positions = call.get("input_ids"), call.get("position_ids")
        if self.positions != "original" or call.get("attention_mask") is not None or ids is None or positions is None:
            return call
        cache = cache_of(call)
        return call if cache is not None else {**call, "attention_mask": torch.ones_like(ids)}

    # -- one call ------------------------------------------------------------------------------------------------

    def _plan(self, call: dict[str, Any], *, new_only: bool, generating: bool) -> ShortenedCall | None:
        """Turn the arguments of a model call into shorter ones; None if there is nothing to prune.

        Args:
            new_only: with a cache, `input_ids` hold the new tokens only (as `forward` takes them), not the whole
            prompt. generating: the call is one of `generate`, which counts positions and infers masks by itself.
        """
        visions = [(selector, selector.family.vision(call)) for selector in self.selectors]
        seen = [(selector, vision) for selector, vision in visions if vision is not None]
        ids = call.get("input_ids")
        if ids is None or call.get("mm_encoder_outputs"):
            self._pass_on(bool(seen), call)
            return None
        past = recall(cache_of(call), len(ids))
        offset = past.full if new_only else 0
        length = ids.shape[1] + offset
        if length <= past.full:
            return None
        if not seen and past.plain:
            return self._stock(call, ids, past, length)
        mask = self._mask(call, ids, length, generating)
        cpu_ids, cpu_mask = ids.cpu(), None if mask is None else mask.cpu().bool()
        keep, real = np.ones((len(ids), length), dtype=bool), None if cpu_mask is None else cpu_mask.numpy()
        found = [self._pending(selector, vision, cpu_ids, past.full, offset) for selector, vision in seen]
        outputs = {
            each.selector.family.modality: self._prune_images(each, cpu_ids, cpu_mask, keep, offset) for each in found
        }
        layout = shorten(keep, real, past.layout)
        plan = self._short_call(
            call, FedPrompt(call, ids, mask, cpu_ids, real, layout, past, offset), outputs, generating
        )
        if not layout.identity:
            plan.dropped = torch.from_numpy(~keep[:, offset:])
        return plan

    def _stock(self, call: dict[str, Any], ids: Tensor, past: CacheState, length: int) -> ShortenedCall | None:
        """A call that the stock model answers by itself. M-RoPE goes on where this cache stands, not the last one."""
        if not past.known:
            return None
        if past.delta is not None:
            self.family.base.rope_deltas = past.delta
        layout = PromptLayout.unchanged(len(ids), length)
        return ShortenedCall(
            CacheRecord(layout, past.delta), ids, dict(call), layout.behind(past.cached, past.full), stock=True
        )

    def _short_call(
        self, call: dict[str, Any], fed: FedPrompt, outputs: dict[str, Any], generating: bool
    ) -> ShortenedCall:
        ids, layout, past, offset = fed.ids, fed.layout, fed.past, fed.offset
        pixels = {key for stream in self.family.streams for key in stream.pixel_keys}
        vision = {key for stream in self.family.streams for key in stream.vision_keys}
        dropped = pixels if layout.identity else {*vision, "position_ids"}
        short = {key: value for key, value in call.items() if key not in dropped}
        if outputs:
            short["mm_encoder_outputs"] = outputs
        new = layout.behind(past.cached, past.full)
        if layout.identity:
            if not past.known:
                return ShortenedCall(None, ids, short, new)
            rope = fed.rope(self.family)
            return ShortenedCall(CacheRecord(layout, rope and rope[1]), ids, short, new)
        tail = layout if not offset else layout.behind(past.cached, offset)
        if fed.mask is None and (layout.padded or self.positions == "original"):
            fed = replace(fed, mask=ids.new_ones(len(ids), layout.full))
        if fed.mask is not None:
            short["attention_mask"] = fed.mask
        short |= along(short, layout, tail)
        short["input_ids"] = tail.gather(ids, pad_token(self.model))
        self._check_padding(fed)
        positions, delta = self._positions(fed, generating)
        if positions is not None:
            short["position_ids"] = positions if generating else positions[..., -tail.width :]
        return ShortenedCall(
            CacheRecord(layout, delta), ids, short, new, rope_deltas=None if delta is None else delta - fed.cut
        )

    def _check_padding(self, fed: FedPrompt) -> None:
        if not fed.past.cached or fed.mask is None or not fed.padding[:, fed.past.cached :].any():
            return
        self._refuse(PADDING_BEHIND_CACHE)
        window = self.family.window
        if window is not None and fed.layout.width > window:
            raise UnsupportedCallError(
                f"{type(self.model).__name__} does not take {PADDING_BEHIND_CACHE}: some of its layers see the last"
                f" {window} tokens, and the padding that evens out rows of a later turn would count among them. "
                "Give the rows one at a time."
            )

    def _refuse(self, limit: str) -> None:
        """Raise if the family declares this limit of its stock model."""
        found = self.family.limits.get(limit)
        if found is not None and found.holds:
            raise UnsupportedCallError(f"{type(self.model).__name__} does not take {limit}: {found}.")

    def _mask(self, call: dict[str, Any], ids: Tensor, length: int, generating: bool) -> Tensor | None:
        """The 2-D mask of the whole prompt, given or as `generate` would infer it."""
        mask: Tensor | None = call.get("attention_mask")
        if mask is None:
            return infer_mask(ids, call, self.model) if generating and ids.shape[1] == length else None
        if mask.dim() != 2 or mask.shape[1] != length:
            raise UnsupportedCallError(
                f"attention_mask has shape {tuple(mask.shape)}; pruning needs the 2-D mask {(len(ids), length)} of the "
                "whole prompt, cached tokens included."
            )
        return mask

    def _positions(self, fed: FedPrompt, generating: bool) -> tuple[Tensor | None, Tensor | None]:
        """Positions along the short prompt, (B, W) or (4, B, W), if the model must be told, and the M-RoPE delta."""
        first = 0 if generating else self.family.first_position
        fed.check_packed()
        rope = fed.rope(self.family)
        if rope is not None:
            positions, delta = rope
            self.family.base.rope_deltas = delta
            return torch.cat([contiguous_positions(fed.kept_mask, first)[None], positions]), delta
        if self.positions == "original":
            return fed.original(first), None
        return (None if generating else fed.counted(first)), None

    def _pending(
        self, selector: Selector, vision: dict[str, Any], ids: Tensor, prefix: int, offset: int
    ) -> PendingImages:
        places, vision = _new_images(selector.family, ids, vision, prefix - offset)
        if places and prefix:
            self._refuse(LATER_IMAGES)
        return PendingImages(selector, vision, places)

    def _prune_images(self, new: PendingImages, ids: Tensor, mask: Tensor | None, keep: np.ndarray, offset: int) -> Any:
        """Encode the images, select, clear `keep` in place, and return the encoder output to hand on."""
        selector, places = new.selector, new.places
        if not places:
            return None
        maps = [place.token_map for place in places]
        asked = self._questions(
            ids, [(place.row, place.columns) for place in places], None if mask is None else mask[:, offset:]
        )
        selector.ask(self.method, asked)
        started = time.perf_counter()
        encoded = selector.encode(new.vision, maps)
        between = time.perf_counter()
        choices = selector.choose(self.method, encoded, asked)
        masks = [place.token_map.keep_mask(choice.kept) for place, choice in zip(places, choices)]
        for place, stays in zip(places, masks):
            keep[place.row, place.columns.numpy() + offset] = stays.numpy()
        output = self._gathered(selector, encoded, choices, masks, [place.row for place in places])
        seconds = between - started, time.perf_counter() - between
        self.reports.extend(self._reports(new, choices, masks, asked, seconds))
        return output

    def _gathered(
        self,
        selector: Selector,
        encoded: Encoded,
        choices: Sequence[Choice],
        masks: list[Tensor],
        rows: Sequence[int],
    ) -> Any:
        """The encoder output with the kept embeddings; as it is where all tokens stay as they are."""
        if all(mask.numpy().all() for mask in masks) and not self.method.merges:
            return encoded.output
        kept = [selector.gather(encoded, i, choice, masks[i]) for i, choice in enumerate(choices)]
        return selector.family.handed_on(encoded, kept, masks, rows)

    def _reports(
        self,
        new: PendingImages,
        choices: Sequence[Choice],
        masks: Sequence[Tensor],
        asked: Sequence[str],
        seconds: tuple[float, float],
    ) -> list[Report]:
        """One per image; the seconds of encoder and decision are shared out equally."""
        family, maps = new.selector.family, [place.token_map for place in new.places]
        return [
            Report.build(
                method=self.method,
                family=family,
                token_map=maps[i],
                selection=choice.selection,
                cues=choice.cues,
                row=choice.row,
                kept=choice.kept,
                question=asked[i],
                image=functools.partial(family.image, new.vision, maps, i),
                processor=self.processor,
                encode_seconds=seconds[0] / len(choices),
                decision_seconds=seconds[1] / len(choices),
                mask=masks[i],
            )
            for i, choice in enumerate(choices)
        ]

    def _questions(self, ids: Tensor, images: list[tuple[int, Tensor]], mask: Tensor | None) -> list[str]:
        """The question of every image, given or read from the prompt; empty ones if none is known and none needed."""
        if self.question is not None:
            given = [self.question] * len(images) if isinstance(self.question, str) else list(self.question)
            if len(given) != len(images):
                raise QuestionError(f"Got {len(given)} questions for {len(images)} images; give one, or one per image.")
            return [clean(question) for question in given]
        if self.processor is not None:
            return self._reader.read(ids, images, mask)
        if self.method.uses_text:
            raise QuestionError(
                f"The method {self.method.name!r} is guided by the question. Give processor=... so that it can be "
                "read from the prompt, or question='...'."
            )
        return [""] * len(images)

    @cached_property
    def _reader(self) -> QuestionReader:
        return QuestionReader(self.processor)

    @staticmethod
    def _pass_on(has_images: bool, call: dict[str, Any]) -> None:
        """Warn that a call runs unpruned; refuse it on a cache that holds a pruned prompt."""
        given = "inputs_embeds" if call.get("input_ids") is None else "mm_encoder_outputs"
        batch = next((len(call[key]) for key in ("input_ids", "inputs_embeds") if call.get(key) is not None), 1)
        if not recall(cache_of(call), batch).plain:
            raise UnsupportedCallError(f"The cache holds a pruned prompt: go on with `input_ids`, not with `{given}`.")
        if has_images or call.get("mm_encoder_outputs"):
            warnings.warn(
                f"gridprune cannot prune a call with `{given}`: it runs unpruned. Give `input_ids` and pixels.",
                stacklevel=6,
            )


@torch.no_grad()  # geometry: some families push it through the model's own packing
def _new_images(
    family: Family, ids: Tensor, vision: dict[str, Any], start: int
) -> tuple[list[ImageSpan], dict[str, Any]]:
    """The images behind column `start`, and their vision arguments: the call may bring the new ones, or all.

    Raises:
        UnsupportedCallError: the prompt does not hold exactly the placeholders that the images need.
    """
    if start > 0:
        places = family.locate(ids[:, start:], vision)
        if places is not None:
            return [ImageSpan(p.row, p.columns + start, p.token_map) for p in places], vision
    places = family.places(ids, vision)
    new = [i for i, place in enumerate(places) if place.columns.numpy()[0] >= start]
    if len(new) < len(places):
        vision = family.take_places(vision, places, new)
    return [places[i] for i in new], vision
