"""What a visitor takes along: code that gives the same answer, a figure, the numbers, and the page as one file."""

from __future__ import annotations

import io
import json
from typing import Any

from .. import __version__
from ..report.figure import draw
from .engine import Engine, public_name
from .session import Column, Conversation, Turn
from .view import answers_html, layers_html, maps_html, past_html, render, static

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
    return render(
        "code.py.txt",
        load=_load(engine),
        source=conversation.source,
        name=repr(conversation.name),
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


def _column(column: Column) -> dict[str, Any]:
    if column.answer is None:
        return {"problem": column.problem}
    answer, report = column.answer, column.answer.report
    own = {"answer": answer.text, "seconds": answer.seconds, "kv_bytes": answer.kv_bytes}
    if column.method is None or report is None:
        return {**own, "method": "keep-all"}
    return {**own, **report.to_dict()}


def _png(turn: Turn) -> bytes:
    """The figure of the first method, or of all tokens where it has none."""
    answer = turn.columns[1].answer or turn.columns[0].answer
    assert answer is not None
    assert answer.report is not None
    stream = io.BytesIO()
    draw(answer.report, turn.seen.image).savefig(stream, format="png")
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
        maps=maps_html(turn),
        past=past_html(conversation),
        python=as_python(engine, conversation, turn),
    )


def _load(engine: Engine) -> str:
    """The arguments of `load`; of a folder on the server only its own name."""
    model, clip = public_name(engine.loaded.name), engine.clip
    return repr(model) if clip is None else f"{model!r}, clip={public_name(str(clip))!r}"
