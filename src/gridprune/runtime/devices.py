"""Where a model is put and in which numbers: what people name, checked before anything is loaded."""

from __future__ import annotations

import torch

from ..errors import SettingError, first_line

DTYPES = ("auto", "float32", "bfloat16", "float16")


def find_device(name: str) -> torch.device:
    """The device called `name`; "auto" is the accelerator of this machine (cuda, mps, xpu, ...) or else the CPU.

    Raises:
        SettingError: there is no such device here.
    """
    if name == "auto":
        found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return found or torch.device("cpu")
    try:
        torch.zeros(1, device=name, dtype=torch.float32).cpu()  # "meta" has no numbers to give back
        return torch.device(name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        here = find_device("auto").type
        raise SettingError(
            f"This machine, or its PyTorch, has no device {name!r} ({first_line(error)}). "
            f"Leave the device at 'auto', which is {here!r} here."
        ) from None


def check_dtype(name: str) -> None:
    """Refuse what is no name of :data:`DTYPES`."""
    if name not in DTYPES:
        raise SettingError(f"--dtype must be {', '.join(DTYPES[:-1])} or {DTYPES[-1]}, got {name!r}.")
