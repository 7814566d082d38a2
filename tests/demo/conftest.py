"""A server of the page in a process of its own, and one browser for all tests; skipped where they are missing."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from PIL import Image

from gridprune.runtime import Loaded, load
from gridprune.tiny.scenes import make_scene

# Notes every address beyond this machine that the server asks for, then runs the command line.
_WATCHED = """
import socket, sys
from pathlib import Path
stray, connect, resolve = Path(sys.argv.pop(1)), socket.socket.connect, socket.getaddrinfo
def note(host):
    if str(host) not in ("127.0.0.1", "::1", "localhost", "None"):
        with stray.open("a") as out:
            out.write(f"{host}\\n")
def watched_connect(self, address):
    note(address[0] if isinstance(address, tuple) else "127.0.0.1")
    return connect(self, address)
def watched_resolve(host, *args, **kwargs):
    note(host)
    return resolve(host, *args, **kwargs)
socket.socket.connect, socket.getaddrinfo = watched_connect, watched_resolve
from gridprune.cli import app
app()
"""


@dataclass
class Server:
    """A running `gridprune demo`.

    Attributes:
        temporary: the only folder for temporary files that it knows.
        stray: names of hosts beyond this machine that it asked for, a line each.
        log: what it said on stderr.
    """

    url: str
    temporary: Path
    stray: Path
    log: Path


@dataclass
class Visit:
    """A page in a browser context of its own, and what it asked for and got.

    Attributes:
        page: Playwright's page.
        urls: of all requests.
        finished: responses that came to an end.
        errors: exceptions in the page's scripts.
    """

    page: object
    urls: list[str] = field(default_factory=list)
    finished: list[object] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


@pytest.fixture(scope="session")
def loaded() -> Loaded:
    return load()


@pytest.fixture(scope="session")
def server(tmp_path_factory) -> Iterator[Server]:
    pytest.importorskip("gradio", reason="the page needs gridprune[demo]")
    folder = tmp_path_factory.mktemp("server")
    temporary, stray, log = folder / "tmp", folder / "stray.txt", folder / "log.txt"
    temporary.mkdir()
    stray.touch()
    command = [sys.executable, "-c", _WATCHED, str(stray), "demo", "--port", "0"]
    environment = {**os.environ, "TMPDIR": str(temporary), "HOME": str(folder), "HF_HUB_OFFLINE": "1"}
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=out, text=True, env=environment, cwd=folder)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+", url), log.read_text()
        yield Server(url, temporary, stray, log)
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture
def visit(server, browser):
    """Opens the page as another visitor, and waits until the first answer stands there."""
    contexts = []

    def open_page(width: int = 1280, height: int = 900, **options: object) -> Visit:
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        context.set_default_timeout(60_000)  # machines that run tests are busy
        contexts.append(context)
        seen = Visit(context.new_page())
        seen.page.on("request", lambda request: seen.urls.append(request.url))
        seen.page.on("requestfinished", lambda request: seen.finished.append(request))
        seen.page.on("pageerror", lambda error: seen.errors.append(str(error)))
        seen.page.goto(server.url)
        seen.page.locator(".gp-map").first.wait_for()
        return seen

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture(scope="session")
def upload() -> dict[str, object]:
    """An image as a browser sends it."""
    return {"name": "own image.png", "mimeType": "image/png", "buffer": png(make_scene("dev", 5).image)}


def png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()
