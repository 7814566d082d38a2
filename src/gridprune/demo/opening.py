"""What the address answers while the model is being loaded: a small page that turns into the real one by itself.

It needs neither torch nor Gradio, so it is there at once. A thread answers; the main thread loads, and whatever goes
wrong there ends the program as it would without a page.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from threading import Thread

from ..errors import SettingError

_PORTS = range(7860, 7900)
_POLL = 0.05  # seconds until the thread notices that it shall end


def bind(host: str, port: int | None) -> socket.socket:
    """A socket on `port`, or on the first free one from 7860.

    Raises:
        SettingError: the port, or every one of the range, is taken, or the host is not of this machine.
    """
    for number in _PORTS if port is None else [port]:
        found = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            found.bind((host, number))
            found.listen(128)  # whoever comes between the two servers waits
            return found
        except OSError as error:
            problem = error.strerror
            found.close()
    raise SettingError(f"Cannot listen on {host}, port {port or _PORTS}: {problem}. Give another --port or --host.")


@contextmanager
def loading_page(where: socket.socket) -> Iterator[None]:
    """Inside, every request gets the loading page; afterwards `where` still listens, for the server to come."""
    server = ThreadingHTTPServer(where.getsockname(), _Loading, bind_and_activate=False)
    server.socket.close()
    server.socket = where.dup()
    thread = Thread(target=server.serve_forever, args=(_POLL,), name="loading page", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


class _Loading(BaseHTTPRequestHandler):
    """Status 503 for programs, the page for people. HTTP/1.0: no connection outlives its answer."""

    timeout = 5  # seconds for a request to come
    page = (files(__package__) / "templates" / "loading.html").read_bytes()

    def do_GET(self) -> None:
        self.do_HEAD()
        self.wfile.write(self.page)

    def do_HEAD(self) -> None:
        self.send_response_only(HTTPStatus.SERVICE_UNAVAILABLE)
        self.send_header("content-type", "text/html; charset=utf-8")
        self.send_header("content-length", str(len(self.page)))
        self.send_header("cache-control", "no-store")
        self.send_header("retry-after", "1")
        self.end_headers()

    def version_string(self) -> str:
        return "gridprune"

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the terminal is for what a person has to know."""
