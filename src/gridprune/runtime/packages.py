"""Packages that transformers wants beside it for some processors, and whether the installed ones fit each other."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec

from ..errors import InstallationError, first_line

EXTRA = "pip install 'gridprune[processors]'"


def check_torchvision() -> None:
    """Try what transformers does wherever torchvision is installed: import it. One of another build than torch's fails.

    Raises:
        InstallationError: it cannot be imported, so that no model can be loaded.
    """
    if find_spec("torchvision") is None:
        return
    try:
        import_module("torchvision")
    except Exception as error:  # a symbol, an operator or a library that is not there: many classes
        raise InstallationError(
            f"torchvision {version('torchvision')} does not fit torch {version('torch')} ({first_line(error)}), and "
            "transformers imports it wherever it is installed. Install both in one go, from the same place (`pip "
            "install --force-reinstall torch torchvision`), or do without: `pip uninstall torchvision`."
        ) from error


def missing_package(name: str, error: ImportError) -> InstallationError:
    """What to say where the checkpoint `name` cannot be loaded for want of a package."""
    return InstallationError(
        f"Could not load {name!r}: it needs a package that is not installed. `{EXTRA}` brings what the processors of "
        f"transformers want: torchvision, for all models that also take videos, and num2words. Get torchvision from "
        f"where your torch came from.\nIn full: {' '.join(str(error).split())}"
    )
