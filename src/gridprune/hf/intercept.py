"""Where pruning enters a model: `generate` at the instance, and forward hooks for direct calls.

Prompts are shortened at the door of the model without its head, and what comes out there is put back at the caller's
columns: heads, losses and what other libraries put in their place see a call as it was given. At the door of the whole
model a call only gets labels of its own. Nothing inside the model is replaced, and everything is gone when the last
pruning is removed.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

from torch import nn
from torch.utils.hooks import RemovableHandle

from ..errors import BusyError
from .generation import callbacks
from .targets import Targets

_ATTRIBUTE = "_gridprune_interceptor"
_LOCK = threading.RLock()


class Prepared(Protocol):
    """A direct call that is under way.

    Attributes:
        call: its arguments, final.
    """

    call: dict[str, Any]

    def finish(self, output: Any) -> Any:
        """What the caller gets in place of the output."""


class Pruner(Protocol):
    """What an interceptor hands calls to."""

    def generate(self, original: Callable[..., Any], call: dict[str, Any]) -> Any:
        """Answer a call of `generate`."""

    def before_forward(self, call: dict[str, Any], targets: Targets | None) -> Prepared | None:
        """Other arguments for a direct call; None to leave it as it is."""

    def packed(self, call: dict[str, Any]) -> dict[str, Any]:
        """The arguments, final, of a forward call that is made by `generate`."""

    def install(self) -> None:
        """Put further hooks on the model: once, however often it is applied."""

    def uninstall(self) -> None:
        """Take them off again."""


@dataclass(eq=False)
class Entry:
    """One application of a pruning to a model.

    Attributes:
        under: the application that acted there before.
        everywhere: whether it was switched on until further notice, and not for a block.
    """

    acting: Pruner
    under: Entry | None
    everywhere: bool

    def beneath(self) -> Iterator[Entry]:
        """The applications that this one covers, those that were removed since included."""
        under = self.under
        while under is not None:
            yield under
            under = under.under


# What was applied in this context: `asyncio` tasks have one each, `asyncio.to_thread` hands it on, threads start anew.
_ENTERED: ContextVar[tuple[weakref.ref[Entry], ...]] = ContextVar("gridprune_entered", default=())


class Interceptor:
    """What is installed on one model while anything prunes it.

    A call is answered by the innermost pruning of its own context (see :mod:`contextvars`). Where a context has none,
    as a new thread, the innermost of all acts, if there is one: prunings of different contexts do not cover each other.
    """

    def __init__(self, model: nn.Module) -> None:
        self.entries: tuple[Entry, ...] = ()
        self.local = threading.local()
        self.model = model
        self._own_generate = model.__dict__.get("generate")
        self._handles: dict[nn.Module, list[RemovableHandle]] = {}
        model.__dict__["generate"] = self._intercepted(model.generate)  # type: ignore[arg-type]
        model.__dict__[_ATTRIBUTE] = self

    def _watch(self, door: nn.Module, before: Callable[..., Any], after: Callable[..., Any]) -> None:
        if door not in self._handles:
            self._handles[door] = [
                door.register_forward_pre_hook(before, with_kwargs=True),
                door.register_forward_hook(after, with_kwargs=True, always_call=True),
            ]

    @staticmethod
    def push(
        model: nn.Module,
        base: nn.Module,
        acting: Pruner,
        entries: Sequence[nn.Module] = (),
        *,
        everywhere: bool = False,
    ) -> None:
        """Let `acting` act on the calls of `model`.

        Args:
            base: the part of it that comes before the head.
            entries: further modules whose calls reach the model.
            everywhere: until further notice, and not for a block.
        """
        with _LOCK:
            found = model.__dict__.get(_ATTRIBUTE)
            if found is None or not found._entries_of(acting):
                acting.install()
            interceptor = found or Interceptor(model)
            for entry_module in (model, *entries):
                interceptor._watch(entry_module, interceptor._before_call, interceptor._after_call)
            interceptor._watch(base, interceptor._before_forward, interceptor._after_forward)
            entered = interceptor._entered()
            below = entered or [entry for entry in interceptor.entries if entry.everywhere]
            entry = Entry(acting, below[-1] if below else None, everywhere)
            interceptor.entries = (*interceptor.entries, entry)
            _ENTERED.set((*(each for each in _ENTERED.get() if each() is not None), weakref.ref(entry)))

    @staticmethod
    def pop(model: nn.Module, acting: Pruner) -> None:
        """Take back the last `push` of `acting`, in this context if there is one, and leave the model as it was if that
        was the last of all.

        Raises:
            BusyError: it is not applied.
        """
        with _LOCK:
            interceptor: Interceptor | None = model.__dict__.get(_ATTRIBUTE)
            applied = [] if interceptor is None else interceptor._entries_of(acting)
            if interceptor is None or not applied:
                raise BusyError("This pruning is not applied, so it cannot be removed.")
            own = [entry for entry in interceptor._entered() if entry.acting is acting]
            last = (own or [entry for entry in applied if entry.everywhere] or applied)[-1]
            interceptor.entries = tuple(entry for entry in interceptor.entries if entry is not last)
            if len(applied) == 1:
                acting.uninstall()
            if not interceptor.entries:
                interceptor._uninstall()

    def _uninstall(self) -> None:
        for handle in itertools.chain.from_iterable(self._handles.values()):
            handle.remove()
        del self.model.__dict__[_ATTRIBUTE], self.model.__dict__["generate"]
        if self._own_generate is not None:
            self.model.__dict__["generate"] = self._own_generate

    def __deepcopy__(self, memo: object) -> NoReturn:
        raise BusyError("A model cannot be copied while it is being pruned: copy it outside the `prune` block.")

    def __reduce__(self) -> NoReturn:
        raise BusyError(
            "A model cannot be pickled while it is being pruned: use `save_pretrained`, or leave the `prune` block."
        )

    # -- calls ---------------------------------------------------------------------------------------------------

    def _entries_of(self, acting: Pruner) -> list[Entry]:
        return [entry for entry in self.entries if entry.acting is acting]

    def _entered(self) -> list[Entry]:
        """What is applied in this context, the innermost last."""
        found = (each() for each in _ENTERED.get())
        return [entry for entry in found if entry in self.entries]

    def _acting(self) -> Pruner | None:
        """What answers a call of this context; None within a call that is being pruned already.

        Raises:
            BusyError: the context has no pruning of its own, and others have several.
        """
        if getattr(self.local, "inside", None) is not None:
            return None
        entries = self._entered()[-1:]
        if not entries:
            covered = {under for entry in self.entries for under in entry.beneath()}
            entries = [entry for entry in self.entries if entry not in covered]
        if len(entries) > 1:
            raise BusyError(
                f"{len(entries)} prunings are applied to this model by different threads or tasks, and this call comes "
                "from one that has none, so it is open which is meant. Enter a `prune` block where you call the model, "
                "or take the context along: `asyncio.to_thread(model.generate, ...)` does, and "
                "`contextvars.copy_context().run` for threads and executors."
            )
        return entries[0].acting if entries else None

    @staticmethod
    def answers(model: nn.Module, acting: Pruner) -> bool:
        """Whether `acting` answers the call of `model` that this thread is in."""
        interceptor = model.__dict__.get(_ATTRIBUTE)
        if interceptor is None:
            return False
        inside = getattr(interceptor.local, "inside", None)
        return acting is (getattr(interceptor.local, "direct", None) if inside is None else inside)

    @contextmanager
    def _inside(self, acting: Pruner | None) -> Iterator[None]:
        before, self.local.inside = getattr(self.local, "inside", None), acting
        try:
            yield
        finally:
            self.local.inside = before

    def _intercepted(self, original: Callable[..., Any]) -> Callable[..., Any]:
        names = list(inspect.signature(original).parameters)

        @functools.wraps(original)
        def generate(*args: Any, **kwargs: Any) -> Any:
            acting = self._acting()
            if acting is None:
                return original(*args, **kwargs)
            call = callbacks({**dict(zip(names, args)), **kwargs}, self._outside)
            with self._inside(acting):
                return acting.generate(original, call)

        return generate

    def _outside(self, callback: Callable[..., Any]) -> Callable[..., Any]:
        """A callback of the caller's whose own calls of the model are pruned like any other."""

        def called(*args: Any, **kwargs: Any) -> Any:
            with self._inside(None):
                return callback(*args, **kwargs)

        return called

    def _before_call(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        outer = getattr(self.local, "door", None)
        if self._acting() is None or outer not in (None, module):  # of modules around each other the first one acts
            return None
        call = _named(self.model, args, kwargs)  # as wrappers hand it on
        self.local.door, self.local.targets = module, Targets.of(call, self.model.config)
        return (), self.local.targets.call

    def _after_call(self, module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        if getattr(self.local, "door", None) is not module:
            return
        targets, self.local.targets, self.local.door = self.local.targets, None, None
        if output is not None:  # None: the call failed
            targets.check(output)

    def _before_forward(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        inside = getattr(self.local, "inside", None)
        if inside is not None:  # within `generate`, whose arguments were shortened before
            return (), inside.packed(_named(module, args, kwargs))
        acting = self._acting()
        if acting is None:
            return None
        with self._inside(acting):
            plan = acting.before_forward(_named(module, args, kwargs), getattr(self.local, "targets", None))
        self.local.direct, self.local.plan = acting, plan
        return None if plan is None else ((), plan.call)

    def _after_forward(self, module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
        plan, self.local.plan = getattr(self.local, "plan", None), None
        self.local.direct = None
        return None if plan is None or output is None else plan.finish(output)  # None: the call failed


def _named(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """All arguments by name."""
    return {**dict(zip(inspect.signature(module.forward).parameters, args)), **kwargs} if args else kwargs
