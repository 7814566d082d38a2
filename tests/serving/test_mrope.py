"""Positions of shortened images, against counting by hand."""

from __future__ import annotations

import torch

from gridprune.vllm import mrope

IMAGE, TEXT = 9, 1


def full_positions(images: list[tuple[int, int]], gap: int) -> tuple[torch.Tensor, list[int]]:
    """Text, image, text, ... as Qwen counts: rows and columns from the next free number, then the larger side on."""
    columns: list[tuple[int, int, int]] = []
    tokens: list[int] = []
    free = 0
    for rows, width in images:
        columns += [(free + i,) * 3 for i in range(gap)]
        free += gap
        columns += [(free, free + r, free + c) for r in range(rows) for c in range(width)]
        tokens += [TEXT] * gap + [IMAGE] * (rows * width)
        free += max(rows, width)
    columns += [(free + i,) * 3 for i in range(gap)]
    return torch.tensor(columns).T, tokens + [TEXT] * gap


def shortened_prompt(
    images: list[tuple[int, int]], kept: list[list[int]], gap: int
) -> tuple[list[int], list[mrope.Span]]:
    tokens: list[int] = []
    where = []
    for (rows, width), own in zip(images, kept):
        tokens += [TEXT] * gap
        where.append((len(tokens), len(own), rows * width))
        tokens += [IMAGE] * len(own)
    return tokens + [TEXT] * gap, mrope.spans(where)


def embeddings(images: list[tuple[int, int]], kept: list[list[int]]) -> list[torch.Tensor]:
    made = []
    for (_, width), own in zip(images, kept):
        index = torch.tensor(own)
        made.append(mrope.attach(torch.zeros(len(own), 2, dtype=torch.bfloat16), index // width, index % width))
    return made


def test_positions_of_what_is_kept_are_those_of_the_full_prompt() -> None:
    images, kept, gap = [(3, 4), (300, 2)], [[0, 5, 11], [1, 7, 400, 599]], 2
    full, full_tokens = full_positions(images, gap)
    tokens, spans = shortened_prompt(images, kept, gap)
    assert mrope.lengthened(tokens, spans) == full_tokens
    begun = mrope.shortened(full, spans)
    media = torch.tensor(tokens) == IMAGE
    placed = mrope.place(begun, media, embeddings(images, kept), 0)
    starts = [span.start for span in spans]
    stays = [i for i, token in enumerate(full_tokens) if token == TEXT]
    stays += [start + i for start, own in zip(starts, kept) for i in own]
    assert torch.equal(placed, full[:, sorted(stays)])


def test_in_chunks_and_again() -> None:
    images, kept, gap = [(3, 4), (2, 5)], [[0, 5, 11], [1, 7, 9]], 3
    full, _ = full_positions(images, gap)
    tokens, spans = shortened_prompt(images, kept, gap)
    media = torch.tensor(tokens) == IMAGE
    values = embeddings(images, kept)
    whole = mrope.place(mrope.shortened(full, spans), media, values, 0)
    chunked = mrope.place(mrope.shortened(full, spans), media, [values[0][:2]], 0)
    cut = spans[0].offset + 2
    chunked = mrope.place(chunked, media, [values[0][2:], values[1]], cut)
    assert torch.equal(chunked, whole)
    assert torch.equal(mrope.place(whole, media, values, 0), whole)
    assert torch.equal(mrope.place(whole, media, [], len(tokens)), whole)


def test_what_is_not_pruned_keeps_its_positions() -> None:
    positions = torch.arange(6).expand(3, -1)
    media = torch.tensor([False, True, True, True, False, False])
    values = mrope.attach_nothing(torch.zeros(3, 2))
    assert torch.equal(mrope.place(positions, media, [values], 0), positions)
    assert mrope.detach(values).shape == (3, 2)
    untouched = mrope.spans([(1, 3, None), (5, 1, 1)])
    assert mrope.lengthened(range(6), untouched) == list(range(6))
    assert torch.equal(mrope.shortened(positions, untouched), positions)
