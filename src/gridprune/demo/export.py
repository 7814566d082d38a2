"""What a visitor takes along: code that gives the same answer, a figure, the numbers, and the page as one file."""

from __future__ import annotations

import io
import json
from typing import Any

from PIL import Image

from .. import __version__
from ..report.figure import draw
from ..runtime.video import Video
from .engine import Engine, public_name
from .limits import MAX_IMAGES
from .session import Column, Conversation, Turn
from .view import answers_html, layers_html, maps_html, past_html, render, static, views_html

Saved = tuple[bytes, str]  # content and media type


def save(engine: Engine, conversation: Conversation, ending: str) -> Saved | None:
    """The last turn as "png", "json" or "html"; None if there is none, or no such form."""
    turn = conversation.turn
    if turn is None:
        return None
    if ending == "png":
        return _png(turn), "image/png"
    if ending == "json":
        return json.dumps(as_dict(engine, conversation, turn), indent=1).encode(), "application/json"
    return (_html(engine, conversation, turn).encode(), "text/html; charset=utf-8") if ending == "html" else None


def as_python(engine: Engine, conversation: Conversation, turn: Turn) -> str:
    """Code that asks the same question with the same method."""
    method = turn.columns[1].method
    assert method is not None
    video = isinstance(conversation.images, Video)
    sources = conversation.sources or [_read(name, video) for name in conversation.names]
    return render(
        "code.py.txt",
        load=_load(engine),
        imports=list(dict.fromkeys(line for line, _ in sources)),
        made=[made for _, made in sources],
        shown="video" if video else "image" if len(sources) == 1 else "images",
        method=repr(method.name),
        keep=method.keep,
        settings="".join(f", {name}={value!r}" for name, value in turn.choice.knobs),
        question=repr(turn.question),
        history=[repr(pair) for pair in turn.history(1)],
    )


def as_dict(engine: Engine, conversation: Conversation, turn: Turn) -> dict[str, Any]:
    """Everything measured and decided in a turn, as plain values."""
    return {
        "gridprune": __version__,
        "model": engine.name,
        "image": conversation.name,
        "question": turn.question,
        "earlier": [{"question": past.question, "answers": list(past.answers)} for past in turn.earlier],
        "visual_tokens": turn.total,
        "answers": [_column(column) for column in turn.columns],
    }


def _read(name: str, video: bool) -> tuple[str, str]:
    """The Python line that imports what reads a visitor's file, and the expression that does."""
    reader = f"read_video({name!r}, {MAX_IMAGES})" if video else f"read_image({name!r})"
    return f"from gridprune.runtime.{'video' if video else 'images'} import {reader.partition('(')[0]}", reader


def _column(column: Column) -> dict[str, Any]:
    if column.answer is None:
        return {"problem": column.problem}
    answer, reports = column.answer, column.answer.reports
    own = {"answer": answer.text, "seconds": answer.seconds, "kv_bytes": answer.kv_bytes}
    if column.method is None or not reports:
        return {**own, "method": "keep-all"}
    return {**own, **reports[0].to_dict(), "further_images": [report.to_dict() for report in reports[1:]]}


def _png(turn: Turn) -> bytes:
    """The figures of the first method, or of all tokens where it has none, one below the other."""
    answer = turn.columns[1].answer or turn.columns[0].answer
    assert answer is not None
    drawn = []
    for report in answer.reports:
        stream = io.BytesIO()
        draw(report, report.image()).savefig(stream, format="png")
        drawn.append(Image.open(stream).convert("RGB"))
    sheet = Image.new("RGB", (max(each.width for each in drawn), sum(each.height for each in drawn)), "white")
    for number, each in enumerate(drawn):
        sheet.paste(each, (0, sum(above.height for above in drawn[:number])))
    stream = io.BytesIO()
    sheet.save(stream, "PNG")
    return stream.getvalue()


def _html(engine: Engine, conversation: Conversation, turn: Turn) -> str:
    return render(
        "export.html",
        turn=turn,
        model=engine.name,
        version=__version__,
        css=static("page.css"),
        js=static("map.js"),
        answers=answers_html(turn),
        layers=layers_html(),
        views=views_html(conversation, turn),
        maps=maps_html(conversation, turn),
        past=past_html(conversation),
        python=as_python(engine, conversation, turn),
    )


def _load(engine: Engine) -> str:
    """The arguments of `load`; of a folder on the server only its own name."""
    model, clip = public_name(engine.loaded.name), engine.clip
    return repr(model) if clip is None else f"{model!r}, clip={public_name(str(clip))!r}"
