"""Import Gradio without its type stubs.

At each import Gradio renders a stub for every component class and compares it with the one beside the source. That is
about half of what importing it costs, of use to its own developers only. It skips classes whose file is not known.
"""

from __future__ import annotations

import inspect
from types import ModuleType
from typing import Any
from unittest.mock import patch

_getfile = inspect.getfile


def import_gradio() -> ModuleType:
    """The module `gradio`; a normal import if it was imported before."""
    with patch.object(inspect, "getfile", _getfile_but_of_gradio):
        import gradio
    return gradio


def _getfile_but_of_gradio(thing: Any) -> str:
    if isinstance(thing, type) and thing.__module__.startswith("gradio."):
        raise OSError("no stub is wanted")
    return _getfile(thing)
