"""Captions: what a person could write under a scene, in many ways. They are all that the towers learn from.

Some read like questions (about what is there), as alternative texts on the web do, so that the text tower has seen the
words of questions; none is made from the questions of the evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gridprune.tiny.draws import Draws
from training.embedded.scenes import Item, Scene
from training.embedded.vocabulary import (
    BACKGROUNDS,
    BOS,
    COLOR_NAMES,
    COLORS,
    EOS,
    NOUNS,
    NUMBER_WORDS,
    ORDINALS,
    PAD,
    REGIONS,
    article,
    encode,
    label_word,
)

LIMIT = 48  # tokens of a caption
OPENINGS = (
    "", "", "", "", "a picture of", "an image with", "a photo of", "there is", "this is", "here we see",
    "the scene has", "find", "look at", "show me", "a picture with many things:", "in this picture:",
)  # fmt: skip
ASKING = (
    "where is", "is there", "can you see", "what is in the picture?", "what color is", "how many things are there?",
    "which object is this?", "do you see", "what does it say?", "does the picture have", "which is larger or smaller,",
    "are there more or fewer of", "what is the background?", "is it to the left or to the right of", "describe",
    "is the same in the image as", "what is on", "what is behind", "what is above or below", "count",
)  # fmt: skip


def caption(scene: Scene, draws: Draws) -> str:
    """One of the many captions of a scene."""
    parts = _page(scene, draws) if scene.is_page else _photo(scene, draws)
    opening = draws.choice(ASKING if draws.chance(15) else OPENINGS)
    join = " and " if draws.chance(40) else ", "
    text, room = opening, LIMIT - 2
    for part in parts:
        longer = f"{text}{join if text and text != opening else ' '}{part}"
        if len(encode(longer)) > room:
            break
        text = longer
    return text.strip()


def _photo(scene: Scene, draws: Draws) -> list[str]:
    groups: dict[int, list[Item]] = {}
    for item in scene.objects:
        groups.setdefault(item.label, []).append(item)
    parts = [_group(items, draws, scene) for items in groups.values()] + [_sign(item, draws) for item in scene.texts]
    if draws.chance(65):
        name = BACKGROUNDS[scene.background]
        parts.append(draws.choice((f"on {name}", f"{name} in the background", f"background of {name}", name)))
    parts = draws.shuffled(parts)
    return parts if draws.chance(40) else parts[: draws.between(2, 6)]


def _color(color: int, draws: Draws) -> str:
    name = COLORS[color - 1]
    return draws.choice(COLOR_NAMES[name]) if name in COLOR_NAMES and draws.chance(10) else name


def _group(items: Sequence[Item], draws: Draws, scene: Scene) -> str:
    noun = NOUNS[items[0].label - 1]
    name = draws.choice(noun.names) if draws.chance(25) else noun.name
    colors = {item.color for item in items}
    color = _color(items[0].color, draws) if len(colors) == 1 and items[0].color and draws.chance(80) else ""
    if len(items) > 1:
        plural, n = noun.plural(name), len(items)
        number = draws.choice((NUMBER_WORDS[n - 1], str(n), NUMBER_WORDS[n - 1], "many" if n > 3 else "some", ""))
        return f"{number} {plural}{f' on {color} cards' if color else ''}".strip()
    item, size = items[0], ""
    if draws.chance(25):
        size = draws.choice(("large", "big")) if item.longest >= 38 else "small" if item.longest <= 20 else ""
    what = f"{size} {name}".strip()
    if color:
        forms = (f"{article(what)} on {article(color)} card", f"{article(color)} card behind {article(what)}",
                 f"{article(color)} card with {article(what)}", f"{color} {what}")  # fmt: skip
        what = draws.choice(forms)
    else:
        what = article(what) if draws.chance(80) else what
    if item.dot is not None and draws.chance(60):
        what += f" with {article(_color(item.dot[0], draws))} dot"
    region = None if scene.cut else scene.form.region_of(*item.center)
    if region is not None and draws.chance(10):
        what += draws.choice((f" in the {REGIONS[region]}", f" at the {REGIONS[region]}"))
    return what


def _sign(item: Item, draws: Draws) -> str:
    word, color = label_word(item.label), _color(item.color, draws)
    forms = (
        f"a sign that says {word}", f"{article(color)} sign that says {word}", f"{color} board with the word {word}",
        f"the text {word} on {article(color)} sign", f"sign {word}", word,
    )  # fmt: skip
    return draws.choice(forms)


def _page(scene: Scene, draws: Draws) -> list[str]:
    words = [label_word(item.label) for item in scene.texts]
    last = scene.texts[-1].line
    style = draws.below(7 if scene.cut else 10)  # lines are not numbered in a part of a page
    if style < 4:
        opening = draws.choice(("page:", "a page with the words", "the page says", "text", "words on a page:", "title"))
        return [f"{opening} {' '.join(words)}"] if len(words) < 40 else [f"{opening} {' '.join(words[:40])}"]
    if style < 7:
        return ["page with the words", *draws.shuffled(words)[: draws.between(4, 14)]]
    parts = [f"title {words[0]}"] if draws.chance(50) else [f"page with {last} lines of text"]
    for line in draws.shuffled(range(1, last + 1))[: draws.between(1, 3)]:
        text = " ".join(label_word(item.label) for item in scene.texts if item.line == line)
        parts.append(draws.choice((f"{ORDINALS[line - 1]} line {text}", f"line {line}: {text}")))
    return parts


def tokenize(texts: Sequence[str], limit: int = 77) -> Tensor:
    """Ids with <s> and </s>, padded, [B, T]."""
    rows = [[BOS, *encode(text)[: limit - 2], EOS] for text in texts]
    out = torch.full((len(rows), max(map(len, rows))), PAD)
    for i, row in enumerate(rows):
        out[i, : len(row)] = torch.tensor(row)
    return out
