"""Turns as HTML: the answers side by side, and the maps below them. The templates escape everything they are given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape
from PIL.Image import Image

from ..methods.base import Method
from ..runtime.ask import Answer
from ..runtime.ladder import FoundKeep
from ..runtime.video import Video
from ..tiny.vocabulary import KNOWN
from .engine import Seen
from .limits import Images, images_in
from .overlay import Map, as_data_uri, build, height_of, ramp
from .session import Column, Conversation, Session, Turn


@dataclass(frozen=True)
class Figure:
    """One measured number of an answer.

    Attributes:
        share: of the same number with all tokens, in [0, 1]: the length of its bar.
        ratio: the same in words.
    """

    name: str
    value: str
    share: float
    ratio: str


@dataclass(frozen=True)
class View:
    """One image or frame with what each method kept of it.

    Attributes:
        photo: as a URI, and `height` if it is drawn 1000 wide.
    """

    name: str
    photo: str
    height: int
    maps: Sequence[tuple[Method | None, Map | None]]


@dataclass(frozen=True)
class Card:
    """One answer as it is shown."""

    title: str
    text: str
    problem: str
    same: bool | None
    figures: Sequence[Figure]
    note: str


def head_html(model: str, embedded: bool) -> str:
    """What this is, which model answers, and what it knows if it is the embedded one."""
    return render("head.html", model=model, known=KNOWN if embedded else "")


def answers_html(turn: Turn) -> str:
    """The question and its answers, side by side."""
    return render("answers.html", turn=turn, cards=cards(turn))


def maps_html(conversation: Conversation, turn: Turn) -> str:
    """What each method kept, over each image or frame; :func:`views_html` has which of them is on the screen."""
    views = [
        View(
            name=name,
            photo=as_data_uri(seen.image),
            height=height_of(seen.image),
            maps=[(column.method, _map(column, seen)) for column in turn.columns[1:]],
        )
        for name, seen in zip(_view_names(conversation, turn), turn.seen, strict=True)
    ]
    return render("maps.html", views=views, ramp=ramp())


def views_html(conversation: Conversation, turn: Turn) -> str:
    """The images or frames that have maps, to choose from; nothing if there is one alone."""
    thumbs = [_small(seen.image, 112) for seen in turn.seen]
    views = list(zip(_view_names(conversation, turn), thumbs, strict=True))
    return render("views.html", views=views, video=isinstance(conversation.images, Video))


def empty_html(conversation: Conversation) -> str:
    """Images about which nothing was asked yet."""
    photos = [_small(image, 640) for image in images_in(conversation.images)]
    return render("empty.html", name=conversation.name, photos=photos, what=_what(conversation.images))


def layers_html() -> str:
    """What the maps show, to choose from; CSS does the rest."""
    return render("layers.html")


def found_html(found: FoundKeep) -> str:
    """The smallest k with the same answer, and from which k on it stays."""
    return render("found.html", found=found)


def past_html(conversation: Conversation) -> str:
    """The earlier turns about the images."""
    return render("past.html", past=conversation.past, what=_what(conversation.images))


def strip_html(session: Session, video: bool) -> str:
    """The session's images, to choose from; `video`: whether one may be sent."""
    thumbs = [
        (each.name, _small(images_in(each.images)[0], 112), _badge(each.images)) for each in session.conversations
    ]
    return render("strip.html", thumbs=thumbs, current=session.current, video=video)


def save_html(session: Session, python: str) -> str:
    """What can be taken along."""
    return render("save.html", key=session.key, python=python)


def problem_html(words: str) -> str:
    """What went wrong and what to do, or nothing."""
    return render("problem.html", words=words)


def cards(turn: Turn) -> list[Card]:
    """One card for each column."""
    full = turn.columns[0].answer
    assert full is not None
    return [_card(column, full, turn.total) for column in turn.columns]


def static(name: str) -> str:
    """A file beside this one."""
    return (files(__package__) / "static" / name).read_text()


def render(template: str, **values: Any) -> str:
    """A template of this package, filled in; those that are HTML escape what they are given."""
    return _environment().get_template(template).render(**values)


@lru_cache(maxsize=1)
def _environment() -> Environment:
    escaping = select_autoescape(["html"])
    return Environment(loader=PackageLoader(__package__), autoescape=escaping, trim_blocks=True, lstrip_blocks=True)


def _map(column: Column, seen: Seen) -> Map | None:
    if column.answer is None or not column.answer.reports:
        return None
    return build(column.answer.reports[seen.number], seen)


def _view_names(conversation: Conversation, turn: Turn) -> list[str]:
    """What each map shows: an image's name, or a frame's number."""
    if isinstance(conversation.images, Video):
        return [f"frame {seen.frame + 1}" for seen in turn.seen]
    return [conversation.names[seen.number] for seen in turn.seen]


def _what(images: Images) -> str:
    """How sentences call what a question is about."""
    return "this video" if isinstance(images, Video) else "this image" if len(images) == 1 else "these images"


def _badge(images: Images) -> str:
    """What a thumbnail says if it stands for more than one image."""
    return "video" if isinstance(images, Video) else "" if len(images) == 1 else str(len(images))


def _card(column: Column, full: Answer, total: int) -> Card:
    if column.method is None:
        return Card("all tokens", full.text, "", None, _figures(full, full, total), "")
    name, answer = column.method.name, column.answer
    if answer is None:
        return Card(name, "", column.problem, None, (), "")
    same = answer.text.strip().casefold() == full.text.strip().casefold()
    note = "" if column.method.stage == "pre-llm" else "Its time includes a look at the image of its own."
    return Card(name, answer.text, "", same, _figures(answer, full, total), note)


def _figures(answer: Answer, full: Answer, total: int) -> list[Figure]:
    inside = None if answer.report is None else answer.report.layer_average
    tokens = answer.visual_tokens if inside is None else inside
    is_full = answer is full
    return [
        Figure("visual tokens", f"{tokens:,.4g}", tokens / total, "" if is_full else f"{total / tokens:.1f}x fewer"),
        Figure(
            "time",
            _seconds(answer.seconds),
            min(1.0, answer.seconds / full.seconds),
            "" if is_full else _faster(full.seconds / answer.seconds),
        ),
        Figure(
            "KV memory",
            _bytes(answer.kv_bytes),
            min(1.0, answer.kv_bytes / max(full.kv_bytes, 1)),
            "" if is_full else answer.smaller_cache(full),
        ),
    ]


def _faster(ratio: float) -> str:
    return f"{ratio:.1f}x faster" if ratio >= 1 else f"{1 / ratio:.1f}x slower"


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"


def _bytes(count: int) -> str:
    return f"{count / 1e6:.2f} MB" if count < 1e9 else f"{count / 1e9:.2f} GB"


def _small(image: Image, side: int) -> str:
    small = image.copy()
    small.thumbnail((side, side))
    return as_data_uri(small)
