"""`gridprune demo`, as a plain function that the command line mounts."""

from __future__ import annotations

import socket
from importlib.util import find_spec
from typing import Annotated, Any

import typer
from rich.console import Console

from ..errors import SettingError, UnsupportedCallError

_stderr = Console(stderr=True)
_PORTS = range(7860, 7900)


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
    with bind(host, port) as where:
        with _stderr.status("loading the model and the page"):
            app = _app(model, clip, device, dtype)
        from ..demo.server import serve

        address = f"[{host}]" if ":" in host else host
        print(f"http://{address}:{where.getsockname()[1]}", flush=True)
        _stderr.print("Ready. Ctrl+C ends it. Nothing is stored.")
        serve(app, where)


def bind(host: str, port: int | None) -> socket.socket:
    """A socket on `port`, or on the first free one from 7860. It listens: who comes before the page is ready waits.

    Raises:
        SettingError: the port, or every one of the range, is taken, or the host is not of this machine.
    """
    for number in _PORTS if port is None else [port]:
        found = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            found.bind((host, number))
            found.listen(128)
            return found
        except OSError as error:
            problem = error.strerror
            found.close()
    raise SettingError(f"Cannot listen on {host}, port {port or _PORTS}: {problem}. Give another --port or --host.")


def _app(model: str, clip: str | None, device: str, dtype: str) -> Any:
    """The page with its model. All that is heavy is imported here."""
    from transformers.utils import logging

    from ..demo.server import make_app
    from ..runtime.ask import load

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    return make_app(load(model, clip=clip, device=device, dtype=dtype))
