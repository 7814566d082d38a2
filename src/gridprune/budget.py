"""How many visual tokens to keep: one exact integer rule, shared by every engine.

A budget is a *count* (``64``) or a *share* (``0.111``, ``"11.1%"``, ``Fraction(1, 9)``). A share of N tokens keeps

    k = max(1, floor(share * N + 1/2))

in exact rational arithmetic: the nearest integer, halves upwards. A float is read as the decimal it prints as, so
``0.1`` is one tenth and not the binary number beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from numbers import Integral, Rational
from typing import Union

from .errors import BudgetError

Keep = Union[int, float, str, Fraction, Decimal, "Budget"]

_HELP = "Give a count (64), a share in (0, 1] (0.111) or a percentage ('11.1%')."


@dataclass(frozen=True)
class Budget:
    """Exactly one of `count` and `share` is set. Build it with :meth:`parse`."""

    count: int | None = None
    share: Fraction | None = None

    def __post_init__(self) -> None:
        if (self.count is None) == (self.share is None):
            raise BudgetError(f"A budget is either a count or a share, got {self!r}. {_HELP}")
        if self.count is not None and self.count < 1:
            raise BudgetError(f"A budget must keep at least one visual token, got {self.count}. {_HELP}")
        if self.share is not None and not 0 < self.share <= 1:
            raise BudgetError(f"A share must lie in (0, 1], got {float(self.share):g}. {_HELP}")

    @classmethod
    def parse(cls, keep: Keep) -> Budget:
        """Read what a person writes. Integers are counts; floats, fractions and percentages are shares.

        Strings follow the same rule: ``"64"`` is a count, ``"0.111"`` and ``"11.1%"`` are shares.

        Raises:
            BudgetError: not a number, not finite, a count below 1 or a share outside (0, 1].
        """
        if isinstance(keep, Budget):
            return keep
        if isinstance(keep, bool):
            raise BudgetError(f"A budget cannot be {keep!r}. {_HELP}")
        if isinstance(keep, Integral):
            return cls(count=int(keep))
        if isinstance(keep, Rational):
            return cls(share=Fraction(keep.numerator, keep.denominator))
        text = str(keep).strip()
        try:
            if text.endswith("%"):
                return cls(share=Fraction(Decimal(text[:-1].strip())) / 100)
            if isinstance(keep, str) and text.lstrip("+-").isdigit():
                return cls(count=int(text))
            return cls(share=Fraction(Decimal(text)))
        except (InvalidOperation, ValueError, OverflowError) as error:
            if isinstance(error, BudgetError):
                raise
            raise BudgetError(f"Cannot read {keep!r} as a budget of visual tokens. {_HELP}") from None

    def resolve(self, total: int) -> int:
        """The exact number of tokens kept out of `total`, between 1 and `total`.

        Raises:
            BudgetError: `total` is not positive, or the count is larger than `total`.
        """
        if total < 1:
            raise BudgetError(f"There are no visual tokens to choose from (N = {total}).")
        if self.count is not None:
            if self.count > total:
                raise BudgetError(
                    f"Asked to keep {self.count} visual tokens, but the image has only {total}. "
                    f"Keep at most {total}, or give a share such as '50%' that fits images of every size."
                )
            return self.count
        assert self.share is not None
        return max(1, (2 * self.share * total + 1).__floor__() // 2)

    def __str__(self) -> str:
        return str(self.count) if self.count is not None else f"{float(self.share * 100):g}%"  # type: ignore[operator]
