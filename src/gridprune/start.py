"""Start in less time, with nothing that changes what is computed."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

_MODELS = "models"  # the package in transformers with a folder per model
_SCAN = "define_import_structure"


@contextmanager
def uncollected() -> Iterator[None]:
    """No garbage collection inside, and none afterwards of what was made inside.

    For imports and for loading a model: they make some million objects which stay, and Python would walk through all
    of them again and again while they come.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()


def import_transformers() -> ModuleType:
    """The module `transformers`, with its package of models.

    To know what lies where, transformers reads the sources of all its models when it is imported, and once more when
    its package of models is. The second time it is given what the first one found. A transformers that does this in
    another way is imported as it is.
    """
    import transformers
    from transformers.utils import import_utils

    scan = getattr(import_utils, _SCAN, None)
    if scan is None:
        return transformers
    folder = Path(str(transformers.__file__)).parent / _MODELS

    def remembered(path: str | Path, prefix: str | None = None) -> dict[Any, dict[str, Any]]:
        if prefix is not None or Path(path) != folder / "__init__.py":
            return scan(path, prefix)  # type: ignore[no-any-return]
        return {needs: _within(modules) for needs, modules in scan(folder, prefix=_MODELS).items()}

    with patch.object(import_utils, _SCAN, remembered):
        import transformers.models
    return transformers


def _within(modules: dict[str, Any]) -> dict[str, Any]:
    """Of modules of transformers those of its models, by their names there."""
    start = f"{_MODELS}."
    return {name.removeprefix(start): found for name, found in modules.items() if name.startswith(start)}
