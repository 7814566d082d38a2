"""Options that several commands have, and what all of them do alike. Heavy imports happen inside commands."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from ..errors import GridPruneError
from ..runtime.packages import check_torchvision

if TYPE_CHECKING:
    from ..runtime.ask import Loaded

# What is printed comes from outside, so none of it is markup, an emoji code or a number to colour.
stdout = Console(markup=False, emoji=False, highlight=False)
stderr = Console(stderr=True, markup=False, emoji=False, highlight=False)

Model = Annotated[
    str,
    typer.Option(
        "--model", help="'embedded', 'embedded-next' (its LLaVA-NeXT form), a checkpoint folder, or a hub id."
    ),
]
MethodSpec = Annotated[
    str, typer.Option("--method", help="See `gridprune methods`; with settings: 'gridprune(zone=2, alpha=0)'.")
]
Keep = Annotated[str, typer.Option("--keep", help="Visual tokens to keep: a count (64) or a share (11.1%).")]
Clip = Annotated[
    str | None,
    typer.Option(
        "--clip", help="CLIP or SigLIP text half: a folder or a hub id. One beside a checkpoint is found without it."
    ),
]
Frames = Annotated[int, typer.Option("--frames", min=1, help="Frames taken of a video, spread evenly over it.")]
Compare = Annotated[bool, typer.Option("--compare", help="Also answer with all visual tokens.")]
MaxNewTokens = Annotated[int, typer.Option("--max-new-tokens", min=1, help="Longest answer, in tokens.")]
Device = Annotated[
    str, typer.Option("--device", help="A torch device, such as cpu or cuda:1; auto is this machine's accelerator.")
]
DeviceMap = Annotated[
    str | None,
    typer.Option(
        "--device-map", help="Spread a checkpoint over devices by accelerate, instead of --device: auto, balanced."
    ),
]
Dtype = Annotated[str, typer.Option("--dtype", help="auto, float32, bfloat16 or float16.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout and nothing else.")]


def reported(command: Callable[..., None]) -> Callable[..., None]:
    """Our own errors become one clear message on stderr and exit code 2; others keep their traceback."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            with _torchvision_named():
                command(*args, **kwargs)
        except GridPruneError as error:
            stderr.print(Text.assemble(("error: ", "red"), str(error)), soft_wrap=True)
            raise typer.Exit(2) from None

    return run


@contextmanager
def _torchvision_named() -> Iterator[None]:
    """Where something fails because torchvision does not fit torch, say that instead."""
    try:
        yield
    except (GridPruneError, typer.Exit):
        raise
    except Exception:
        check_torchvision()
        raise


def quiet(*, bars: bool) -> None:
    """Notices of transformers would spoil a terminal; its errors still come through, its bars if they are wanted."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    if not bars:
        logging.disable_progress_bar()


def load_model(model: str, clip: str | None, device: str, dtype: str, device_map: str | None = None) -> Loaded:
    """The model; a folder that holds `llava` and `clip`, as training writes it, is one too.

    The embedded model is there in a second. Others may have to be downloaded: transformers' own bars tell.
    """
    from ..runtime.ask import EMBEDDED_FORMS

    embedded = model in EMBEDDED_FORMS
    quiet(bars=not embedded)
    with stderr.status("loading the model") if embedded else nullcontext():
        return find_model(model, clip, device, dtype, device_map)


def find_model(model: str, clip: str | None, device: str, dtype: str, device_map: str | None = None) -> Loaded:
    """:func:`load_model` without a word."""
    from ..runtime.ask import load

    folder, opened = Path(model), partial(load, device=device, dtype=dtype, device_map=device_map)
    if (folder / "llava" / "config.json").is_file():
        found = opened(str(folder / "llava"), clip=clip or folder / "clip")
        found.name = str(folder)
        return found
    return opened(model, clip=clip)


@contextmanager
def telling(title: str) -> Iterator[Callable[[str], None]]:
    """What is being done, on stderr: a line that changes in a terminal, a line each with its time elsewhere."""
    with stderr.status(title) as status:

        def tell(words: str) -> None:
            if stderr.is_terminal:
                status.update(f"{title}: {words}")
            else:
                stderr.print(f"{time.strftime('%H:%M:%S')} {words}")

        yield tell


def print_json(value: Any) -> None:
    """One JSON object on stdout."""
    json.dump(value, sys.stdout)
    sys.stdout.write("\n")
