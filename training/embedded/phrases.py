"""The ways people ask: the forms of every question, the names they use for things, and what they do to capitals."""

from __future__ import annotations

from collections.abc import Mapping

from gridprune.tiny.draws import Draws

from .vocabulary import COLOR_NAMES, COLORS, NOUNS, article

#: Forms by template. ``{a}``, ``{noun}``, ``{plural}``, ``{other}``, ``{others}`` and ``{color}`` are filled in.
FORMS: Mapping[str, tuple[str, ...]] = {
    "exist": (
        "Is there {a}?", "Is there {a} in the picture?", "Can you see {a}?", "Do you see {a} in the image?",
        "Does the picture have {a}?", "Are there any {plural}?", "Is {a} visible?", "Is there {a} here?",
    ),
    "color of": (
        "What color is the card behind the {noun}?", "Which color is the card behind the {noun}?",
        "What is the color of the card behind the {noun}?", "What color is the card of the {noun}?",
        "What colour card is the {noun} on?",
    ),
    "object on": (
        "What is on the {color} card?", "What object is on the {color} card?", "What can you see on the {color} card?",
        "Which thing is on the {color} card?",
    ),
    "count": (
        "How many {plural} are there?", "How many {plural} are in the picture?", "How many {plural} can you see?",
        "Count the {plural}.", "What is the number of {plural}?", "How many {plural} do you see in the image?",
    ),
    "position": (
        "Where is the {noun}?", "Where is the {noun} in the picture?", "Where can you see the {noun}?",
        "In which part of the image is the {noun}?",
    ),
    "region": (
        "What object is in the {region}?", "What is in the {region}?", "What is at the {region} of the picture?",
        "Which thing can you see in the {region}?", "What is in the {region} of the image?",
    ),
    "left": ("Is the {noun} to the left of the {other}?", "Is the {noun} left of the {other}?"),
    "right": ("Is the {noun} to the right of the {other}?", "Is the {noun} right of the {other}?"),
    "above": ("Is the {noun} above the {other}?", "Is the {noun} over the {other}?"),
    "below": ("Is the {noun} below the {other}?", "Is the {noun} under the {other}?"),
    "sign": ("What does the sign say?", "What is written on the sign?", "Which word is on the sign?", "Read the sign."),
    "sign of": ("What does the {color} sign say?", "What is written on the {color} sign?", "Read the {color} sign."),
    "choice color": (
        "Which color is the card behind the {noun}? {options}", "What color is the card behind the {noun}? {options}",
    ),
    "choice object": ("Which object is in the picture? {options}", "What can you see in the image? {options}"),
    "describe": ("Describe the picture.", "What is in the picture?", "What can you see?", "Describe the image.",
                 "What do you see in the photo?"),
    "more": ("Are there more {plural} or {others}?", "Which are there more of, {plural} or {others}?",
             "What is there more of, {plural} or {others}?"),
    "more than": ("Are there more {plural} than {others}?", "Can you see more {plural} than {others}?"),
    "larger": ("Which is larger, the {noun} or the {other}?", "What is bigger, the {noun} or the {other}?"),
    "same color": (
        "Are the cards behind the {noun} and the {other} the same color?",
        "Do the {noun} and the {other} have cards of the same color?",
    ),
    "detail": (
        "What color is the dot on the {noun}?", "What is the color of the dot on the {noun}?",
        "Which color is the small dot on the {noun}?", "What color is the spot on the {noun}?",
    ),
    "background": (
        "What is the background?", "What is in the background?", "What is behind the objects?",
        "What does the background look like?", "What kind of background does the picture have?",
    ),
    "nth": (
        "What is the {nth} word of line {line}?", "What is the {nth} word in line {line}?",
        "What is the {nth} word of the {lineth} line?", "Read the {nth} word in the {lineth} line.",
    ),
    "after": (
        "Which word comes after {word}?", "What word is after {word}?", "What comes after the word {word}?",
        "Which word is to the right of {word}?",
    ),
    "occurs": (
        "Does the word {word} occur on the page?", "Is the word {word} on the page?", "Does the page say {word}?",
        "Can you find the word {word}?", "Is there the word {word} in the text?",
    ),
    "title": ("What is the title?", "What is the title of the page?", "What does the heading say?", "Read the title."),
    "lines": ("How many lines of text are there?", "How many lines are on the page?", "Count the lines of text."),
}  # fmt: skip


def name(draws: Draws, label: int) -> str:
    """A name of a class, most often the usual one."""
    noun = NOUNS[label - 1]
    return draws.choice(noun.names) if draws.chance(25) else noun.name


def plural(draws: Draws, label: int) -> str:
    return NOUNS[label - 1].plural(name(draws, label))


def color_name(draws: Draws, color: int) -> str:
    usual = COLORS[color - 1]
    return draws.choice(COLOR_NAMES[usual]) if usual in COLOR_NAMES and draws.chance(10) else usual


def asked(draws: Draws, template: str, label: int = 0, other: int = 0, **words: str) -> str:
    """A question of a form drawn at random; ``label`` and ``other`` are the classes it is about."""
    if label:
        words |= {"noun": name(draws, label), "plural": plural(draws, label)}
        words["a"] = article(words["noun"])
    if other:
        words |= {"other": name(draws, other), "others": plural(draws, other)}
    return draws.choice(FORMS[template]).format(**words)


def typed(draws: Draws, text: str) -> str:
    """What a hasty person makes of it: all small letters or all capitals, no question mark; options stay."""
    how = draws.below(4)
    if how == 0:
        return text.lower()
    if how == 1:
        return text.upper()
    return text.rstrip("?.").lower() if how == 2 else text.rstrip("?.")
