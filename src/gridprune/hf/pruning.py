"""`prune`: the context manager that shortens a live model's prompts, and restores the model exactly.

Nothing inside the model is replaced. `model.generate` is intercepted at the instance and forward hooks catch direct
calls; both hand the model a shorter prompt and the kept features through its public `mm_encoder_outputs`.
"""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any, cast, get_args

from .. import families
from ..compat import device_of, entry_modules
from ..core.budget import Keep
from ..core.graphs import Graphs
from ..cues.load_text import text_tower
from ..cues.text_tower import TextTower
from ..errors import CheckpointError, SettingError, UnsupportedCallError, UnsupportedModelError
from ..families.base import Family
from ..methods.base import Method
from ..methods.in_llm.base import InsideMethod
from ..methods.spec import parse
from ..report.report import Report
from ..selection.collect import TextSide
from ..selection.encoder_cache import EncoderCache
from ..selection.selector import Selector
from .attention_mass import WeighedPruner
from .intercept import Interceptor, Pruner
from .layer_pruner import LayerPruner
from .prompt_pruner import Positions, PromptPruner, Question


class Pruning:
    """Prunes the visual tokens of `model` with `method`, inside a `with` block or between `apply()` and `remove()`.

        with prune(model, GridPrune(keep=64), processor=processor) as pruning:
            model.generate(**inputs)
        pruning.report.save("kept.png")

    `generate` returns sequences with the original prompt in front, and what it calls back sees that prompt. A direct
    call returns logits, states and attention maps at the columns of the prompt that was given, `logits_to_keep` counts
    along it, and labels of dropped tokens count as -100. At a dropped column stands what the last kept one before it
    gave (before the first kept one: 0), so the column before any token holds what that token was predicted from. A
    later turn on the same cache may be given as the whole prompt or as its new part, with the new images or with all.
    Reusable and re-entrant.

    Of nested prunings of one model the innermost acts. Threads and `asyncio` tasks may each enter their own, in blocks
    that need not nest, and `asyncio.to_thread` takes a task's along. A thread that entered none is answered by the
    only pruning there is, or by the innermost of one nest; where there are several, its calls raise a `BusyError`.

    Args:
        model: a stock transformers model of a supported family; any attention implementation, any device. It may be
            wrapped by PEFT.
        method: what to keep; see `gridprune.methods`. Or its name, with settings if you like: "gridprune(zone=2)".
        keep: the budget of a method that is given by name; its default without it.
        processor: the model's processor. Its tokenizer and chat template are used to read the question from the prompt.
        question: overrides what is read from the prompt: one string for all images, or one per image in prompt order.
        clip: the text half of the model's vision tower, CLIP or SigLIP, for methods that use relevance: a `ClipText` or
            `SiglipText`, a folder or a hub id. A folder called `clip` in or beside a local checkpoint is found by
            itself.
        positions: "contiguous" renumbers the kept tokens, as LLaVA-based papers do; "original" keeps every token's
            position (renumbering destroys grounding, arXiv 2506.21873). Models with M-RoPE always keep theirs.
        attention_mass: whether a kept visual token counts in the language model's attention as many times as there are
            tokens that it stands for (:mod:`gridprune.hf.attention_mass`). Needs sdpa or eager attention.
        cache: remember the encoder's output for images that come back: a number of calls to hold, or an
            :class:`~gridprune.selection.encoder_cache.EncoderCache` to share between prunings of one model. None:
            encode every time.
        accelerate: whether vision tower and projector are recorded as a CUDA graph from the third call of a shape on,
            as the text tower and the decision always are, for models whose tower sees images, or crops, of one size. A
            GPU at a small batch waits for the host that launches the tower; the answers are the same. It takes calls
            without gradients and autocast, and as much memory as tower and projector work with for every batch size;
            graphs live as long as this object. Off a GPU nothing is recorded.
        max_reports: how many :class:`~gridprune.report.Report` to hold, newest last. Each keeps its image's pixels.

    Attributes:
        family: what is known about the model's kind.
        reports: the decisions, one per image, newest last.
        cache: the encoder cache in use, or None.

    Raises:
        UnsupportedModelError: no family knows the model's class, or the model is wrapped or compiled in a way that
            cannot be pruned.
        MissingCueError: the method needs a cue this model cannot give; the message names the remedy.
        SettingError: an unknown value of `positions`, no method, a `keep` beside one, or a `cache` or `attention_mass`
            that it goes past.
    """

    def __init__(
        self,
        model: Any,
        method: Method | str,
        *,
        keep: Keep | None = None,
        processor: Any = None,
        question: Question = None,
        clip: TextTower | str | Path | None = None,
        positions: Positions = "contiguous",
        attention_mass: bool = False,
        cache: EncoderCache | int | None = None,
        accelerate: bool = False,
        max_reports: int = 64,
    ) -> None:
        _check_setting("positions", positions, get_args(Positions))
        method = _method(method, keep)
        if cache is not None and method.stage != "pre-llm":
            raise SettingError(f"{method.name} does not go through gridprune's encoder call: leave `cache` out.")
        self.model = model
        self.method = method
        self.family: Family = families.find(model)
        tokenizer = None if processor is None else getattr(processor, "tokenizer", processor)
        self.text = text = TextSide(_find_clip(self.family, method, clip), tokenizer)
        self.reports: deque[Report] = deque(maxlen=max_reports)
        self.cache = EncoderCache(cache) if isinstance(cache, int) else cache
        self._graphs = Graphs()
        if accelerate:
            _check_accelerate(self.family, method)
        shared = {"cache": self.cache, "graphs": self._graphs, "accelerate": accelerate}
        selectors = [Selector.of(stream, text, method, **shared) for stream in self.family.streams]
        self._acting: Pruner
        if attention_mass and method.stage != "pre-llm":
            raise SettingError(f"{method.name} does not choose among all visual tokens: leave `attention_mass` out.")
        if method.stage == "in-llm":
            self._acting = LayerPruner(self.family, cast(InsideMethod, method), self.reports, processor)
        else:
            kind = WeighedPruner if attention_mass else PromptPruner
            self._acting = kind(self.family, method, selectors, processor, question, positions, self.reports)

    def __repr__(self) -> str:
        model = type(self.family.model).__name__
        return f"Pruning({self.method.label}, keep={self.method.keep!r}, {model}, {len(self.reports)} report(s))"

    @property
    def report(self) -> Report:
        """The newest of `reports`.

        Raises:
            UnsupportedCallError: no image went through the model yet.
        """
        if not self.reports:
            raise UnsupportedCallError("There is no report yet: no image went through the model inside the block.")
        return self.reports[-1]

    # -- switching on and off ------------------------------------------------------------------------------------

    def __enter__(self) -> Pruning:
        self._push(everywhere=False)
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()

    def apply(self) -> Pruning:
        """Switch pruning on until :meth:`remove`, which may be called in another thread, task or notebook cell."""
        self._push(everywhere=True)
        return self

    def remove(self) -> None:
        """Switch it off again: hooks and attributes are as they were before :meth:`apply`."""
        Interceptor.pop(self.family.model, self._acting)

    def _push(self, everywhere: bool) -> None:
        family = self.family
        Interceptor.push(family.model, family.base, self._acting, entry_modules(self.model), everywhere=everywhere)


prune = Pruning


def _check_accelerate(family: Family, method: Method) -> None:
    if method.stage != "pre-llm":
        raise SettingError(f"{method.name} does not go through gridprune's encoder call: leave `accelerate` out.")
    if not any(stream.one_size for stream in family.streams):
        raise UnsupportedModelError(
            f"The vision tower of {type(family.model).__name__} sees images of any size, so it cannot be recorded as a "
            "CUDA graph: leave `accelerate` out. It takes LLaVA-1.5, VipLLaVA, LLaVA-NeXT, LLaVA-OneVision, InternVL, "
            "PaliGemma, Gemma 3 and other models whose tower sees images, or crops, of one size."
        )


def _check_setting(name: str, given: str, known: tuple[str, ...]) -> None:
    if given not in known:
        raise SettingError(f"{name} must be {' or '.join(map(repr, known))}, got {given!r}.")


def _method(method: Any, keep: Keep | None) -> Method:
    if isinstance(method, str):
        return parse(method).method(Method.keep if keep is None else keep)
    if not isinstance(method, Method):
        raise SettingError(f"Give a method such as GridPrune(keep=64), or its name, 'gridprune'; got {method!r:.80}.")
    if keep is not None:
        raise SettingError(f"The budget of a method stands in it: {type(method).__name__}(keep={keep!r}).")
    return method


def _find_clip(family: Family, method: Method, clip: TextTower | str | Path | None) -> TextTower | None:
    if not method.needs & {"relevance", "word_relevance"} or not (family.text_tower or clip):
        return None
    tower = text_tower(clip, family.model)
    if tower is None:
        return None
    if tower is not clip:
        tower.to(device_of(family.model))
    if tower.source != family.text_tower:
        has = f"a vision tower whose text half is a {family.text_tower}" if family.text_tower else "none that fits"
        raise CheckpointError(
            f"`clip` is a {tower.source}, but {type(family.model).__name__} has {has}. Leave `clip` out, or give the "
            "checkpoint that the model's vision tower was taken from."
        )
    return tower
