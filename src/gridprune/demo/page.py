"""The page: what stands where, and what happens when something is touched. Gradio is imported here and in `server`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import gradio as gr

from ..errors import GridPruneError
from ..methods import get
from ..methods.registry import summary
from ..runtime.ladder import FoundKeep
from .choice import GRIDPRUNE, LITERAL, Choice, chosen, preset
from .engine import Engine
from .export import as_python
from .limits import MAX_BYTES, MAX_IMAGES, MAX_QUESTION, MAX_VIDEO, Images, Inbox, images_in
from .session import Conversation, Session, Sessions
from .view import (
    answers_html,
    empty_html,
    found_html,
    head_html,
    layers_html,
    maps_html,
    past_html,
    problem_html,
    save_html,
    static,
    strip_html,
    views_html,
)

_NO_COMPARISON = "nothing"
_WITHOUT_TEXT = "fastervlm"  # the method to begin with where GridPrune cannot run
_BLIND = "random"  # what the visitor sees compared at first
_RECOMMENDED, _PRINTED = "recommended", "as printed"
_SUGGESTIONS = 4
_INTO_VIEW = """() => setTimeout(() => {
    if (matchMedia("(max-width: 52rem)").matches)
        (document.querySelector(".gp-controls .gp-problem") ?? document.querySelector(".gp-answers"))?.scrollIntoView();
}, 100)"""  # where the answer stands below the controls
_FONT = ("system-ui", "sans-serif")
Touched = dict[Any, Any]  # component -> what it holds
_MONO = ("ui-monospace", "monospace")


def theme() -> Any:
    """Plain, with the fonts that every system has: nothing is fetched."""
    return gr.themes.Base(primary_hue="blue", neutral_hue="slate", radius_size="md", font=_FONT, font_mono=_MONO)


def head() -> str:
    """Scripts of the maps, the copy button and the dropdowns."""
    return "".join(f"<script>{static(name)}</script>" for name in ("map.js", "copy.js", "dropdown.js"))


def _sentence(name: str) -> str | None:
    """What a method does."""
    return None if name == _NO_COMPARISON else summary(get(name)).replace("`", "") + "."


class Page:
    """The controls, and the handlers that a visitor's events call."""

    def __init__(self, engine: Engine, sessions: Sessions, inbox: Inbox, remembers: bool) -> None:
        """Args:
        remembers: whether follow-up questions are the default, for models that were trained on conversations.
        """
        self.engine, self.sessions, self.inbox, self.remembers = engine, sessions, inbox, remembers

    def build(self) -> gr.Blocks:
        """The whole page."""
        with gr.Blocks(title="gridprune", analytics_enabled=False, fill_width=False) as blocks:
            gr.HTML(head_html(self.engine.name, self.engine.embedded), apply_default_css=False)
            with gr.Row(elem_classes="gp-page"):
                with gr.Column(scale=0, min_width=320, elem_classes="gp-controls"):
                    self._controls()
                with gr.Column(scale=1, min_width=320, elem_classes="gp-results"):
                    self._results()
            self._events(blocks)
        return blocks

    # -- what stands where ---------------------------------------------------------------------------------------

    def _controls(self) -> None:
        self.strip = gr.HTML(
            js_on_load=static("strip.js"),
            most=MAX_IMAGES,
            max_bytes=MAX_BYTES,
            max_video=MAX_VIDEO.size,
            no_video=self.engine.no_video,
            apply_default_css=False,
        )
        self.problem = gr.HTML(apply_default_css=False, elem_classes="gp-maybe")
        self.question = gr.Textbox(
            label="Question", lines=1, max_lines=4, max_length=MAX_QUESTION, submit_btn=False, elem_id="gp-ask"
        )
        with gr.Row(elem_classes="gp-suggestions"):
            self.suggestions = [gr.Button(size="sm", visible=False, min_width=80) for _ in range(_SUGGESTIONS)]
        self.follow_up = gr.Checkbox(
            label="Follow-up: keep earlier turns in the prompt", value=self.remembers, elem_classes="gp-bare"
        )
        with gr.Row():
            self.ask = gr.Button("Ask", variant="primary", min_width=80)
            self.clear = gr.Button("Start over", min_width=80)
        others = [name for name in self.engine.methods if name != LITERAL]
        usual = next(name for name in (GRIDPRUNE, _WITHOUT_TEXT, *others) if name in others)
        missing = None if GRIDPRUNE in others else "GridPrune needs CLIP's text half: start the page with --clip"
        self.method = gr.Dropdown(others, value=usual, label="Method", info=_sentence(usual), elem_id="gp-method")
        if missing:
            gr.Markdown(missing)
        blind = _BLIND if _BLIND in self.engine.methods else _NO_COMPARISON
        self.compare = gr.Dropdown(
            [_NO_COMPARISON, *self.engine.methods],
            value=blind,
            label="Compare with",
            info=_sentence(blind),
            elem_id="gp-compare",
        )
        with gr.Accordion("Settings", open=False, visible=GRIDPRUNE in others) as self.settings:
            knobs = preset(False)
            self.preset = gr.Radio([_RECOMMENDED, _PRINTED], value=_RECOMMENDED, label="Preset")
            self.zone = gr.Slider(1, 8, knobs["zone"], step=1, label="Zone side, in patches")
            self.temperature = gr.Slider(0.01, 4, knobs["temperature"], step=0.01, label="Temperature of the budgets")
            self.alpha = gr.Slider(0, 1, knobs["alpha"], step=0.05, label="Weight of saliency against relevance")

    def _results(self) -> None:
        self.answers = gr.HTML(apply_default_css=False)
        self.keep = gr.Slider(1, 576, 64, step=1, label="Visual tokens kept", elem_id="gp-keep")
        self.find = gr.Button("Smallest k with the same answer", size="sm", elem_id="gp-find")
        self.found = gr.HTML(apply_default_css=False, elem_classes="gp-maybe")
        self.views = gr.HTML(apply_default_css=False, elem_classes="gp-maybe")
        gr.HTML(layers_html(), apply_default_css=False)
        self.maps = gr.HTML(apply_default_css=False)
        self.past = gr.HTML(apply_default_css=False, elem_classes="gp-maybe")
        self.save = gr.HTML(apply_default_css=False)

    @property
    def _chosen(self) -> set[Any]:
        return {self.keep, self.method, self.compare, self.preset, *self._knobs.values()}

    @property
    def _knobs(self) -> dict[str, Any]:
        return {"zone": self.zone, "temperature": self.temperature, "alpha": self.alpha}

    @property
    def _shown(self) -> list[Any]:
        return [self.problem, self.answers, self.found, self.views, self.maps, self.past, self.save]

    @property
    def _image(self) -> list[Any]:
        return [self.strip, self.question, *self.suggestions, self.keep]

    # -- what happens --------------------------------------------------------------------------------------------

    def _events(self, blocks: gr.Blocks) -> None:
        one_by_one: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1, "api_visibility": "private"}
        asking: dict[str, Any] = {**one_by_one, "show_progress": "minimal", "show_progress_on": self.answers}
        turning: dict[str, Any] = {**one_by_one, "show_progress": "hidden", "trigger_mode": "always_last"}
        everything = [*self._image, *self._shown]

        blocks.load(self.open, self._chosen, everything, **asking)
        blocks.unload(self.leave)
        self.strip.select(self.select, self._chosen, everything, **asking)
        self.strip.upload(self.upload, self._chosen, everything, **asking)
        questions = {self.question, self.follow_up, *self._chosen}
        asked = gr.on([self.ask.click, self.question.submit], self.asked, questions, self._shown, **asking)
        asked.then(None, js=_INTO_VIEW)
        for button in self.suggestions:
            button.click(lambda words: words, button, self.question, queue=False, api_visibility="private").then(
                self.asked, questions, self._shown, **asking
            ).then(None, js=_INTO_VIEW)
        self.find.click(self.smallest, self._chosen, [self.keep, *self._shown], **asking)
        self.clear.click(self.cleared, None, self._shown, **one_by_one)
        self.method.change(
            lambda name: gr.update(visible=name == GRIDPRUNE), self.method, self.settings, api_visibility="private"
        )
        for box in (self.method, self.compare):
            box.change(lambda name: gr.update(info=_sentence(name)), box, box, api_visibility="private")
        knobs = list(self._knobs.values())
        self.preset.input(self.reset, self.preset, knobs, api_visibility="private").then(
            self.turned, self._chosen, self._shown, **turning
        )
        turns = [self.keep.input, self.method.input, self.compare.input, *(knob.input for knob in knobs)]
        gr.on(turns, self.turned, self._chosen, self._shown, **turning)

    def open(self, touched: Touched, request: gr.Request) -> list[Any]:
        """A visitor comes: the first image, its first question answered."""
        return self._first(self._session(request), self._choice(touched))

    def leave(self, request: gr.Request) -> None:
        """A visitor goes: nothing is kept."""
        self.sessions.forget(str(request.session_hash))
        self.engine.forget()

    def select(self, touched: Touched, event: gr.EventData, request: gr.Request) -> list[Any]:
        """Another image: its last turn again, or its first question."""
        session = self._session(request)
        session.select(int(event.index))
        return self._first(session, self._choice(touched))

    def upload(self, touched: Touched, event: gr.EventData, request: gr.Request) -> list[Any]:
        """Images or a video came, or what was wrong with them."""
        session = self._session(request)
        sent = event._data or {}
        found = [self.inbox.take(str(ticket)) for ticket in list(sent.get("tickets", []))[:MAX_IMAGES]]
        if not found or None in found:
            words = str(sent.get("problem") or "The image has waited too long. Send it again.")
            return [*self._skip(self._image), problem_html(words), *self._skip(self._shown[1:])]
        session.add(_sent([each for each in found if each is not None]))
        return self._first(session, self._choice(touched))

    def asked(self, touched: Touched, request: gr.Request) -> list[Any]:
        """A question."""
        session, question, follow_up = self._session(request), touched[self.question], touched[self.follow_up]
        return self._try(session, lambda: session.ask(self.engine, question, self._choice(touched), follow_up))

    def turned(self, touched: Touched, request: gr.Request) -> list[Any]:
        """Another k, method or setting."""
        session = self._session(request)
        return self._try(session, lambda: session.again(self.engine, self._choice(touched)))

    def smallest(self, touched: Touched, request: gr.Request) -> list[Any]:
        """The smallest k with the answer of all tokens: the slider goes there, and words say what was found."""
        session, choice = self._session(request), self._choice(touched)
        found: list[FoundKeep] = []

        def find() -> None:
            found.extend(filter(None, [session.smallest(self.engine, choice)]))
            session.again(self.engine, replace(choice, keep=found[0].smallest) if found else choice)

        shown = self._try(session, find)
        if not found:
            return [gr.skip(), *shown]
        shown[self._shown.index(self.found)] = found_html(found[0])
        return [found[0].smallest, *shown]

    def cleared(self, request: gr.Request) -> list[Any]:
        """The turns about this image are forgotten."""
        session = self._session(request)
        session.clear()
        return self._results_of(session)

    def reset(self, name: str) -> list[Any]:
        """The knobs as the preset has them."""
        return list(preset(name == _PRINTED).values())

    # -- pieces --------------------------------------------------------------------------------------------------

    def _session(self, request: gr.Request) -> Session:
        return self.sessions.of(str(request.session_hash))

    def _first(self, session: Session, choice: Choice) -> list[Any]:
        """The current image with its last turn, or with its first suggestion asked."""
        conversation = session.conversation
        suggested = [*conversation.suggestions, *[""] * _SUGGESTIONS][:_SUGGESTIONS]
        question = conversation.turn.question if conversation.turn is not None else suggested[0]

        def look() -> None:
            if conversation.turn is not None:
                session.again(self.engine, choice)
            elif question:
                session.ask(self.engine, question, choice, False)

        shown = self._try(session, look)
        buttons = [gr.update(value=words, visible=bool(words)) for words in suggested]
        asked = conversation.turn
        total = min(asked.totals if asked is not None else self.engine.tokens(conversation.images))
        each = " of each image" if len(conversation.names) > 1 else ""
        keep = gr.update(maximum=total, value=min(choice.keep, total), label=f"Visual tokens kept{each}, of {total:,}")
        return [strip_html(session, not self.engine.no_video), question, *buttons, keep, *shown]

    def _try(self, session: Session, act: Callable[[], None]) -> list[Any]:
        """Act and show the outcome; our own errors are words on the page, others go to the log."""
        try:
            act()
        except GridPruneError as error:
            return [problem_html(str(error)), *self._skip(self._shown[1:])]
        except Exception:
            logging.getLogger(__name__).exception("the page could not answer")
            words = "Something went wrong here; the server's log says what. Try another image, question or method."
            return [problem_html(words), *self._skip(self._shown[1:])]
        return self._results_of(session)

    def _results_of(self, session: Session) -> list[Any]:
        conversation = session.conversation
        if conversation.turn is None:
            return ["", "", "", "", empty_html(conversation), past_html(conversation), ""]
        python = as_python(self.engine, conversation, conversation.turn)
        saved = save_html(session, python)
        answers, maps = answers_html(conversation.turn), maps_html(conversation, conversation.turn)
        return ["", answers, "", views_html(conversation, conversation.turn), maps, past_html(conversation), saved]

    def _choice(self, touched: Touched) -> Choice:
        """The controls as a choice."""
        compare = touched[self.compare]
        return chosen(
            int(touched[self.keep]),
            touched[self.method],
            "" if compare == _NO_COMPARISON else compare,
            touched[self.preset] != _RECOMMENDED,
            zone=int(touched[self.zone]),
            temperature=float(touched[self.temperature]),
            alpha=float(touched[self.alpha]),
        )

    @staticmethod
    def _skip(components: list[Any]) -> list[Any]:
        return [gr.skip() for _ in components]


def _sent(found: Sequence[tuple[str, Images]]) -> Conversation:
    """One upload: a video, or the images that were sent together."""
    names, shown = zip(*found)
    return Conversation(names, shown[0] if len(found) == 1 else [image for each in shown for image in images_in(each)])
