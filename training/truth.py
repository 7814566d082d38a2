"""What lies on each patch, and what is true of each thing a question can name: for the symbolic stage alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from training.embedded.cells import overlap
from training.embedded.scenes import PATCH, Scene
from training.embedded.vocabulary import (
    COLOR_NAMES,
    COLORS,
    COUNTS,
    N_CLASSES,
    N_COLORS,
    N_LABELS,
    NOUNS,
    TOKEN_ID,
    VOCABULARY,
    WORDS,
)

MOST = len(COUNTS) + 1  # counts are told apart up to one more than the largest answer
N_SUBJECTS = N_LABELS + N_COLORS  # classes and words by label id, then colours
UNKNOWN = -100


@dataclass(frozen=True)
class Cells:
    """By patch, all [G, G] where G patches make a side: ids (0: nothing), and whether an item's centre lies there."""

    label: np.ndarray
    color: np.ndarray
    dot: np.ndarray
    center: np.ndarray
    title: np.ndarray


def cells(scene: Scene, patch: int = PATCH) -> Cells:
    """Ground truth of every patch of a scene; the patches of an overview cover more pixels of the image."""
    side = scene.form.side
    shape = (side // patch, side // patch)
    label, color, dot, center, title = (np.zeros(shape, np.int64) for _ in range(5))
    best = np.full(shape, 3 * patch * patch // 8)
    for item in scene.items:
        cx, cy = item.center
        row, col = cy // patch, cx // patch
        x0, y0, x1, y1 = item.card
        part = np.s_[y0 // patch : -(-y1 // patch), x0 // patch : -(-x1 // patch)]
        area = overlap(item.card if item.is_text else item.box, side, patch)[part]
        mine = area >= best[part]
        label[part][mine] = item.label
        best[part][mine] = area[mine]
        title[part][mine] = item.line == 0
        label[row, col], center[row, col], best[row, col] = item.label, 1, patch * patch
        if item.color:
            color[part][overlap(item.card, side, patch)[part] * 2 >= patch * patch] = item.color
            color[part][mine] = item.color
        if item.dot is not None:
            dot[overlap(item.dot[1], side, patch) * 4 >= patch * patch] = item.dot[0]
    return Cells(label, color, dot, center, title)


def _subjects() -> Tensor:
    """Subject of every token of the vocabulary, [V]: label id of a noun or word, N_LABELS + colour id, or 0."""
    out = torch.zeros(len(VOCABULARY), dtype=torch.long)
    for label, noun in enumerate(NOUNS, start=1):
        for name in noun.names:
            out[[TOKEN_ID[name], TOKEN_ID[noun.plural(name)]]] = label
    for number, word in enumerate(WORDS):
        out[TOKEN_ID[word]] = 1 + N_CLASSES + number
    for color, usual in enumerate(COLORS, start=1):
        out[[TOKEN_ID[name] for name in (usual, *COLOR_NAMES.get(usual, ()))]] = N_LABELS + color
    return out


SUBJECTS = _subjects()


def facts(scene: Scene) -> tuple[Tensor, Tensor]:
    """Of every subject: count, card's colour, spot's colour, partner [N_SUBJECTS, 4]; and place (y, x) [N_SUBJECTS, 2].

    A colour's partner is the only object on a card of it; a word's, the next one in its line. UNKNOWN where there is
    none; a place is NaN unless there is one such thing.
    """
    out = torch.full((N_SUBJECTS, 4), UNKNOWN)
    place = torch.full((N_SUBJECTS, 2), torch.nan)
    out[1:N_LABELS, 0] = 0
    items = list(scene.items)
    for item, following in zip(items, [*items[1:], None]):
        known = out[item.label]
        known[0] = min(int(known[0]) + 1, MOST)
        x, y = item.center
        place[item.label] = torch.tensor([y, x]) / scene.form.side
        known[1], known[2] = item.color, item.dot[0] if item.dot else 0
        if item.line > 0 and following is not None and following.line == item.line:
            known[3] = following.label
        if item.color and not item.is_text:
            color = out[N_LABELS + item.color]
            color[0] = 1 if color[0] < 0 else color[0] + 1
            color[3] = item.label
    many = out[:, 0] != 1
    place[many] = torch.nan
    out[many, 1:] = UNKNOWN
    out[N_LABELS:, 0] = UNKNOWN
    return out, place
