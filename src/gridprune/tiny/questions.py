"""Questions about a scene: nine kinds, each answer balanced, each with its evidence items."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeGuard

from .draws import Draws
from .scenes import Box, Item, Scene
from .vocabulary import CLASSES, COLORS, COUNTS, GROUPS, LETTERS, PLURALS, REGIONS, article, label_word

#: kinds that ask where something is in the whole picture
PLACES = frozenset({"position", "region", "relation"})
KINDS = ("exist", "attribute", "count", "position", "region", "relation", "reading", "choice", "describe")


@dataclass(frozen=True)
class Question:
    """``template`` is the question's form with its nouns removed: all a text-only answerer may use."""

    kind: str
    template: str
    text: str
    answer: str
    evidence: tuple[Item, ...]

    @property
    def boxes(self) -> tuple[Box, ...]:
        """Evidence boxes in pixels: the ink of objects; cards and signs where the question needs them."""
        wide = self.kind in ("attribute", "reading") or self.template == "choice color"
        return tuple(item.card if wide or item.is_sign else item.box for item in self.evidence)


def _name(item: Item) -> str:
    return label_word(item.label)


def _unique(scene: Scene) -> list[Item]:
    return [item for item in scene.objects if scene.counts[item.label] == 1]


def _absent(scene: Scene, draws: Draws) -> str:
    """A class that is not there; two times in three one that resembles a present class."""
    present = {CLASSES[label - 1] for label in scene.counts}
    absent = [name for name in CLASSES if name not in present]
    alike = [name for name in absent if any(name in g and present & set(g) for g in GROUPS)]
    return draws.choice(alike if alike and draws.chance(67) else absent)


def exist(scene: Scene, draws: Draws, yes: bool) -> Question | None:
    if yes:
        label = draws.choice(sorted(scene.counts))
        name, items = CLASSES[label - 1], tuple(i for i in scene.objects if i.label == label)
    else:
        name, items = _absent(scene, draws), ()
    tail = draws.choice(("", " in the picture"))
    return Question("exist", "exist", f"Is there {article(name)}{tail}?", "yes" if yes else "no", items)


def color_of(scene: Scene, draws: Draws, item: Item | None) -> Question | None:
    options = [item] if item else [i for i in _unique(scene) if i.color]
    if not options:
        return None
    item = draws.choice(options)
    text = f"What color is the card behind the {_name(item)}?"
    return Question("attribute", "color of", text, COLORS[item.color - 1], (item,))


def object_on(scene: Scene, draws: Draws, item: Item | None) -> Question | None:
    options = [i for i in scene.objects if i.color and sum(j.color == i.color for j in scene.objects) == 1]
    if item is not None:
        options = [item] if item in options else []
    if not options:
        return None
    item = draws.choice(options)
    return Question("attribute", "object on", f"What is on the {COLORS[item.color - 1]} card?", _name(item), (item,))


def count(scene: Scene, draws: Draws, label: int) -> Question:
    items = tuple(i for i in scene.objects if i.label == label)
    plural = PLURALS[label - 1]
    text = draws.choice((f"How many {plural} are there?", f"How many {plural} are in the picture?"))
    return Question("count", "count", text, str(len(items)), items)


def position(scene: Scene, draws: Draws, item: Item | None) -> Question | None:
    options = (
        [item]
        if item
        else [i for i in _unique(scene) if scene.form.region_of(*i.center, scene.form.margin) is not None]
    )
    if not options:
        return None
    item = draws.choice(options)
    region = scene.form.region_of(*item.center, scene.form.margin)
    if region is None:
        return None
    return Question("position", "position", f"Where is the {_name(item)}?", REGIONS[region], (item,))


def region(scene: Scene, draws: Draws, number: int) -> Question | None:
    near, margin = scene.form.near_region, scene.form.margin
    inside = [i for i in scene.objects if near(*i.center, number, margin)]
    if len(inside) != 1 or not near(*inside[0].center, number, -margin):
        return None
    return Question("region", "region", f"What object is in the {REGIONS[number]}?", _name(inside[0]), (inside[0],))


def relation(scene: Scene, draws: Draws, yes: bool) -> Question | None:
    unique = _unique(scene)
    for _ in range(12):
        if len(unique) < 2:
            return None
        a, b = draws.shuffled(unique)[:2]
        axis = draws.below(2)
        gap = b.center[axis] - a.center[axis]
        if abs(gap) < scene.form.relation_margin:
            continue
        first = gap > 0  # a is left of / above b
        word = (("to the left of", "above") if first == yes else ("to the right of", "below"))[axis]
        text = f"Is the {_name(a)} {word} the {_name(b)}?"
        return Question("relation", "relation", text, "yes" if yes else "no", (a, b))
    return None


def reading(scene: Scene, draws: Draws, sign: Item) -> Question:
    board = f"{COLORS[sign.color - 1]} sign" if len(scene.signs) > 1 else "sign"
    return Question("reading", "reading", f"What does the {board} say?", label_word(sign.label), (sign,))


def _options(names: Iterable[str]) -> str:
    return " ".join(f"{letter} {name}" for letter, name in zip(LETTERS, names, strict=True))


def choice(scene: Scene, draws: Draws, letter: int, colors: int = 40) -> Question | None:
    """Multiple choice; ``colors`` percent of them about a card's colour."""
    colored = [i for i in _unique(scene) if i.color]
    if colored and draws.chance(colors):
        item = draws.choice(colored)
        wrong = draws.shuffled([c for c in COLORS if c != COLORS[item.color - 1]])[:3]
        wrong.insert(letter, COLORS[item.color - 1])
        text = f"Which color is the card behind the {_name(item)}? {_options(wrong)}"
        return Question("choice", "choice color", text, LETTERS[letter], (item,))
    present = {CLASSES[label - 1]: label for label in sorted(scene.counts)}
    wrong = draws.shuffled([name for name in CLASSES if name not in present])[:3]
    if len(wrong) < 3:
        return None
    name = draws.choice(list(present))
    wrong.insert(letter, name)
    items = tuple(i for i in scene.objects if i.label == present[name])
    return Question(
        "choice", "choice object", f"Which object is in the picture? {_options(wrong)}", LETTERS[letter], items
    )


def describe(scene: Scene, draws: Draws) -> Question | None:
    """What there is most of, and how many; to know it, every object has to be seen."""
    ranked = sorted(scene.counts, key=lambda label: -scene.counts[label])
    most = scene.counts[ranked[0]]
    if not 1 < most <= len(COUNTS) or sum(number == most for number in scene.counts.values()) > 1:
        return None
    answer = f"{most} {PLURALS[ranked[0] - 1]}"
    return Question("describe", "describe", "Describe the picture.", answer, scene.objects)


def balanced(scene: Scene) -> list[Question]:
    """At most one or two questions per kind, with the answers of the scene's balanced targets."""
    root, index, target = scene.root, scene.index, scene.targets
    draws = Draws(root, index, 4)
    by_class = {item.label: item for item in scene.objects}
    anchor, colored = by_class[target.region_class], by_class[target.color_class]
    found = [
        exist(scene, draws, True),
        exist(scene, draws, False),
        color_of(scene, draws, colored),
        object_on(scene, draws, colored),
        count(scene, draws, target.counted),
        position(scene, draws, anchor),
        region(scene, draws, target.region),
        relation(scene, draws, True),
        relation(scene, draws, False),
        reading(scene, draws, scene.signs[0]),
        choice(scene, draws, target.letter),
        describe(scene, draws),
    ]
    return [question for question in found if _asked(scene, question)]


def _asked(scene: Scene, question: Question | None) -> TypeGuard[Question]:
    return question is not None and (scene.form.asks_places or question.kind not in PLACES)


#: Extras of the phases of training: a mixture, then what takes longest to learn.
EXTRAS: Mapping[str, tuple[str, ...]] = {
    "mixed": (
        *("relation",) * 5, *("region",) * 4, *("count",) * 3, *("position",) * 2,
        "exist", "color", "object", "reading", "choice",
    ),
    "hard": (
        *("region",) * 6, *("object",) * 4, *("relation",) * 4, *("count",) * 3, *("choice",) * 2,
        *("choice color",) * 2, *("reading",) * 2, "color",
    ),
    "last": (
        *("choice color",) * 6, *("region",) * 8, *("count",) * 5, *("reading",) * 2,
        "object", "relation", "position", "choice",
    ),
    "slow": (
        *("count",) * 12, *("region",) * 10, *("relation",) * 4, "choice color", "reading", "object", "position",
    ),
    "detail": (
        *("count",) * 8, *("choice color",) * 3, *("object",) * 3, *("color",) * 2, *("choice",) * 2,
        "exist", "reading",
    ),
}  # fmt: skip


def training(scene: Scene, n: int, *, phase: str = "mixed") -> list[Question]:
    """Exactly ``n`` questions: the balanced ones (the description half of the time) and varied extras.

    In the ``hard`` phase the extras are the slow kinds and come first (up to nine of them).
    """
    draws = Draws(scene.root, scene.index, 5)
    usual = [q for q in balanced(scene) if q.kind != "describe" or draws.chance(50)]
    hard = phase == "hard"
    asked, room = ([], min(n, 9)) if hard else (usual, n)
    often = [label for label, number in scene.counts.items() if number > 1] or list(scene.counts)
    extras: Mapping[str, Callable[[], Question | None]] = {
        "exist": lambda: exist(scene, draws, draws.chance(50)),
        "color": lambda: color_of(scene, draws, None),
        "object": lambda: object_on(scene, draws, None),
        "count": lambda: count(scene, draws, draws.choice(often)),
        "position": lambda: position(scene, draws, None),
        "region": lambda: region(scene, draws, draws.below(len(REGIONS))),
        "relation": lambda: relation(scene, draws, draws.chance(50)),
        "reading": lambda: reading(scene, draws, draws.choice(scene.signs)),
        "choice": lambda: choice(scene, draws, draws.below(len(LETTERS))),
        "choice color": lambda: choice(scene, draws, draws.below(len(LETTERS)), 100),
    }
    for _ in range(8 * n):
        if len(asked) >= room:
            break
        question = extras[draws.choice(EXTRAS[phase])]()
        if _asked(scene, question) and all(question.text != other.text for other in asked):
            asked.append(question)
    if hard:
        seen = {question.text for question in asked}
        asked += [question for question in draws.shuffled(usual) if question.text not in seen]
    while len(asked) < n:
        asked.append(exist(scene, draws, draws.chance(50)) or asked[0])
    return draws.shuffled(asked)[:n]


def template_prior(questions: Iterable[Question]) -> dict[str, float]:
    """Accuracy by kind of the best answer that knows only the template of the question."""
    table: dict[tuple[str, str], dict[str, int]] = {}
    for q in questions:
        answers = table.setdefault((q.kind, q.template), {})
        answers[q.answer] = answers.get(q.answer, 0) + 1
    right: dict[str, int] = {}
    total: dict[str, int] = {}
    for (kind, _), answers in table.items():
        right[kind] = right.get(kind, 0) + max(answers.values())
        total[kind] = total.get(kind, 0) + sum(answers.values())
    return {kind: right[kind] / total[kind] for kind in KINDS if kind in total}
