"""What is measured at one batch size: the stock model, the pruned one, the limit, the vision tower, whole answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from ..core.budget import Keep
from ..families.base import Family
from ..hf.pruning import Pruning

What = Literal["unpruned", "tower", "native", "pruned", "answer"]
Inputs = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Call:
    """One call of the model.

    Attributes:
        what: "unpruned" and "pruned", from the image to the first token's logits; "native", the limit that pruning can
            reach (:func:`native`); "tower", vision tower and projector alone; "answer", `generate`.
        keep, method: the budget of a pruned or native call, and who chose; None is the stock model.
        question: "new" if the text tower reads the questions in this call, "cached" if it did before; None where the
            method asks no text tower.
        tokens: tokens that an answer generates.
        static: whether it is generated with a static cache, whose decoding transformers compiles on a GPU.
        pruning: what leaves a report of the call.
    """

    what: What
    run: Callable[[], Any] = field(repr=False)
    keep: Keep | None = None
    method: str | None = None
    question: Literal["new", "cached"] | None = None
    tokens: int = 1
    static: bool = False
    pruning: Pruning | None = field(default=None, repr=False)

    @property
    def label(self) -> str:
        """The call in words."""
        named = f"{self.method or self.what}{'' if self.keep is None else f' {self.keep}'}"
        asked = f", {self.question} question" if self.question else ""
        cache = ", static cache" if self.static else ""
        return named + asked + (f", {self.tokens} token(s){cache}" if self.what == "answer" else "")


def repeated(inputs: Any, batch: int) -> Inputs:
    """A processor's tensors of one image and one question, `batch` times."""
    return {name: torch.cat([value] * batch) for name, value in inputs.items()}


def unpruned(model: Any, family: Family, inputs: Inputs) -> Iterator[Call]:
    """The stock model's call, and its vision tower's part."""
    yield Call("unpruned", partial(first_token, model, inputs))
    yield Call("tower", partial(tower, family, inputs))


def pruned(prunings: dict[str, Pruning], limit: Pruning, inputs: Inputs, keep: Keep) -> Iterator[Call]:
    """The calls of one budget, the native one first.

    Args:
        prunings: by method.
        limit: the one that hands the native call its prompt.
    """
    short: Inputs = {}
    yield Call("native", partial(native, limit, inputs, short), keep, pruning=limit)
    for method, pruning in prunings.items():
        asks = pruning.method.uses_text and pruning.text.by_tower(pruning.family)
        if asks:
            yield Call("pruned", partial(_asked_anew, pruning, inputs), keep, method, "new", pruning=pruning)
        run = partial(first_token, pruning.model, inputs, pruning)
        yield Call("pruned", run, keep, method, "cached" if asks else None, pruning=pruning)


def answers(model: Any, inputs: Inputs, tokens: int, static: bool, **pruned: Any) -> Iterator[Call]:
    """Answers of one and of `tokens` tokens: their difference is what decoding takes.

    Args:
        pruned: keep, method and pruning, if any.
    """
    for count in (1, tokens):
        run = partial(_answer, model, inputs, pruned.get("pruning"), count, static)
        yield Call("answer", run, tokens=count, static=static, **pruned)


def first_token(model: Any, inputs: Inputs, pruning: Pruning | None = None) -> Any:
    """The prompt read, its keys and values kept, the logits of one token made."""
    with pruning or nullcontext():
        return model(**inputs, use_cache=True, logits_to_keep=1)


def tower(family: Family, inputs: Inputs) -> Any:
    """The encoder's output; blocks behind the last one that anybody reads do not run, as while pruning."""
    vision = family.vision(inputs)
    assert vision is not None  # the prompt brings an image
    last = family.last_block(vision)
    with nullcontext() if last is None else family.tower.reading(last=last):
        return family.features(vision)


def native(pruning: Pruning, inputs: Inputs, short: dict[str, Any]) -> Any:
    """The limit: the encoder, then the stock model on a prompt that never had more visual tokens than are kept.

    The same work as a pruned call's is left, but for looking and choosing.

    Args:
        short: what :func:`shortened` found, or empty: then a pruned call is made first, and this is filled.
    """
    if not short:
        short |= shortened(pruning, inputs)
    tower(pruning.family, inputs)
    return first_token(pruning.model, short)


def shortened(pruning: Pruning, inputs: Inputs) -> dict[str, Any]:
    """The arguments that a pruned call hands to the stock model, by making it: short ids, mask and positions, and the
    kept features as `mm_encoder_outputs`."""
    seen: dict[str, Any] = {}

    def note(module: Any, args: Any, given: dict[str, Any]) -> None:
        seen.update({name: value for name, value in given.items() if value is not None})

    with pruning, pruning.family.base.register_forward_pre_hook(note, with_kwargs=True):
        first_token(pruning.model, inputs)
    return {name: value for name, value in seen.items() if name not in ("use_cache", "logits_to_keep")}


def _asked_anew(pruning: Pruning, inputs: Inputs) -> Any:
    assert pruning.text.clip is not None  # it is what is asked
    pruning.text.clip.forget()
    return first_token(pruning.model, inputs, pruning)


def _answer(model: Any, inputs: Inputs, pruning: Pruning | None, tokens: int, static: bool) -> Any:
    cache = {"cache_implementation": "static"} if static else {}
    with pruning or nullcontext():
        return model.generate(**inputs, min_new_tokens=tokens, max_new_tokens=tokens, do_sample=False, **cache)
