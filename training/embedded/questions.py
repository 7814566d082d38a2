"""Questions about a scene: fourteen kinds, each answer balanced, each with the boxes of its evidence."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from gridprune.tiny.draws import Draws

from .phrases import asked, color_name, typed
from .scenes import PATCH, Box, Item, Scene
from .vocabulary import (
    BACKGROUNDS,
    CLASSES,
    COLORS,
    COUNTS,
    LETTERS,
    N_CLASSES,
    NOUNS,
    NUMBER_WORDS,
    ORDINALS,
    PLURALS,
    REGIONS,
    WORDS,
    label_word,
)

KINDS = (
    "exist", "attribute", "count", "position", "region", "relation", "reading", "choice", "describe", "more", "compare",
    "detail", "background", "page",
)  # fmt: skip
T = TypeVar("T")
LARGER = 1.4  # how much larger the larger one of two is


@dataclass(frozen=True)
class Question:
    """``template`` is the question's form with its nouns removed: all that a text-only answerer may use.

    ``key`` is the answer in terms of the template: "first" where the right one of two named things is named first.
    """

    kind: str
    template: str
    text: str
    answer: str
    boxes: tuple[Box, ...]
    key: str


def _question(kind: str, template: str, text: str, answer: str, boxes: Iterable[Box], key: str = "") -> Question:
    return Question(kind, template, text, answer, tuple(boxes), key or answer)


def _yes(yes: bool) -> str:
    return "yes" if yes else "no"


def _two(draws: Draws, items: Sequence[T]) -> tuple[T, T]:
    """Two different ones."""
    a, b = draws.shuffled(items)[:2]
    return a, b


def _of(scene: Scene, label: int) -> list[Item]:
    return [item for item in scene.objects if item.label == label]


def single(scene: Scene) -> list[Item]:
    """Objects that are the only ones of their class."""
    return [item for item in scene.objects if scene.counts[item.label] == 1]


def exist(scene: Scene, draws: Draws, yes: bool) -> Question:
    """Absent classes resemble a present one two times in three."""
    if yes:
        label = draws.choice(sorted(scene.counts))
    else:
        absent = [label for label in range(1, 1 + N_CLASSES) if label not in scene.counts]
        groups = {NOUNS[label - 1].group for label in scene.counts}
        alike = [label for label in absent if NOUNS[label - 1].group in groups]
        label = draws.choice(alike if alike and draws.chance(67) else absent)
    boxes = (item.box for item in _of(scene, label))
    return _question("exist", "exist", asked(draws, "exist", label), _yes(yes), boxes)


def color_of(scene: Scene, draws: Draws, item: Item) -> Question:
    text = asked(draws, "color of", item.label)
    return _question("attribute", "color of", text, COLORS[item.color - 1], [item.card])


def object_on(scene: Scene, draws: Draws, item: Item) -> Question | None:
    if sum(other.color == item.color for other in scene.objects) > 1:
        return None
    text = asked(draws, "object on", color=color_name(draws, item.color))
    return _question("attribute", "object on", text, label_word(item.label), [item.card])


def count(scene: Scene, draws: Draws, label: int) -> Question:
    items = _of(scene, label)
    return _question("count", "count", asked(draws, "count", label), str(len(items)), (item.box for item in items))


def position(scene: Scene, draws: Draws, item: Item) -> Question | None:
    region = scene.form.region_of(*item.center)
    if region is None:
        return None
    return _question("position", "position", asked(draws, "position", item.label), REGIONS[region], [item.box])


def region(scene: Scene, draws: Draws, number: int) -> Question | None:
    """Asked where one object is well inside and no other one is near."""
    x0, y0, x1, y1 = scene.form.region_box(number, scene.form.margin)
    near = [i for i in scene.objects if x0 < i.card[2] and i.card[0] < x1 and y0 < i.card[3] and i.card[1] < y1]
    if len(near) != 1 or scene.form.region_of(*near[0].center) != number:
        return None
    text = asked(draws, "region", region=REGIONS[number])
    return _question("region", "region", text, label_word(near[0].label), [near[0].box])


def relation(scene: Scene, draws: Draws, yes: bool) -> Question | None:
    unique = single(scene)
    for _ in range(12):
        a, b = _two(draws, unique)
        axis = draws.below(2)
        gap = b.center[axis] - a.center[axis]
        if abs(gap) < 3 * scene.form.margin:
            continue
        word = (("left", "above") if (gap > 0) == yes else ("right", "below"))[axis]
        return _question("relation", "relation", asked(draws, word, a.label, b.label), _yes(yes), [a.box, b.box])
    return None


def reading(scene: Scene, draws: Draws, sign: Item) -> Question:
    if len(scene.texts) > 1:
        text = asked(draws, "sign of", color=color_name(draws, sign.color))
    else:
        text = asked(draws, "sign")
    return _question("reading", "sign", text, label_word(sign.label), [sign.card])


def _options(draws: Draws, right: str, wrong: Sequence[str], letter: int) -> str:
    names = draws.shuffled(wrong)[:3]
    names.insert(letter, right)
    mark = draws.choice(("", "", ".", ")"))
    return " ".join(f"{each}{mark} {name}" for each, name in zip(LETTERS, names, strict=True))


def choice(scene: Scene, draws: Draws, letter: int, colors: int = 40) -> Question:
    """Multiple choice; ``colors`` percent of them about a card's colour."""
    colored = [item for item in single(scene) if item.color]
    if colored and draws.chance(colors):
        item = draws.choice(colored)
        right = COLORS[item.color - 1]
        options = _options(draws, right, [c for c in COLORS if c != right], letter)
        text = asked(draws, "choice color", item.label, options=options)
        return _question("choice", "choice color", text, LETTERS[letter], [item.card])
    label = draws.choice(sorted(scene.counts))
    absent = [name for number, name in enumerate(CLASSES, start=1) if number not in scene.counts]
    text = asked(draws, "choice object", options=_options(draws, CLASSES[label - 1], absent, letter))
    return _question("choice", "choice object", text, LETTERS[letter], (item.box for item in _of(scene, label)))


def describe(scene: Scene, draws: Draws) -> Question | None:
    """What there is most of, and where; to know it, every object has to be seen."""
    ranked = sorted(scene.counts, key=lambda label: -scene.counts[label])
    most = scene.counts[ranked[0]]
    if most < 2 or sum(number == most for number in scene.counts.values()) > 1:
        return None
    answer = f"{NUMBER_WORDS[most - 1]} {PLURALS[ranked[0] - 1]} on {BACKGROUNDS[scene.background]}"
    boxes = (item.box for item in scene.objects)
    return _question("describe", "describe", asked(draws, "describe"), answer, boxes)


def more(scene: Scene, draws: Draws, a: int, b: int, first: bool) -> Question | None:
    """Of which of two classes there is more; the right one is named first, or not."""
    if scene.counts[a] == scene.counts[b]:
        return None
    if (scene.counts[a] > scene.counts[b]) != first:
        a, b = b, a
    right = PLURALS[(a if first else b) - 1]
    boxes = [item.box for item in scene.objects if item.label in (a, b)]
    return _question("more", "more", asked(draws, "more", a, b), right, boxes, "first" if first else "second")


def more_than(scene: Scene, draws: Draws, a: int, b: int, yes: bool) -> Question | None:
    if scene.counts[a] == scene.counts[b]:
        return None
    if (scene.counts[a] > scene.counts[b]) != yes:
        a, b = b, a
    boxes = [item.box for item in scene.objects if item.label in (a, b)]
    return _question("more", "more than", asked(draws, "more than", a, b), _yes(yes), boxes)


def larger(scene: Scene, draws: Draws, a: Item, b: Item, first: bool) -> Question | None:
    """Which of two objects is larger, whatever the cards."""
    big, small = sorted((a, b), key=lambda item: -item.longest)
    if big.longest < LARGER * small.longest:
        return None
    pair = (big.label, small.label) if first else (small.label, big.label)
    text, key = asked(draws, "larger", *pair), "first" if first else "second"
    return _question("compare", "larger", text, label_word(big.label), [a.box, b.box], key)


def same_color(scene: Scene, draws: Draws, a: Item, b: Item) -> Question:
    text = asked(draws, "same color", a.label, b.label)
    return _question("compare", "same color", text, _yes(a.color == b.color), [a.card, b.card])


def detail(scene: Scene, draws: Draws, item: Item) -> Question:
    assert item.dot is not None
    color, box = item.dot
    return _question("detail", "detail", asked(draws, "detail", item.label), COLORS[color - 1], [box])


def background(scene: Scene, draws: Draws) -> Question:
    text = asked(draws, "background")
    return _question("background", "background", text, BACKGROUNDS[scene.background], empty(scene))


def empty(scene: Scene) -> list[Box]:
    """Boxes of what no item touches, a row of patches at a time."""
    side = scene.form.side
    free = np.ones((side // PATCH, side // PATCH + 1), bool)
    free[:, -1] = False
    for x0, y0, x1, y1 in (item.card for item in scene.items):
        free[y0 // PATCH : -(-y1 // PATCH), x0 // PATCH : -(-x1 // PATCH)] = False
    rows, columns = np.nonzero(np.diff(free, axis=1, prepend=False))  # where runs begin and end, in pairs
    runs = zip(rows[::2].tolist(), columns[::2].tolist(), columns[1::2].tolist(), strict=True)
    return [(x0 * PATCH, row * PATCH, x1 * PATCH, (row + 1) * PATCH) for row, x0, x1 in runs]


def nth(scene: Scene, draws: Draws, item: Item) -> Question:
    slots = [other for other in scene.texts if other.line == item.line]
    last = item.slot == len(slots) - 1 and draws.chance(50)
    place = "last" if last else ORDINALS[item.slot]
    text = asked(draws, "nth", nth=place, line=str(item.line), lineth=ORDINALS[item.line - 1])
    return _question("page", "nth", text, label_word(item.label), [item.box])


def after(scene: Scene, draws: Draws, item: Item) -> Question:
    """``item`` is the answer: the word on the right of the one that is named."""
    before = next(o for o in scene.texts if o.line == item.line and o.slot == item.slot - 1)
    text = asked(draws, "after", word=label_word(before.label))
    return _question("page", "after", text, label_word(item.label), [before.box, item.box])


def occurs(scene: Scene, draws: Draws, word: int) -> Question:
    boxes = [item.box for item in scene.texts if item.label == 1 + N_CLASSES + word]
    return _question("page", "occurs", asked(draws, "occurs", word=WORDS[word]), _yes(bool(boxes)), boxes)


def title(scene: Scene, draws: Draws) -> Question:
    item = scene.texts[0]
    return _question("reading", "title", asked(draws, "title"), label_word(item.label), [item.box])


def lines(scene: Scene, draws: Draws) -> Question:
    firsts = [item.box for item in scene.texts if item.line and item.slot == 0]
    return _question("count", "lines", asked(draws, "lines"), str(len(firsts)), firsts)


def balanced(scene: Scene) -> list[Question]:
    """The questions of the evaluation, at most two of a form, with the answers of the scene's targets."""
    draws, t = Draws(scene.root, scene.index, 4), scene.targets
    if scene.is_page:
        by_label = {item.label - 1 - N_CLASSES: item for item in scene.texts}
        place, neighbor, there, missing, _ = t.words
        return [
            nth(scene, draws, by_label[place]),
            after(scene, draws, by_label[neighbor]),
            occurs(scene, draws, there),
            occurs(scene, draws, missing),
            title(scene, draws),
            lines(scene, draws),
        ]
    by_class = {item.label: item for item in scene.objects}
    host, mate, colored = by_class[t.host], by_class[t.mate], by_class[t.colored]
    yes, no = relation(scene, draws, True), relation(scene, draws, False)
    found = [
        exist(scene, draws, True),
        exist(scene, draws, False),
        color_of(scene, draws, colored),
        object_on(scene, draws, colored),
        count(scene, draws, t.counted),
        position(scene, draws, by_class[t.anchor]),
        region(scene, draws, t.region),
        *((yes, no) if yes and no else ()),
        reading(scene, draws, scene.texts[0]),
        choice(scene, draws, t.letter),
        describe(scene, draws),
        more(scene, draws, t.counted, t.rival, t.first),
        more_than(scene, draws, t.counted, t.rival, t.same),
        larger(scene, draws, host, mate, t.first),
        same_color(scene, draws, host, mate),
        detail(scene, draws, host),
        background(scene, draws),
    ]
    return [question for question in found if question is not None]


def _photo_extras(scene: Scene, draws: Draws) -> dict[str, Callable[[], Question | None]]:
    unique, labels = single(scene), sorted(scene.counts)
    colored = [item for item in unique if item.color]
    often = [label for label in labels if scene.counts[label] > 1] or labels
    host = next(item for item in scene.objects if item.dot is not None)
    return {
        "exist": lambda: exist(scene, draws, draws.chance(50)),
        "color": lambda: color_of(scene, draws, draws.choice(colored)),
        "object": lambda: object_on(scene, draws, draws.choice(colored)),
        "count": lambda: count(scene, draws, draws.choice(often if draws.chance(75) else labels)),
        "position": lambda: position(scene, draws, draws.choice(unique)),
        "region": lambda: region(scene, draws, draws.below(len(REGIONS))),
        "relation": lambda: relation(scene, draws, draws.chance(50)),
        "reading": lambda: reading(scene, draws, draws.choice(scene.texts)),
        "choice": lambda: choice(scene, draws, draws.below(len(LETTERS))),
        "more": lambda: more(scene, draws, *_two(draws, labels), draws.chance(50)),
        "more than": lambda: more_than(scene, draws, *_two(draws, labels), draws.chance(50)),
        "larger": lambda: larger(scene, draws, *_two(draws, unique), draws.chance(50)),
        "same": lambda: same_color(scene, draws, *_two(draws, colored)),
        "detail": lambda: detail(scene, draws, host),
    }


def _page_extras(scene: Scene, draws: Draws) -> dict[str, Callable[[], Question | None]]:
    words = [item for item in scene.texts if item.line]
    there = [item.label - 1 - N_CLASSES for item in scene.texts]
    missing = [word for word in range(len(WORDS)) if word not in there]
    return {
        "nth": lambda: nth(scene, draws, draws.choice(words)),
        "after": lambda: after(scene, draws, draws.choice([item for item in words if item.slot])),
        "occurs": lambda: occurs(scene, draws, draws.choice(there if draws.chance(50) or not missing else missing)),
    }


def training(scene: Scene, n: int) -> list[Question]:
    """Up to ``n`` questions: the balanced ones, and varied extras; some typed in haste."""
    draws = Draws(scene.root, scene.index, 5)
    chosen = [q for q in balanced(scene) if q.kind != "describe" or draws.chance(50)]
    seen = {question.text for question in chosen}
    extras = list((_page_extras if scene.is_page else _photo_extras)(scene, draws).values())
    for _ in range(4 * n):
        if len(chosen) >= n:
            break
        question = draws.choice(extras)()
        if question is not None and question.text not in seen:
            chosen.append(question)
            seen.add(question.text)
    hasty = [
        Question(q.kind, q.template, typed(draws, q.text), q.answer, q.boxes, q.key)
        if q.kind != "choice" and draws.chance(8)
        else q
        for q in chosen
    ]
    return draws.shuffled(hasty)[:n]


def template_prior(questions: Iterable[Question]) -> dict[str, float]:
    """Accuracy by kind of the best answer that knows only the template of the question."""
    table: dict[tuple[str, str], dict[str, int]] = {}
    for q in questions:
        answers = table.setdefault((q.kind, q.template), {})
        answers[q.key] = answers.get(q.key, 0) + 1
    right: dict[str, int] = {}
    total: dict[str, int] = {}
    for (kind, _), answers in table.items():
        right[kind] = right.get(kind, 0) + max(answers.values())
        total[kind] = total.get(kind, 0) + sum(answers.values())
    return {kind: right[kind] / total[kind] for kind in KINDS if kind in total}


assert len(COUNTS) == len(NUMBER_WORDS)
