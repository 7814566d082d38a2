"""`gridprune demo`, as a plain function that the command line mounts."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Annotated, Any

import typer
from rich.console import Console

from ..errors import UnsupportedCallError
from ..start import import_transformers, uncollected

_stderr = Console(stderr=True)


def demo_command(
    model: Annotated[str, typer.Option("--model", help="'embedded', a checkpoint folder, or a hub id.")] = "embedded",
    port: Annotated[
        int | None, typer.Option("--port", min=0, max=65535, help="A port; the first free one from 7860 by default.")
    ] = None,
    host: Annotated[str, typer.Option("--host", help="Who may come: 127.0.0.1 is this machine only.")] = "127.0.0.1",
    clip: Annotated[
        str | None,
        typer.Option("--clip", help="CLIP text half: a folder or a hub id. Found by itself beside a checkpoint."),
    ] = None,
    device: Annotated[str, typer.Option("--device", help="A torch device, such as cpu or cuda.")] = "cpu",
    dtype: Annotated[str, typer.Option("--dtype", help="auto, float32, bfloat16 or float16.")] = "auto",
) -> None:
    """Open a page in the browser: a picture, a question, what is kept of it, and both answers side by side."""
    if find_spec("gradio") is None:
        raise UnsupportedCallError("The page needs Gradio, which is not installed: pip install 'gridprune[demo]'")
    from .opening import bind, loading_page

    with bind(host, port) as where:
        address = f"[{host}]" if ":" in host else host
        print(f"http://{address}:{where.getsockname()[1]}", flush=True)
        with _stderr.status("loading the model and the page"), loading_page(where), uncollected():
            app = _app(model, clip, device, dtype)
        from .server import serve

        _stderr.print("Ready. Ctrl+C ends it. Nothing is stored.")
        serve(app, where)


def _app(model: str, clip: str | None, device: str, dtype: str) -> Any:
    """The page with its model. All that is heavy is imported here."""
    import_transformers()
    from transformers.utils import logging

    from ..runtime import load
    from .quick import import_gradio

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    loaded = load(model, clip=clip, device=device, dtype=dtype)
    import_gradio()
    from .server import make_app

    return make_app(loaded)
