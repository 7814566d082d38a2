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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn, Protocol

from torch import nn
from torch.utils.hooks import RemovableHandle

from .errors import BusyError
from .sequences import callbacks
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


class Acting(Protocol):
    """What an interceptor hands calls to."""

    def generate(self, original: Callable[..., Any], call: dict[str, Any]) -> Any:
        """Answer a call of `generate`."""

    def before_forward(self, call: dict[str, Any], targets: Targets | None) -> Prepared | None:
        """Other arguments for a direct call; None to leave it as it is."""

    def packed(self, call: dict[str, Any]) -> dict[str, Any]:
        """The arguments, final, of a forward call that is made by `generate`."""

    def install(self) -> None:
        """Put further hooks on the model."""

    def uninstall(self) -> None:
        """Take them off again."""


class Interceptor:
    """What is installed on one model while anything prunes it. Of nested prunings the innermost acts.

    One thread at a time may apply prunings to a model; any thread may call the model meanwhile.
    """

    def __init__(self, model: nn.Module) -> None:
        self.stack: list[Acting] = []
        self.owner = threading.get_ident()
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
    def push(model: nn.Module, base: nn.Module, acting: Acting, doors: Sequence[nn.Module] = ()) -> None:
        """Let `acting` act on the calls of `model`.

        Args:
            base: the part of it that comes before the head.
            doors: further modules whose calls reach the model.

        Raises:
            BusyError: another thread is pruning the model.
        """
        with _LOCK:
            interceptor = model.__dict__.get(_ATTRIBUTE) or Interceptor(model)
            if interceptor.owner != threading.get_ident():
                raise BusyError(
                    "Another thread is pruning this model. Enter one `prune` block and call the model inside it "
                    "from as many threads as you like, or give each thread its own copy of the model."
                )
            for door in (model, *doors):
                interceptor._watch(door, interceptor._before_call, interceptor._after_call)
            interceptor._watch(base, interceptor._before_forward, interceptor._after_forward)
            interceptor.stack.append(acting)

    @staticmethod
    def pop(model: nn.Module, acting: Acting) -> None:
        """Take back the last `push` of `acting`, and leave the model as it was if that was the last of all.

        Raises:
            BusyError: it is not applied.
        """
        with _LOCK:
            interceptor = model.__dict__.get(_ATTRIBUTE)
            stack = interceptor.stack if interceptor is not None else []
            places = [place for place, applied in enumerate(stack) if applied is acting]
            if not places:
                raise BusyError("This pruning is not applied, so it cannot be removed.")
            del stack[places[-1]]
            if not stack and interceptor is not None:
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

    @property
    def _acting(self) -> Acting | None:
        """What answers a call of this thread; None within a call that is being pruned already."""
        stack = self.stack
        return None if getattr(self.local, "inside", None) is not None or not stack else stack[-1]

    @contextmanager
    def _inside(self, acting: Acting | None) -> Iterator[None]:
        before, self.local.inside = getattr(self.local, "inside", None), acting
        try:
            yield
        finally:
            self.local.inside = before

    def _intercepted(self, original: Callable[..., Any]) -> Callable[..., Any]:
        names = list(inspect.signature(original).parameters)

        @functools.wraps(original)
        def generate(*args: Any, **kwargs: Any) -> Any:
            acting = self._acting
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
        if self._acting is None or getattr(self.local, "targets", None) is not None:  # of doors the first one acts
            return None
        call = _named(self.model, args, kwargs)  # as wrappers hand it on
        self.local.targets = Targets.of(call, self.model.config)
        return (), self.local.targets.call

    def _after_call(self, module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        targets, self.local.targets = getattr(self.local, "targets", None), None
        if targets is not None and output is not None:  # None: the call failed
            targets.check(output)

    def _before_forward(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        inside = getattr(self.local, "inside", None)
        if inside is not None:  # within `generate`, whose arguments were shortened before
            return (), inside.packed(_named(module, args, kwargs))
        acting = self._acting
        if acting is None:
            return None
        with self._inside(acting):
            plan = acting.before_forward(_named(module, args, kwargs), getattr(self.local, "targets", None))
        if plan is None:
            return None
        self.local.plan = plan
        return (), plan.call

    def _after_forward(self, module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
        plan, self.local.plan = getattr(self.local, "plan", None), None
        return None if plan is None or output is None else plan.finish(output)


def _named(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """All arguments by name."""
    return {**dict(zip(inspect.signature(module.forward).parameters, args)), **kwargs} if args else kwargs
