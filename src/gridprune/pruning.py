"""`prune`: the context manager that shortens a live model's prompts, and restores the model exactly.

Nothing inside the model is replaced. `model.generate` is intercepted at the instance and a forward pre-hook catches
direct calls; both hand the model a shorter prompt and the kept features through its public `mm_encoder_outputs`.
"""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any, cast

from . import families
from .calls import Positions, Question, Shortener
from .cues.clip_text import ClipText, find_beside
from .cues.collect import TextSide, check_available
from .errors import SettingError
from .families.base import CLIP_TEXT, Family
from .inside.base import InsideMethod
from .inside.engine import InsideEngine
from .intercept import Acting, Interceptor
from .methods.base import Method
from .report import Report


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

    `generate` returns sequences with the original prompt in front. A direct call returns logits of the shortened
    prompt. A later turn on the same cache may be given as the whole prompt or as its new part, with the new pictures
    or with all.

    Args:
        model: a stock transformers model of a supported family; any attention implementation, any device.
        method: what to keep; see `gridprune.methods`.
        processor: the model's processor. Its tokenizer and chat template are used to read the question from the prompt.
        question: overrides what is read from the prompt: one string for all images, or one per image in prompt order.
        clip: CLIP's text half for methods that use relevance: a `ClipText`, a folder or a hub id. A folder called
            `clip` in or beside a local checkpoint is found by itself.
        positions: "contiguous" renumbers the kept tokens, as LLaVA-based papers do; "original" keeps every token's
            position (renumbering destroys grounding, arXiv 2506.21873). Models with M-RoPE always keep theirs.
        max_reports: how many :class:`~gridprune.report.Report` to hold, newest last. Each keeps its picture's pixels.

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
        self.family: Family = families.find(model)
        tokenizer = None if processor is None else getattr(processor, "tokenizer", processor)
        text = TextSide(_find_clip(self.family, method, clip), tokenizer)
        for stream in self.family.streams:
            check_available(stream, method, text)
        self.reports: deque[Report] = deque(maxlen=max_reports)
        self._acting: Acting
        if method.stage == "in-llm":
            self._acting = InsideEngine(self.family, cast(InsideMethod, method), self.reports, processor)
        else:
            self._acting = Shortener(self.family, method, text, processor, question, positions, self.reports)

    # -- switching on and off ------------------------------------------------------------------------------------

    def __enter__(self) -> Pruning:
        return self.apply()

    def __exit__(self, *exception: object) -> None:
        self.remove()

    def apply(self) -> Pruning:
        """Switch pruning on until :meth:`remove`. Of nested prunings of one model the innermost acts.

        Raises:
            BusyError: another thread is pruning the model.
        """
        Interceptor.push(self.model, self._acting)
        self._acting.install()
        return self

    def remove(self) -> None:
        """Switch it off again: hooks and attributes are as they were before :meth:`apply`."""
        Interceptor.pop(self.model, self._acting)
        self._acting.uninstall()


def _find_clip(family: Family, method: Method, clip: ClipText | str | Path | None) -> ClipText | None:
    if not method.needs & {"relevance", "word_relevance"} or family.relevance != CLIP_TEXT:
        return None
    if isinstance(clip, ClipText):
        return clip
    if clip is None:
        folder = getattr(family.model.config, "_name_or_path", "") or ""
        clip = find_beside(folder) if folder and Path(folder).is_dir() else None
    return None if clip is None else ClipText.load(clip).to(family.model.device)
