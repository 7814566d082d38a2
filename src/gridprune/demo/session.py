"""One visitor: images, the turns about each, and the answers that are on the screen. Nothing of it is on disk."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ..errors import GridPruneError, QuestionError
from ..methods.base import Method
from ..runtime.ask import Answer
from ..runtime.ladder import FoundKeep
from .choice import Choice
from .engine import Engine, History, Seen
from .limits import MAX_IMAGES, MAX_QUESTION, MAX_SESSIONS, MAX_TURNS, Images, images_in


@dataclass(frozen=True, eq=False)
class Column:
    """One way to answer: its method, and the answer or the words of what went wrong.

    Attributes:
        method: None for all visual tokens.
    """

    method: Method | None
    answer: Answer | None = None
    problem: str = ""

    @property
    def text(self) -> str:
        """What was answered; "" if nothing could be."""
        return "" if self.answer is None else self.answer.text


@dataclass(frozen=True)
class Past:
    """An earlier turn: its question, and what each column answered."""

    question: str
    answers: tuple[str, ...]

    def answer(self, column: int) -> str:
        """What a column said; one that was compared with later goes on from the method's answers."""
        return self.answers[min(column, len(self.answers) - 1)]


@dataclass(frozen=True, eq=False)
class Turn:
    """One question and its answers: with all tokens, by the method, and by a second one if there is one.

    Attributes:
        earlier: the turns that stand in the prompt before this one.
        totals: N of each image, or of the video: visual tokens before pruning.
        seen: what the model sees of each image, or of each frame of the video.
    """

    question: str
    earlier: tuple[Past, ...]
    choice: Choice
    totals: Sequence[int]
    seen: Sequence[Seen]
    columns: tuple[Column, ...]

    @property
    def total(self) -> int:
        """Visual tokens of all images together."""
        return sum(self.totals)

    def history(self, column: int) -> History:
        """What this column was asked and said in the earlier turns."""
        return [(past.question, past.answer(column)) for past in self.earlier if past.answer(column)]

    def past(self) -> Past:
        """What later turns need of this one."""
        return Past(self.question, tuple(column.text for column in self.columns))


@dataclass(eq=False)
class Conversation:
    """Images or a video, the questions that are suggested for them, and the turns about them.

    Attributes:
        names: of each image, or of the video.
        sources: of samples, the Python line that imports each and the expression that makes it; none of a visitor's.
        past: earlier turns, oldest first; `turn` is the last one.
    """

    names: Sequence[str]
    images: Images
    suggestions: Sequence[str] = ()
    sources: Sequence[tuple[str, str]] = ()
    past: list[Past] = field(default_factory=list)
    turn: Turn | None = None

    @property
    def name(self) -> str:
        """All names."""
        return ", ".join(self.names)


@dataclass(eq=False)
class Session:
    """What one visitor has on the screen.

    Attributes:
        key: names the session in download links; cannot be guessed.
    """

    conversations: list[Conversation]
    current: int = 0
    key: str = field(default_factory=lambda: secrets.token_urlsafe(18))

    @property
    def conversation(self) -> Conversation:
        """The one that is looked at."""
        return self.conversations[self.current]

    def add(self, conversation: Conversation) -> None:
        """Put images behind the others and look at them; of too many uploads the oldest go."""
        uploads = [each for each in self.conversations if not each.sources]
        while uploads and sum(len(images_in(each.images)) for each in [*uploads, conversation]) > MAX_IMAGES:
            self.conversations.remove(uploads.pop(0))
        self.conversations.append(conversation)
        self.current = len(self.conversations) - 1

    def select(self, number: int) -> None:
        """Look at others."""
        self.current = max(0, min(number, len(self.conversations) - 1))

    def ask(self, engine: Engine, question: str, choice: Choice, follow_up: bool) -> None:
        """A new turn about the current images, with the earlier ones in its prompt if it follows them up.

        Raises:
            QuestionError: empty or too long.
        """
        question = " ".join(question.split())
        if engine.loaded.check is not None and question and not any(map(str.isalnum, question)):
            raise QuestionError("There is no word in the question. Type one, or take one of the suggestions.")
        if not question:
            raise QuestionError("The question is empty. Type one, or take one of the suggestions.")
        if len(question) > MAX_QUESTION:
            raise QuestionError(f"The question has {len(question):,} characters; at most {MAX_QUESTION:,} are read.")
        conversation = self.conversation
        past = [*conversation.past, conversation.turn.past()] if conversation.turn is not None else []
        conversation.turn = _turn(engine, conversation.images, question, tuple(past) if follow_up else (), choice, None)
        conversation.past = past[-MAX_TURNS:]

    def again(self, engine: Engine, choice: Choice) -> None:
        """The last turn with another choice; what all tokens answered stays."""
        conversation, last = self.conversation, self.conversation.turn
        if last is not None and last.choice != choice:
            conversation.turn = _turn(engine, conversation.images, last.question, last.earlier, choice, last)

    def smallest(self, engine: Engine, choice: Choice) -> FoundKeep | None:
        """The smallest k with the answer of all tokens to the last question; None if nothing was asked.

        Raises:
            SettingError: the method keeps no number of tokens of the visitor's choice.
        """
        images, turn = self.conversation.images, self.conversation.turn
        return None if turn is None else engine.smallest(images, turn.question, choice.spec, turn.history(0))

    def clear(self) -> None:
        """Forget the turns about the current images."""
        self.conversation.past, self.conversation.turn = [], None


def _turn(
    engine: Engine, images: Images, question: str, earlier: tuple[Past, ...], choice: Choice, before: Turn | None
) -> Turn:
    """Answer; from the same question asked `before`, take what does not depend on the choice."""
    totals = engine.tokens(images) if before is None else before.totals
    seen = engine.see(images, question) if before is None else before.seen
    draft = Turn(question, earlier, choice, totals, seen, ())
    full = Column(None, engine.everything(images, question, draft.history(0))) if before is None else before.columns[0]
    methods = choice.methods(min(totals))
    columns = [_column(engine, images, question, method, draft.history(n)) for n, method in enumerate(methods, 1)]
    return Turn(question, earlier, choice, totals, seen, (full, *columns))


def _column(engine: Engine, images: Images, question: str, method: Method, history: History) -> Column:
    try:
        return Column(method, engine.answer(images, question, method, history))
    except GridPruneError as error:  # a method that cannot keep so few says so in its place
        return Column(method, problem=str(error))


class Sessions:
    """The visitors of one server, at most so many; the one that did nothing for longest is forgotten."""

    def __init__(self, new: Callable[[], Session]) -> None:
        self._new = new
        self._by_visitor: OrderedDict[str, Session] = OrderedDict()

    def of(self, visitor: str) -> Session:
        """The session of a visitor, begun if there is none."""
        if visitor not in self._by_visitor:
            self._by_visitor[visitor] = self._new()
        self._by_visitor.move_to_end(visitor)
        while len(self._by_visitor) > MAX_SESSIONS:
            self._by_visitor.popitem(last=False)
        return self._by_visitor[visitor]

    def by_key(self, key: str) -> Session | None:
        """The session that download links with this key belong to."""
        return next((s for s in self._by_visitor.values() if secrets.compare_digest(s.key, key)), None)

    def forget(self, visitor: str) -> None:
        """The visitor closed the page: everything goes."""
        self._by_visitor.pop(visitor, None)

    def __len__(self) -> int:
        return len(self._by_visitor)
