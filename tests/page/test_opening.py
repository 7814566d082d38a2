"""What the address answers until the page is there, and what happens when it never comes."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from typer.testing import CliRunner

import gridprune
from gridprune.demo.opening import bind, loading_page
from gridprune.errors import CheckpointError, SettingError

HEADING = "What was waited for"


@pytest.fixture
def where() -> Iterator[socket.socket]:
    with bind("127.0.0.1", 0) as found:
        yield found


def address(where: socket.socket) -> str:
    return f"http://127.0.0.1:{where.getsockname()[1]}/"


def get(url: str, data: bytes | None = None) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, data, timeout=60) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, f"{error.headers}{error.read().decode()}"


@contextmanager
def real_page(where: socket.socket) -> Iterator[None]:
    """A server as it follows: on the same socket, with status 200."""

    class Real(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(f"<h1>{HEADING}</h1>".encode())

    server = HTTPServer(where.getsockname(), Real, bind_and_activate=False)
    server.socket.close()
    server.socket = where.dup()
    thread = Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("path", ["", "?question=1", "config", "static/../../../etc/passwd"])
def test_every_address_answers_with_the_loading_page(where, path):
    with loading_page(where):
        status, reply = get(address(where) + path)
    assert status == 503
    assert "Loading the model" in reply
    assert "retry-after: 1" in reply
    for secret in ("Python", "Traceback", str(Path(gridprune.__file__).parents[2]), "passwd"):
        assert secret not in reply


def test_what_is_sent_too_early_is_refused(where):
    with loading_page(where):
        status, reply = get(address(where) + "picture", b"a picture")
    assert status == 501
    assert "Python" not in reply


def test_a_request_between_the_two_servers_waits_for_the_page(where):
    with loading_page(where):
        assert get(address(where))[0] == 503
    with ThreadPoolExecutor() as pool:
        reply = pool.submit(get, address(where))
        with pytest.raises(TimeoutError):
            reply.result(timeout=0.2)
        with real_page(where):
            assert reply.result(timeout=60) == (200, f"<h1>{HEADING}</h1>")


def test_an_error_while_loading_goes_on_and_ends_the_loading_page(where):
    def load() -> None:
        with loading_page(where):
            assert get(address(where))[0] == 503
            raise CheckpointError("no weights")

    with pytest.raises(CheckpointError, match="no weights"):
        load()
    url = address(where)
    where.close()
    with pytest.raises(urllib.error.URLError):
        get(url)


def test_a_model_that_cannot_be_loaded_ends_the_command_with_its_reason(tmp_path):
    pytest.importorskip("gradio", reason="the page needs gridprune[demo]")
    from gridprune.cli import app

    result = CliRunner().invoke(app, ["demo", "--port", "0", "--model", str(tmp_path)])
    assert result.exit_code == 2
    assert result.stdout.startswith("http://127.0.0.1:")  # a person could look at the loading page meanwhile
    assert "Could not load the folder" in result.stderr
    with pytest.raises(urllib.error.URLError):
        get(result.stdout.strip())


def test_a_port_that_is_taken(where):
    with pytest.raises(SettingError, match="another --port"):
        bind("127.0.0.1", where.getsockname()[1])


@pytest.fixture
def tab(browser) -> Iterator[object]:
    context = browser.new_context()
    context.set_default_timeout(60_000)
    yield context.new_page()
    context.close()


def test_the_loading_page_turns_into_the_real_one(where, tab):
    urls = []
    tab.on("request", lambda request: urls.append(request.url))
    with loading_page(where):
        tab.goto(address(where))
        tab.get_by_role("status").get_by_text("Loading the model").wait_for()
        assert tab.get_by_role("progressbar").is_visible()
    with real_page(where):
        tab.get_by_role("heading", name=HEADING).wait_for()
    assert {url for url in urls if not url.startswith("data:")} == {address(where)}


def test_the_loading_page_says_when_the_program_has_ended(where, tab):
    with loading_page(where):
        tab.goto(address(where))
        tab.get_by_role("progressbar").wait_for()
    where.close()
    tab.get_by_role("status").get_by_text("has ended").wait_for()
    assert not tab.get_by_role("progressbar").is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_loading_page_is_accessible(where, browser, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs gridprune[page-tests]").Axe()
    context = browser.new_context(color_scheme=scheme)
    page = context.new_page()
    with loading_page(where):
        page.goto(address(where))
        result = axe.run(page).response
    context.close()
    assert len(result["passes"]) > 10  # it did look
    assert not [f"{found['id']}: {found['help']}" for found in result["violations"]]
