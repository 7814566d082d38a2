"""One call's pictures: encoded by the model, selected from by the method, and handed on shortened."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from ..core.token_map import TokenMap
from ..families.base import Encoded, Family, Place
from ..methods.base import Cues, Method, Selection, checked_select
from ..report.report import Report
from .collect import TextSide, collect, tower_features, wanted_blocks
from .encoder_cache import EncoderCache


@dataclass(eq=False)
class Choice:
    """What was decided for one picture: its row in a batched selection, the cues behind it, and the kept tokens."""

    selection: Selection
    cues: Cues
    row: int
    kept: Tensor  # (k,) candidate indices on the CPU


@dataclass(eq=False)
class Picked:
    """The outcome for the pictures of one modality.

    Attributes:
        masks: per picture (n,) bool, which tokens of the prompt stay.
        output: the encoder output to hand on.
        reports: one per picture.
    """

    masks: list[Tensor]
    output: Any
    reports: list[Report]


def pick(
    family: Family,
    method: Method,
    vision: dict[str, Any],
    places: Sequence[Place],
    questions: Callable[[], list[str]],
    text: TextSide,
    processor: Any,
    cache: EncoderCache | None = None,
) -> Picked:
    """Encode the pictures, let the method select, and gather what it keeps.

    Args:
        questions: gives one question per picture; called once, after the encoder ran.
        cache: where to look for the encoder's output first.
    """
    maps = [place.token_map for place in places]
    started = time.perf_counter()
    encoded = _encode(family, method, vision, maps, cache)
    between = time.perf_counter()
    asked = questions()
    choices = choose(family, method, encoded, asked, text)
    masks = [token_map.keep_mask(choice.kept) for token_map, choice in zip(maps, choices)]
    untouched = all(bool(mask.all()) for mask in masks) and not method.merges and method.stage != "pixels"
    kept = (
        []
        if untouched
        else [kept_embeddings(family, method, encoded, *each) for each in zip(range(len(maps)), choices, masks)]
    )
    output = encoded.output if untouched else family.handed_on(encoded, kept, masks, [place.row for place in places])
    finished = time.perf_counter()
    reports = [
        Report.build(
            method=method,
            family=family,
            token_map=maps[i],
            selection=choice.selection,
            cues=choice.cues,
            row=choice.row,
            kept=choice.kept,
            question=asked[i],
            picture=functools.partial(family.picture, vision, maps, i),
            processor=processor,
            encode_seconds=(between - started) / len(choices),
            decision_seconds=(finished - between) / len(choices),
        )
        for i, choice in enumerate(choices)
    ]
    return Picked(masks, output, reports)


def _encode(
    family: Family, method: Method, vision: dict[str, Any], maps: list[TokenMap], cache: EncoderCache | None
) -> Encoded:
    if method.stage != "pixels":
        read = wanted_blocks(family, method)
        if cache is None:
            return family.encode(vision, maps, read)
        return cache.encoded(family, vision, read, lambda: family.encode(vision, maps, read))
    rows, columns = maps[0].grid
    k = method.budget.resolve(rows * columns)
    return family.encode_resized(vision, maps, method.target_grid(rows, columns, k))  # type: ignore[attr-defined]


def choose(
    family: Family,
    method: Method,
    encoded: Encoded,
    questions: Sequence[str],
    text: TextSide,
    counts: Sequence[int] | None = None,
) -> list[Choice]:
    """Run the method on all pictures, those of one geometry in one batch, with one host synchronisation a batch.

    Args:
        counts: tokens to keep of each picture; None: the method decides.
    """
    result: dict[int, Choice] = {}
    for members, cues in _gathered(family, method, encoded, questions, text, counts):
        token_map = encoded.maps[members[0]].candidates
        selection = checked_select(method, cues, token_map, None if counts is None else counts[members[0]])
        result.update({i: Choice(selection, cues, row, selection.kept[row]) for row, i in enumerate(members)})
    return [result[i] for i in range(len(encoded.maps))]


def _gathered(
    family: Family,
    method: Method,
    encoded: Encoded,
    questions: Sequence[str],
    text: TextSide,
    counts: Sequence[int] | None = None,
) -> Iterator[tuple[list[int], Cues]]:
    """The pictures that can be selected from in one batch, and their cues: of one geometry, and of one count."""
    groups: dict[object, list[int]] = {}
    for i, token_map in enumerate(encoded.maps):
        # Methods whose count depends on the picture take one at a time.
        key = (token_map.key, counts and counts[i]) if method.fixed_count else i
        groups.setdefault(key, []).append(i)
    for members in groups.values():
        yield members, collect(family, method, encoded, members, [questions[i] for i in members], text)


def kept_embeddings(family: Family, method: Method, encoded: Encoded, i: int, choice: Choice, mask: Tensor) -> Tensor:
    """The kept embeddings (n_kept, D) of one picture in prompt order, merged or re-encoded if the method says so."""
    embeddings, token_map, merge = encoded.embeddings[i], encoded.maps[i], choice.selection.merge
    if method.stage == "pixels":
        return embeddings
    kept = embeddings[mask.nonzero()[:, 0].to(embeddings.device)]
    if merge is None:
        return kept
    one = slice(choice.row, choice.row + 1)
    token = None if merge.token is None else merge.token[one]
    own = replace(merge, group=merge.group[one], weight=merge.weight[one], token=token)
    if merge.space == "tower_features":
        merged = family.project(own.apply(tower_features(family, encoded, i)[None], len(choice.kept))[0])
    else:
        candidates = embeddings[token_map.candidate_positions.to(embeddings.device)]
        merged = own.apply(candidates[None], len(choice.kept))[0]
    content = (~token_map.separator[mask]).nonzero()[:, 0].to(kept.device)
    return kept.index_copy(0, content, merged.to(kept.dtype))
