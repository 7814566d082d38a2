"""How many visual tokens to keep: one exact integer rule, shared by every engine.

A budget is a *count* (``64``) or a *share* (``0.111``, ``"11.1%"``, ``Fraction(1, 9)``). A share of N tokens keeps

    k = max(1, floor(share * N + 1/2))

in exact rational arithmetic: the nearest integer, halves upwards. A float is read as the decimal it prints as, so
``0.1`` is one tenth and not the binary number beside it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from numbers import Integral, Rational
from typing import Union

from ..errors import BudgetError

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
            given = f"{float(self.share):g}" if abs(self.share) < 10**9 else "one of more than nine digits"
            raise BudgetError(f"A share must lie in (0, 1], got {given}. {_HELP}")

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
            number = Decimal(text.removesuffix("%").strip())
            whole = isinstance(keep, str) and text.lstrip("+-").isdigit()
            count = int(text) if whole else None
        except (InvalidOperation, ValueError):
            number, count = Decimal("NaN"), None
        if not number.is_finite() or len(text) > 200:
            raise BudgetError(f"Cannot read {keep!r:.200} as a budget of visual tokens. {_HELP}")
        if count is not None:
            return cls(count=count)
        if number and abs(number.adjusted()) > 100:  # its fraction would have that many digits
            raise BudgetError(f"A share must lie in (0, 1] and be larger than 1e-100, got {text}. {_HELP}")
        return cls(share=Fraction(number) / (100 if text.endswith("%") else 1))

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
        return max(1, math.floor(self.share * int(total) + Fraction(1, 2)))

    def __str__(self) -> str:
        return f"{float(self.share * 100):g}%" if self.share is not None else str(self.count)
