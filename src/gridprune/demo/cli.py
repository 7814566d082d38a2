"""`gridprune demo`, as a plain function that the command line mounts."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Annotated

import typer
from rich.console import Console

from ..errors import UnsupportedCallError

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
    from transformers.utils import logging

    from ..runtime import load
    from .quick import import_gradio

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with _stderr.status("loading the model and the page"):
        loaded = load(model, clip=clip, device=device, dtype=dtype)
        import_gradio()
        from .server import bind, make_app, serve

        app, where = make_app(loaded), bind(host, port)
    address = f"[{host}]" if ":" in host else host
    print(f"http://{address}:{where.getsockname()[1]}", flush=True)
    _stderr.print("Ctrl+C ends it. Nothing is stored.")
    serve(app, where)
