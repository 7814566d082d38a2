"""Which end of the relevance means relevant."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from ...errors import SettingError
from ..base import Cues


def check_sign(sign: object) -> None:
    """Raise a :class:`SettingError` unless `sign` is +1, -1 or "tower"."""
    if isinstance(sign, bool) or not isinstance(sign, (int, str)) or sign not in (1, -1, "tower"):
        raise SettingError(f"relevance_sign must be +1, -1 or 'tower' (the sign measured for the tower), got {sign!r}.")


def signed_relevance(cues: Cues, sign: int | Literal["tower"]) -> Tensor:
    """(B, N) relevance where larger means more relevant."""
    factor = cues.relevance_sign if sign == "tower" else sign
    relevance = cues.require("relevance")
    return relevance if factor == 1 else relevance * factor
