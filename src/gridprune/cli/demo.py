"""`gridprune demo`: the page."""

from __future__ import annotations

import socket
from importlib.util import find_spec
from typing import Annotated, Any

import typer

from ..errors import SettingError, UnsupportedCallError
from .options import Clip, Device, DeviceMap, Dtype, Model, load_model, stderr

_PORTS = range(7860, 7900)


def demo_command(
    model: Model = "embedded",
    port: Annotated[
        int | None, typer.Option("--port", min=0, max=65535, help="A port; the first free one from 7860 by default.")
    ] = None,
    host: Annotated[
        str, typer.Option("--host", help="The address to listen on: 127.0.0.1 is for this machine, 0.0.0.0 for all.")
    ] = "127.0.0.1",
    clip: Clip = None,
    device: Device = "auto",
    device_map: DeviceMap = None,
    dtype: Dtype = "auto",
) -> None:
    """Open a page in the browser: an image, a question, what is kept of it, and both answers side by side."""
    if find_spec("gradio") is None:
        raise UnsupportedCallError("The page needs Gradio, which is not installed: pip install 'gridprune[demo]'")
    with bind(host, port) as where:
        app = _app(host, model, clip, device, dtype, device_map)
        from ..demo.server import serve

        address = f"[{host}]" if ":" in host else host
        print(f"http://{address}:{where.getsockname()[1]}", flush=True)
        stderr.print("Ready. Ctrl+C ends it. Nothing is stored.")
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


def _app(host: str, *where: Any) -> Any:
    """The page with its model. All that is heavy is imported here."""
    from ..demo.server import make_app

    return make_app(load_model(*where), host)
