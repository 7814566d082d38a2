"""`prune`: the context manager that shortens a live model's prompts, and restores the model exactly.

Nothing inside the model is replaced. `model.generate` is intercepted at the instance and a forward pre-hook catches
direct calls; both hand the model a shorter prompt and the kept features through its public `mm_encoder_outputs`.
"""

from __future__ import annotations

import functools
import inspect
import threading
import time
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from . import families
from .cues import collect
from .cues.clip_text import ClipText, find_beside
from .cues.question import clean, find_template, question_per_image
from .errors import BusyError, QuestionError, SettingError, UnsupportedCallError
from .families.base import Encoded, Family
from .methods.base import Cues, Merge, Method, Selection, checked_select
from .prompt import Layout, apply, contiguous_positions, shorten, spans
from .report import Report

Positions = Literal["contiguous", "original"]
Question = str | Sequence[str] | None


def prune(
    model: Any,
    method: Method,
    *,
    processor: Any = None,
    question: Question = None,
    clip: ClipText | str | Path | None = None,
    positions: Positions = "contiguous",
    max_reports: int = 64,
) -> Pruning:
    """Prune the visual tokens of `model` with `method`, inside a `with` block or between `apply()` and `remove()`.

        with prune(model, GridPrune(keep=64), processor=processor) as pruning:
            model.generate(**inputs)
        pruning.reports[-1].save("kept.png")

    Args:
        model: a stock transformers model of a supported family; any attention implementation, any device.
        method: what to keep; see `gridprune.methods`.
        processor: the model's processor. Its tokenizer and chat template are used to read the question from the prompt.
        question: overrides what is read from the prompt: one string for all images, or one per image in prompt order.
        clip: CLIP's text half for methods that use relevance: a `ClipText`, a folder or a hub id. A folder called `clip`
            in or beside a local checkpoint is found by itself.
        positions: "contiguous" renumbers the kept tokens, as LLaVA-based papers do; "original" keeps every token's
            position (renumbering destroys grounding, arXiv 2506.21873). Models with M-RoPE always keep theirs.
        max_reports: how many :class:`~gridprune.report.Report` to hold, newest last.

    Raises:
        UnsupportedModelError: no family knows the model's class.
        MissingCueError: the method needs a cue this model cannot give; the message names the remedy.
    """
    return Pruning(
        model,
        method,
        processor=processor,
        question=question,
        clip=clip,
        positions=positions,
        max_reports=max_reports,
    )


@dataclass(eq=False)
class _Plan:
    """One shortened call."""

    layout: Layout
    original_ids: Tensor
    call: dict[str, Any]

    @property
    def cut(self) -> int:
        """Columns by which the call's prompt became shorter."""
        return self.original_ids.shape[1] - self.call["input_ids"].shape[1]


@dataclass(eq=False)
class _Choice:
    """What was decided for one image: its row in a batched selection, and the cues behind it."""

    selection: Selection
    cues: Cues
    row: int


class Pruning:
    """A method bound to a model. Built by :func:`prune`; reusable and re-entrant."""

    def __init__(
        self,
        model: Any,
        method: Method,
        *,
        processor: Any = None,
        question: Question = None,
        clip: ClipText | str | Path | None = None,
        positions: Positions = "contiguous",
        max_reports: int = 64,
    ) -> None:
        if positions not in ("contiguous", "original"):
            raise SettingError(f"positions must be 'contiguous' or 'original', got {positions!r}.")
        self.model = model
        self.method = method
        self.processor = processor
        self.question = question
        self.positions = positions
        self.family: Family = families.find(model)
        self.clip = _find_clip(model, method, clip)
        collect.check_available(self.family, method, self.clip)
        self.reports: deque[Report] = deque(maxlen=max_reports)
        self._handles: list[list[Any]] = []

    # -- switching on and off ------------------------------------------------------------------------------------

    def __enter__(self) -> Pruning:
        return self.apply()

    def __exit__(self, *exception: object) -> None:
        self.remove()

    def apply(self) -> Pruning:
        """Switch pruning on until :meth:`remove`. Within nested prunings of one model the innermost acts."""
        states, attention = collect.wanted_blocks(self.family, self.method)
        _Interceptor.of(self.model).push(self)
        self._handles.append(
            self.family.tower.install(states=states, attention=attention) if states or attention else []
        )
        return self

    def remove(self) -> None:
        """Switch it off again: hooks and attributes are as they were before :meth:`apply`."""
        if not self._handles:
            raise BusyError("This pruning is not applied, so it cannot be removed.")
        _Interceptor.of(self.model).pop(self)
        for handle in self._handles.pop():
            handle.remove()

    # -- one call ------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _decide(self, call: dict[str, Any], *, new_only: bool) -> _Plan | None:
        """Turn the arguments of a model call into shorter ones; None if there is nothing to prune.

        Args:
            new_only: with a cache, `input_ids` hold the new tokens only (as `forward` takes them), not the whole prompt.
        """
        vision = {key: call[key] for key in self.family.vision_keys if call.get(key) is not None}
        ids, cache = call.get("input_ids"), call.get("past_key_values")
        has_images = self._has_images(call)
        if ids is None:
            if has_images:
                warnings.warn(
                    "gridprune cannot prune a call with `inputs_embeds`: it runs unpruned. Give `input_ids`.",
                    stacklevel=5,
                )
            return None
        cached = int(cache.get_seq_length()) if cache is not None else 0
        record = _RECORDS.get(cache) if cached else None
        if not has_images and (record is None or record.identity):
            return None
        fixed = Layout(torch.arange(cached).expand(len(ids), -1), cached) if record is None else record
        generated = cached - fixed.width
        prefix = fixed.full + generated  # columns of the unshortened prompt that the cache stands for
        offset = prefix if new_only else 0
        if ids.shape[1] + offset <= prefix:
            return None
        keep = torch.ones(len(ids), ids.shape[1] + offset, dtype=torch.bool)
        features = self._prune_images(ids, vision, keep, prefix, offset) if has_images else None
        layout = shorten(keep, call.get("attention_mask"), fixed if cached else None, generated)
        short = {key: value for key, value in call.items() if key not in self.family.vision_keys}
        apply(
            short,
            layout,
            offset=offset,
            cached=cached if new_only else 0,
            positions=self.positions,
            pad_token_id=_pad_token(self.model),
            full_positions=self.family.position_ids(call),
        )
        if features is not None:
            short["mm_encoder_outputs"] = {**(call.get("mm_encoder_outputs") or {}), self.family.modality: features}
        return _Plan(layout, ids, short)

    def _prune_images(self, ids: Tensor, vision: dict[str, Any], keep: Tensor, prefix: int, offset: int) -> Any:
        """Encode the pictures that no cache holds yet, select, clear `keep` in place, and return the kept features."""
        lengths = [len(token_map) for token_map in self.family.token_maps(vision)]
        places = spans(ids, self.family.image_token_id, lengths)
        new = [i for i, (_, columns) in enumerate(places) if int(columns[0]) + offset >= prefix]
        if not new:
            return None
        if len(new) < len(places):
            vision = self.family.take_images(vision, new)
        started = time.perf_counter()
        encoded = self._encode(vision)
        encode_seconds = time.perf_counter() - started
        questions = self._questions(ids, len(places))
        questions = [questions[i] for i in new] if questions else [""] * len(new)

        started = time.perf_counter()
        chosen = self._select(encoded, questions)
        kept_embeddings = []
        for i, choice in enumerate(chosen):
            mask = encoded.maps[i].keep_mask(choice.selection.indices[choice.row].cpu())
            row, columns = places[new[i]]
            keep[row, columns + offset] = mask
            kept_embeddings.append(self._embeddings(encoded, i, choice, mask))
        seconds = time.perf_counter() - started
        for i, choice in enumerate(chosen):
            self.reports.append(
                Report.build(
                    method=self.method,
                    family=self.family,
                    token_map=encoded.maps[i],
                    selection=choice.selection,
                    cues=choice.cues,
                    row=choice.row,
                    question=questions[i],
                    picture=functools.partial(self.family.picture, vision, i),
                    processor=self.processor,
                    encode_seconds=encode_seconds / len(chosen),
                    decision_seconds=seconds / len(chosen),
                )
            )
        return self.family.handed_on(encoded, kept_embeddings)

    def _encode(self, vision: dict[str, Any]) -> Encoded:
        if self.method.stage != "pixels":
            return self.family.encode(vision)
        rows, columns = self.family.token_maps(vision)[0].grid
        k = self.method.budget.resolve(rows * columns)
        return self.family.encode_resized(vision, self.method.target_grid(rows, columns, k))  # type: ignore[attr-defined]

    def _select(self, encoded: Encoded, questions: Sequence[str]) -> list[_Choice]:
        """Run the method on all images, those of one geometry in one batch."""
        groups: dict[object, list[int]] = {}
        for i, token_map in enumerate(encoded.maps):
            groups.setdefault(token_map.key, []).append(i)
        result: dict[int, _Choice] = {}
        for members in groups.values():
            asked = [questions[i] for i in members]
            cues = collect.collect(self.family, self.method, encoded, members, asked, self.clip)
            token_map = encoded.maps[members[0]].candidates
            k = self.method.budget.resolve(len(token_map))
            selection = checked_select(self.method, cues, token_map, k)
            result.update({i: _Choice(selection, cues, row) for row, i in enumerate(members)})
        return [result[i] for i in range(len(encoded.maps))]

    def _embeddings(self, encoded: Encoded, i: int, choice: _Choice, mask: Tensor) -> Tensor:
        """The kept embeddings (n_kept, D) of one image in prompt order, merged or re-encoded if the method says so."""
        embeddings, token_map, merge = encoded.embeddings[i], encoded.maps[i], choice.selection.merge
        if self.method.stage == "pixels":
            return embeddings
        kept = embeddings[mask.to(embeddings.device)]
        if merge is None:
            return kept
        own = Merge(merge.group[choice.row][None], merge.weight[choice.row][None], merge.space)
        k = choice.selection.indices.shape[1]
        if merge.space == "tower_features":
            states = choice.cues.require("tower_features")[choice.row][None]
            merged = self.family.project(own.apply(states, k)[0])
        else:
            merged = own.apply(embeddings[token_map.candidate_positions.to(embeddings.device)][None], k)[0]
        content = ~token_map.separator[mask]
        kept = kept.clone()
        kept[content.to(kept.device)] = merged.to(kept.dtype)
        return kept

    def _questions(self, ids: Tensor, images: int) -> list[str]:
        """The question of every image, given or read from the prompt; [] if the method needs none and none is known."""
        wanted = collect.needs_question(self.method)
        if self.question is not None:
            given = [self.question] * images if isinstance(self.question, str) else list(self.question)
            if len(given) != images:
                raise QuestionError(f"Got {len(given)} questions for {images} images; give one, or one per image.")
            return [clean(question) for question in given]
        tokenizer = getattr(self.processor, "tokenizer", self.processor)
        if tokenizer is None:
            if wanted:
                raise QuestionError(
                    f"The method {self.method.name!r} is guided by the question. Give processor=... so that it can be "
                    "read from the prompt, or question='...'."
                )
            return []
        return self._read_questions(ids, tokenizer, images)

    def _read_questions(self, ids: Tensor, tokenizer: Any, images: int) -> list[str]:
        marker = tokenizer.decode([self.family.image_token_id])
        template = find_template(self.processor, marker)
        questions: list[str] = []
        special = set(tokenizer.all_special_ids) - {self.family.image_token_id}
        for row in ids.tolist():
            # One marker an image: a run of placeholders, possibly interrupted by separators that are text.
            collapsed = [
                t for j, t in enumerate(row) if not (t == self.family.image_token_id and j and row[j - 1] == t)
            ]
            text = tokenizer.decode([t for t in collapsed if t not in special], skip_special_tokens=False)
            questions.extend(question_per_image(text, template, marker))
        return questions if len(questions) == images else self._fallback(ids, tokenizer, images)

    def _fallback(self, ids: Tensor, tokenizer: Any, images: int) -> list[str]:
        if len(ids) == 1:
            return [clean(tokenizer.decode(ids[0], skip_special_tokens=True))] * images
        raise QuestionError("Could not tell which question belongs to which image; give question=[...], one per image.")

    # -- the two ways in -----------------------------------------------------------------------------------------

    def _generate(self, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """`model.generate`, with a shorter prompt; sequences come back with the original prompt in front."""
        call = dict(kwargs)
        if args:
            names = [n for n in inspect.signature(type(self.model).generate).parameters if n != "self"]
            call.update(zip(names, args))
        if call.get("inputs") is not None and call.get("input_ids") is None:
            call["input_ids"] = call.pop("inputs")
        if call.get("assistant_model") is not None and self._has_images(call):
            raise UnsupportedCallError("Assisted generation with an assistant_model cannot be pruned; leave it out.")
        mask, ids = call.get("attention_mask"), call.get("input_ids")
        plan = self._decide(call, new_only=mask is not None and ids is not None and mask.shape[1] != ids.shape[1])
        if plan is None:
            return original(*args, **kwargs)
        _shorten_limits(self.model, plan)
        output = original(**plan.call)
        cache = plan.call.get("past_key_values")
        if cache is None and not isinstance(output, Tensor):
            cache = getattr(output, "past_key_values", None)
        if cache is not None:
            _RECORDS[cache] = plan.layout
        return _restore_prompt(output, plan)

    def _has_images(self, call: dict[str, Any]) -> bool:
        return any(call.get(key) is not None for key in self.family.vision_keys if key.startswith("pixel_values"))


class _Interceptor:
    """What is installed on one model while anything prunes it: one generate wrapper and one pair of forward hooks."""

    _live: weakref.WeakKeyDictionary[nn.Module, _Interceptor] = weakref.WeakKeyDictionary()
    _lock = threading.RLock()

    def __init__(self, model: nn.Module) -> None:
        self._model = weakref.ref(model)
        self.stack: list[Pruning] = []
        self.owner: int | None = None
        self.local = threading.local()
        self._handles: list[Any] = []
        self._own_generate: Any = None

    @classmethod
    def of(cls, model: nn.Module) -> _Interceptor:
        with cls._lock:
            if model not in cls._live:
                cls._live[model] = cls(model)
            return cls._live[model]

    def push(self, pruning: Pruning) -> None:
        with self._lock:
            if self.stack and self.owner != threading.get_ident():
                raise BusyError(
                    "Another thread is pruning this model. Enter one `prune` block and call the model inside it from as "
                    "many threads as you like, or give each thread its own copy of the model."
                )
            self.owner = threading.get_ident()
            if not self.stack:
                self._install()
            self.stack.append(pruning)

    def pop(self, pruning: Pruning) -> None:
        with self._lock:
            for position in reversed(range(len(self.stack))):
                if self.stack[position] is pruning:
                    del self.stack[position]
                    break
            if not self.stack:
                self._uninstall()

    def _install(self) -> None:
        model = self._model()
        assert model is not None
        self._own_generate = model.__dict__.get("generate")
        original = model.generate

        @functools.wraps(original)
        def generate(*args: Any, **kwargs: Any) -> Any:
            if getattr(self.local, "busy", False) or not self.stack:
                return original(*args, **kwargs)
            self.local.busy = True
            try:
                return self.stack[-1]._generate(original, args, kwargs)
            finally:
                self.local.busy = False

        model.__dict__["generate"] = generate
        self._handles = [
            model.register_forward_pre_hook(self._before_forward, with_kwargs=True),
            model.register_forward_hook(self._after_forward, with_kwargs=True),
        ]

    def _uninstall(self) -> None:
        model = self._model()
        assert model is not None
        for handle in self._handles:
            handle.remove()
        self._handles = []
        if self._own_generate is None:
            model.__dict__.pop("generate", None)
        else:
            model.__dict__["generate"] = self._own_generate
        self._own_generate = None
        self.owner = None
        with self._lock:
            self._live.pop(model, None)

    def _before_forward(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.local.plan = None
        if getattr(self.local, "busy", False) or not self.stack:
            return None
        call = dict(kwargs)
        if args:
            call.update(zip(inspect.signature(module.forward).parameters, args))
        self.local.busy = True
        try:
            plan = self.stack[-1]._decide(call, new_only=True)
        finally:
            self.local.busy = False
        if plan is None:
            return None
        keep_logits = call.get("logits_to_keep")
        if isinstance(keep_logits, Tensor) and not plan.layout.identity:
            raise UnsupportedCallError("logits_to_keep as a tensor of positions cannot be pruned; give a count.")
        short = plan.call
        if plan.layout.padded and short.get("position_ids") is None and short.get("attention_mask") is not None:
            positions = contiguous_positions(short["attention_mask"])
            short["position_ids"] = positions[:, -short["input_ids"].shape[1] :]
        self.local.plan = plan
        return (), short

    def _after_forward(self, module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        plan, self.local.plan = getattr(self.local, "plan", None), None
        if plan is None:
            return
        cache = kwargs.get("past_key_values")
        if cache is None and not isinstance(output, tuple):
            cache = getattr(output, "past_key_values", None)
        if cache is not None:
            _RECORDS[cache] = plan.layout


# What was cut from the prompt that a cache holds, for the next turn on it.
_RECORDS: weakref.WeakKeyDictionary[Any, Layout] = weakref.WeakKeyDictionary()


def _find_clip(model: Any, method: Method, clip: ClipText | str | Path | None) -> ClipText | None:
    if not method.needs & {"relevance", "word_relevance"}:
        return None
    if isinstance(clip, ClipText):
        return clip
    if clip is None:
        folder = getattr(model.config, "_name_or_path", "") or ""
        clip = find_beside(folder) if folder and Path(folder).is_dir() else None
    return None if clip is None else ClipText.load(clip).to(model.device)


def _pad_token(model: Any) -> int:
    config = model.config.get_text_config()
    pad = getattr(model.generation_config, "pad_token_id", None)
    pad = pad if pad is not None else getattr(config, "pad_token_id", None)
    return int(pad) if pad is not None else 0


def _shorten_limits(model: Any, plan: _Plan) -> None:
    """`max_length` and `min_length` count the prompt: take off what was cut, wherever they were set."""
    if plan.cut <= 0:
        return
    call = plan.call
    config = call.get("generation_config") or model.generation_config
    if call.get("generation_config") is not None:
        call["generation_config"] = copy(config)
    for limit, fresh in (("max_length", "max_new_tokens"), ("min_length", "min_new_tokens")):
        if call.get(limit) is not None:
            call[limit] = call[limit] - plan.cut
        elif getattr(config, limit, None) and call.get(fresh) is None and getattr(config, fresh, None) is None:
            call[limit] = max(getattr(config, limit) - plan.cut, 0)


def _restore_prompt(output: Any, plan: _Plan) -> Any:
    """Put the original prompt back in front of the generated tokens."""
    sequences = output if isinstance(output, Tensor) else output.sequences
    prompt = plan.original_ids.to(sequences.device)
    copies = sequences.shape[0] // prompt.shape[0]
    generated = sequences[:, plan.call["input_ids"].shape[1] :]
    restored = torch.cat([prompt.repeat_interleave(copies, dim=0), generated], dim=1)
    if isinstance(output, Tensor):
        return restored
    output.sequences = restored
    return output
