"""What goes wrong with one row of many: the row fails with its reason, and the others are answered."""

from __future__ import annotations

import logging
import traceback

import torch

from ..errors import GridPruneError, first_line

_log = logging.getLogger(__name__)
_DEVICE_LOST: type[Exception] = getattr(torch, "AcceleratorError", torch.cuda.CudaError)


class Failures:
    """Reasons of failed rows, in words for a person.

    What files, memory and processors complain about is the row's. Any other error may be a fault of the code: its
    traceback is logged, once for every place that it comes from.
    """

    def __init__(self) -> None:
        self._seen: set[tuple[str, str, int]] = set()

    def reason(self, error: Exception) -> str:
        """Why a row failed.

        Raises:
            Exception: `error` itself, if no later row could be answered either: the device is lost.
        """
        if isinstance(error, _DEVICE_LOST):
            raise error
        if isinstance(error, GridPruneError):
            return str(error)
        if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
            return f"There is not enough memory for this row ({first_line(error)})."
        if not isinstance(error, (OSError, ValueError)):
            self._log_once(error)
        return first_line(error)

    def _log_once(self, error: Exception) -> None:
        frames = traceback.extract_tb(error.__traceback__)
        place = (type(error).__name__, frames[-1].filename, frames[-1].lineno or 0) if frames else ("", "", 0)
        if place not in self._seen:
            self._seen.add(place)
            _log.warning("A row failed; further rows that fail at the same place are not logged.", exc_info=error)
