"""Everything that a scene can hold, how people call it, and the word-level vocabulary of the embedded model.

Label ids: 0 is background, then the object classes, then the words of signs and pages. Colour ids: 0 is "no card",
then ``COLORS``. Background ids count ``BACKGROUNDS``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Noun:
    """A class of objects: its name, other names that people use, and which classes it is easily mistaken for."""

    name: str
    group: str
    others: tuple[str, ...] = ()
    irregular: tuple[tuple[str, str], ...] = ()  # (singular, plural)

    def plural(self, name: str) -> str:
        """Plural of one of the names."""
        for singular, plural in self.irregular:
            if name == singular:
                return plural
        if name.endswith(("s", "sh", "ch", "x")):
            return name + "es"
        return name[:-1] + "ies" if name.endswith("y") and name[-2] not in "aeiou" else name + "s"

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, *self.others)


NOUNS = (
    Noun("apple", "fruit"),
    Noun("banana", "fruit"),
    Noun("lemon", "fruit", ("citrus",), (("citrus", "citruses"),)),
    Noun("carrot", "fruit"),
    Noun("cake", "fruit", ("pie",)),
    Noun("dog", "animal", ("puppy", "hound", "doggy")),
    Noun("cat", "animal", ("kitten", "kitty")),
    Noun("frog", "animal", ("toad",)),
    Noun("bird", "animal", ("birdie",)),
    Noun("fish", "animal", (), (("fish", "fishes"),)),
    Noun("horse", "animal", ("pony",)),
    Noun("pig", "animal", ("piglet", "hog")),
    Noun("rabbit", "animal", ("bunny", "hare")),
    Noun("bear", "animal"),
    Noun("lion", "animal"),
    Noun("turtle", "animal", ("tortoise",)),
    Noun("butterfly", "animal", ("moth",)),
    Noun("car", "vehicle", ("automobile", "auto")),
    Noun("bus", "vehicle", ("coach",)),
    Noun("bicycle", "vehicle", ("bike", "cycle")),
    Noun("train", "vehicle", ("locomotive",)),
    Noun("boat", "vehicle", ("ship", "sailboat")),
    Noun("plane", "vehicle", ("airplane", "aeroplane", "aircraft", "jet"), (("aircraft", "aircrafts"),)),
    Noun("rocket", "vehicle", ("spaceship",)),
    Noun("tree", "plant"),
    Noun("flower", "plant", ("blossom", "bloom")),
    Noun("cactus", "plant", (), (("cactus", "cacti"),)),
    Noun("mushroom", "plant", ("toadstool",)),
    Noun("ball", "thing", ("football",)),
    Noun("clock", "thing", ("watch",)),
    Noun("key", "thing"),
    Noun("book", "thing", ("novel",)),
    Noun("cup", "thing", ("mug",)),
    Noun("bell", "thing"),
    Noun("umbrella", "thing", ("parasol",)),
    Noun("hat", "thing", ("cap",)),
    Noun("guitar", "thing"),
    Noun("lamp", "thing", ("bulb",)),
    Noun("star", "thing"),
    Noun("heart", "thing"),
)
CLASSES = tuple(noun.name for noun in NOUNS)
PLURALS = tuple(noun.plural(noun.name) for noun in NOUNS)
COLORS = ("red", "blue", "green", "yellow", "purple", "orange", "white", "black")
COLOR_RGB = (
    (212, 40, 44), (44, 84, 214), (42, 158, 66), (242, 208, 48), (146, 62, 178), (240, 130, 28), (244, 244, 244),
    (26, 26, 28),
)  # fmt: skip
#: Other names of colours; questions and captions use them, answers never do.
COLOR_NAMES = {"purple": ("violet",), "red": ("crimson",), "blue": ("navy",)}
#: What signs and pages say.
WORDS = (
    "stop", "open", "exit", "taxi", "sale", "bank", "zoo", "pizza", "hotel", "music", "river", "stone",
    "coffee", "paper", "table", "glass", "bread", "sugar", "lunch", "winter", "summer", "monday", "north", "south",
    "east", "west", "king", "prince", "happy", "cheap", "fresh", "lucky", "magic", "silver", "gold", "iron",
    "city", "park", "road", "farm", "lake", "door", "wall", "milk", "rain", "game", "film", "news",
)  # fmt: skip
BACKGROUNDS = ("grass", "sand", "water", "bricks", "wood", "checks", "stripes", "dots", "rings", "clouds")
#: The nine regions of the 3x3 division of the picture, row-major.
REGIONS = (
    "top left", "top", "top right", "left", "center", "right", "bottom left", "bottom", "bottom right",
)  # fmt: skip
COUNTS = ("1", "2", "3", "4", "5", "6", "7", "8")
NUMBER_WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight")
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")
LETTERS = ("A", "B", "C", "D")

N_CLASSES = len(CLASSES)
N_LABELS = 1 + N_CLASSES + len(WORDS)
N_COLORS = 1 + len(COLORS)

#: </s> must not be id 2, which selects a legacy pooling path in CLIP.
PAD, UNK, BOS, EOS, IMAGE, ANSWER = range(6)
SPECIALS = ("<pad>", "<unk>", "<s>", "</s>", "<image>", "<ans>")

_GRAMMAR = (
    "a", "an", "the", "is", "are", "was", "there", "any", "some", "in", "on", "of", "to", "at", "and", "or", "not",
    "with", "behind", "above", "below", "under", "over", "than", "more", "most", "less", "fewer", "many", "much",
    "how", "what", "which", "where", "who", "when", "why", "does", "do", "can", "could", "you", "i", "we", "it",
    "this", "that", "these", "they", "see", "find", "show", "tell", "me", "please", "count", "number", "name",
    "picture", "image", "photo", "scene", "page", "text", "line", "lines", "word", "words", "title", "heading",
    "color", "colored", "card", "cards", "sign", "board", "dot", "spot", "object", "objects", "thing", "things",
    "animal", "background", "ground", "left", "right", "top", "bottom", "center", "side", "corner", "upper", "lower",
    "say", "says", "read", "written", "occur", "contain", "come", "comes", "after", "before", "next", "last",
    "larger", "bigger", "smaller", "large", "big", "small", "tiny", "same", "different", "have", "has", "visible",
    "present", "located", "standing", "placed", "describe", "caption", "answer", "yes", "no", "sit", "lie", "lies",
    "kind", "type", "plain", "full", "for", "look", "be", "s", "here", "I", "every", "all", "together",
    "as", "another", "both", "each", "equal", "hold", "inside", "between", "near", "beside", "far", "from", "out",
    "its", "your", "my", "would", "will", "just", "exactly", "total", "amount", "if", "then", "but", "by", "did",
    "know", "give", "list", "short", "long", "sentence", "also", "only", "single", "zero", "none", "nothing",
    "something", "anything",
    "people", "person", "man", "woman", "food", "fruit", "vehicle", "plant", "animals", "fruits", "vehicles", "plants",
    "print", "letters", "start", "end", "begin", "like", "up", "down", "whole", "main", "part", "about", "so", "shape",
    "?", ".", ",", "!", ":", ";", "'", "-", "(", ")", '"', "/",
)  # fmt: skip


def _vocabulary() -> tuple[str, ...]:
    seen: dict[str, None] = dict.fromkeys(SPECIALS)
    nouns = [name for noun in NOUNS for name in noun.names]
    plurals = [noun.plural(name) for noun in NOUNS for name in noun.names]
    colors = [*COLORS, *(name for names in COLOR_NAMES.values() for name in names)]
    groups = (_GRAMMAR, nouns, plurals, colors, WORDS, BACKGROUNDS, COUNTS, NUMBER_WORDS, ORDINALS, LETTERS)
    for group in groups:
        seen.update(dict.fromkeys(group))
    return tuple(seen)


VOCABULARY = _vocabulary()
TOKEN_ID = {word: i for i, word in enumerate(VOCABULARY)}
#: Spellings that are one word to the model, applied to whole words behind the folding of capitals.
SPELLINGS = {
    "colour": "color", "colours": "color", "colors": "color", "coloured": "colored", "centre": "center",
    "middle": "center", "pictures": "picture", "images": "image", "photograph": "photo", "pic": "picture",
    "whats": "what", "isnt": "is", "signs": "sign", "boards": "board", "items": "things",
    "item": "thing", "biggest": "larger", "largest": "larger", "checkerboard": "checks", "brick": "bricks",
    "striped": "stripes", "dotted": "dots", "sea": "water", "lawn": "grass", "wooden": "wood", "cloudy": "clouds",
    "sky": "clouds", "kinds": "kind", "depicted": "present", "shown": "present", "displayed": "present",
    "containing": "contain", "contains": "contain", "occurs": "occur", "appear": "occur", "appears": "occur",
    "writing": "text", "sheet": "page", "document": "page", "headline": "heading", "nine": "eight",
    "beneath": "below", "underneath": "below", "bg": "background",
}  # fmt: skip
SPLIT = r"\w+|[^\w\s]"
_SPLIT = re.compile(SPLIT)
_CAPITAL = re.compile(r"[A-Z](?=[A-Za-z])|(?<=[A-Za-z])[A-Z]")
_SPELLING = re.compile(r"\b(" + "|".join(sorted(SPELLINGS, key=len, reverse=True)) + r")\b")


def label_word(label: int) -> str:
    """Word of a label id (class name, word of a sign, or ``background``)."""
    if label == 0:
        return "background"
    return CLASSES[label - 1] if label <= N_CLASSES else WORDS[label - 1 - N_CLASSES]


def fold(text: str) -> str:
    """Text as the model sees it: capitals of words folded (single letters stay: options), spellings unified."""
    text = _CAPITAL.sub(lambda m: m.group().lower(), text)
    return _SPELLING.sub(lambda m: SPELLINGS[m.group()], text)


def encode(text: str) -> list[int]:
    """Token ids of a plain text without special tokens (the same as the exported fast tokenizer)."""
    return [TOKEN_ID.get(word, UNK) for word in _SPLIT.findall(fold(text))]


def article(noun: str) -> str:
    """``a dog``, ``an apple``."""
    return ("an " if noun[0] in "aeiou" else "a ") + noun
