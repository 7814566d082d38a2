"""Methods that hold a method: what they share, and how they refuse what they cannot hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ...core.token_map import TokenMap
from ...errors import SettingError
from ..base import Method


@dataclass(frozen=True, kw_only=True)
class Wrapper(Method):
    """A method that changes how its `base` selects. The budget is the wrapper's: the base's own `keep` is not read.

    A wrapper holds methods that act before the language model, keep a fixed count, do not merge (the result would be
    merged twice) and have the capabilities it `requires`.

    Attributes:
        base: the method held.
    """

    base: Method

    requires: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        super().__post_init__()
        self._hold("base")

    @property
    def label(self) -> str:
        return f"{self.name}({self.base.label})"

    @property
    def needs(self) -> frozenset[str]:
        return self.base.needs

    @property
    def saliency_depths(self) -> tuple[float, ...]:
        return self.base.saliency_depths

    @property
    def graph_safe(self) -> bool:
        return super().graph_safe and all(method.graph_safe for method in self._held().values())

    def check_count(self, token_map: TokenMap, k: int) -> None:
        super().check_count(token_map, k)
        self.base.check_count(token_map, k)

    def explain(self) -> dict[str, Any]:
        held = {name: {"name": method.name} | method.explain() for name, method in self._held().items()}
        return super().explain() | held

    def _held(self) -> dict[str, Method]:
        return {name: value for name, value in super().explain().items() if isinstance(value, Method)}

    @classmethod
    def fits(cls, method: Method) -> bool:
        """Whether this wrapper can hold `method`."""
        plain = method.stage == "pre-llm" and method.fixed_count and not method.merges
        return plain and cls.requires <= method.capabilities

    def _hold(self, name: str) -> None:
        from ..registry import BUILT_IN, get  # the registry names wrappers, wrappers name what they can hold

        method = getattr(self, name)
        if not isinstance(method, Method):
            raise SettingError(f"{type(self).__name__}.{name} must be a method, such as DivPrune(), got {method!r}.")
        if not self.fits(method):
            fitting = ", ".join(sorted(n for n in BUILT_IN if self.fits(get(n)())))
            raise SettingError(f"{self.name} cannot hold {method.name!r}. It composes with: {fitting}.")
