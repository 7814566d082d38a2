"""Where pruning enters a model: `generate` at the instance, and a pair of forward hooks for direct calls.

Nothing inside the model is replaced, and everything is gone when the last pruning is removed.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from torch import nn
from torch.utils.hooks import RemovableHandle

from .errors import BusyError

if TYPE_CHECKING:
    from .calls import Plan

_ATTRIBUTE = "_gridprune_interceptor"
_LOCK = threading.RLock()


class Acting(Protocol):
    """What an interceptor hands calls to."""

    def generate(self, original: Callable[..., Any], call: dict[str, Any]) -> Any:
        """Answer a call of `generate`."""

    def before_forward(self, call: dict[str, Any]) -> Plan | None:
        """Other arguments for a direct call; None to leave it as it is."""

    def packed(self, call: dict[str, Any]) -> dict[str, Any]:
        """The arguments of a forward call, final."""

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

    def _watch(self, door: nn.Module) -> None:
        """Catch direct calls of `door`; of doors behind each other the first one acts."""
        if door not in self._handles:
            self._handles[door] = [
                door.register_forward_pre_hook(self._before_forward, with_kwargs=True),
                door.register_forward_hook(self._after_forward, with_kwargs=True, always_call=True),
            ]

    @staticmethod
    def push(model: nn.Module, acting: Acting, doors: Sequence[nn.Module] = ()) -> None:
        """Let `acting` act on the calls of `model`.

        Args:
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
                interceptor._watch(door)
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
    def _inside(self, acting: Acting) -> Iterator[None]:
        self.local.inside = acting
        try:
            yield
        finally:
            self.local.inside = None

    def _intercepted(self, original: Callable[..., Any]) -> Callable[..., Any]:
        names = list(inspect.signature(original).parameters)

        @functools.wraps(original)
        def generate(*args: Any, **kwargs: Any) -> Any:
            acting = self._acting
            if acting is None:
                return original(*args, **kwargs)
            with self._inside(acting):
                return acting.generate(original, {**dict(zip(names, args)), **kwargs})

        return generate

    def _before_forward(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if getattr(self.local, "plan", None) is not None:  # shortened at an outer door
            return None
        inside = getattr(self.local, "inside", None)
        if inside is not None:  # within `generate`, whose arguments were shortened before
            return args, inside.packed(kwargs)
        acting = self._acting
        if acting is None:
            return None
        call = {**dict(zip(inspect.signature(module.forward).parameters, args)), **kwargs}
        with self._inside(acting):
            plan = acting.before_forward(call)
        if plan is None:
            return None
        self.local.plan = plan
        return (), acting.packed(plan.call)

    def _after_forward(self, module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        plan, self.local.plan = getattr(self.local, "plan", None), None
        if plan is not None and output is not None:  # None: the call failed
            plan.remember(getattr(output, "past_key_values", None))
