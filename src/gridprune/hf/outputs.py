"""A shortened call, and what it returns put back at the columns of the prompt that the caller gave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..compat import CACHE, cache_of
from .cache_record import CacheRecord, remember
from .layout import PromptLayout


class Columns:
    """The layouts that parts of one output run along, told apart by their widths: one for a shortened prompt, several
    where tokens are dropped between layers.

    Args:
        fed: layouts of the tokens that were fed.
        held: for each, the layout of what its attention sees, a cache included.
    """

    def __init__(self, fed: Sequence[PromptLayout], held: Sequence[PromptLayout]) -> None:
        self._by_width = {rows.width: (rows, keys) for rows, keys in zip(fed, held) if not keys.identity}

    def aligned(self, output: Any) -> Any:
        """The output with states, attention maps and router logits at the caller's columns."""
        if not self._by_width:
            return output
        for name, align in _ALONG.items():
            value = getattr(output, name, None)
            if isinstance(value, Tensor):
                output[name] = align(self, value)
            elif value is not None:
                output[name] = tuple(part if part is None else align(self, part) for part in value)
        return output

    def generated(self, output: Any) -> Any:
        """The same for the output of `generate`, whose parts are one tuple per step; later steps are of one token."""
        if not self._by_width:
            return output
        for name in ("hidden_states", "attentions"):
            steps = getattr(output, name, None)
            if steps:
                output[name] = tuple(zip(*(getattr(self, f"_{name}")(layer) for layer in zip(*steps))))
        return output

    def _hidden_states(self, steps: Sequence[Tensor]) -> list[Tensor]:
        return [self.states(steps[0]), *steps[1:]]

    def _attentions(self, steps: Sequence[Tensor]) -> list[Tensor]:
        _, keys = self._of(steps[0].shape[-2], len(steps[0]))
        return [self.attention(steps[0]), *(keys.spread_keys(step) if keys else step for step in steps[1:])]

    def _of(self, width: int, batch: int) -> tuple[PromptLayout | None, PromptLayout | None]:
        rows, keys = self._by_width.get(width, (None, None))
        if rows is None or keys is None:
            return None, None
        copies = batch // len(rows.columns)
        return rows.rows(copies), keys.rows(copies)

    def states(self, values: Tensor) -> Tensor:
        """(B, L, D) from (B, W, D)."""
        rows, _ = self._of(values.shape[1], len(values))
        return values if rows is None else rows.spread(values)

    def attention(self, values: Tensor) -> Tensor:
        """(B, H, L, K) from (B, H, W, S); nobody pays attention to what was dropped."""
        rows, keys = self._of(values.shape[-2], len(values))
        if rows is None or keys is None:
            return values
        return rows.spread(keys.spread_keys(values).transpose(1, 2)).transpose(1, 2)

    def router(self, values: Tensor) -> Tensor:
        """(B * L, E) from (B * W, E)."""
        for rows, _ in self._by_width.values():
            batch = len(rows.columns)
            if values.shape[0] == batch * rows.width:
                return rows.spread(values.unflatten(0, (batch, -1))).flatten(0, 1)
        return values


_ALONG = {
    "last_hidden_state": Columns.states,
    "hidden_states": Columns.states,
    "attentions": Columns.attention,
    "router_logits": Columns.router,
}


@dataclass(eq=False)
class ShortenedCall:
    """One shortened call.

    Attributes:
        record: what to remember on the cache; None where nothing is cut and an earlier part of it is not known.
        original: (B, L) the ids as they were given.
        call: the arguments to call the model with.
        fed: the layout of what is fed, counted from the first column that no cache holds.
        dropped: (B, n) bool on the CPU, which columns of the last n were dropped in this call.
        rope_deltas: (B, 1) M-RoPE's delta of the prompt as it was given, or None.
        stock: the call is as it was given, and only recorded.
        as_tuple: the caller wants a tuple.
    """

    record: CacheRecord | None
    original: Tensor
    call: dict[str, Any]
    fed: PromptLayout
    dropped: Tensor | None = None
    rope_deltas: Tensor | None = None
    stock: bool = False
    as_tuple: bool = False

    @property
    def prompt(self) -> PromptLayout:
        """How the ids of the call were shortened."""
        whole = self.record is not None and self.record.layout.full == self.original.shape[1]
        return self.record.layout if whole else self.fed  # type: ignore[union-attr]

    @property
    def columns(self) -> Columns:
        """Where the parts of an output belong."""
        return Columns([self.fed], [self.record.layout]) if self.record is not None else Columns([], [])

    def remember(self, cache: Any) -> None:
        """Note on the cache, given or made by the model, what was fed into it."""
        given = cache_of(self.call)
        if self.record is not None:
            remember(given if given is not None else cache, self.record)

    def finish(self, output: Any) -> Any:
        """The output at the caller's columns, and what it was made from remembered."""
        self.remember(getattr(output, CACHE, None))
        output = self.columns.aligned(output)
        if self.rope_deltas is not None and getattr(output, "rope_deltas", None) is not None:
            output.rope_deltas = self.rope_deltas
        return output.to_tuple() if self.as_tuple else output
