"""What the server accepts and what it refuses, asked directly as a program would."""

from __future__ import annotations

import json
import urllib.error
import urllib.request

import pytest
from PIL import Image

from gridprune.demo.limits import MAX_BYTES, MAX_EVENT

from .conftest import png

pytestmark = pytest.mark.usefixtures("server")


@pytest.fixture
def ask(server):
    def request(path: str, data: bytes | None = None, headers: dict[str, str] | None = None) -> tuple[int, str]:
        asked = urllib.request.Request(server.url + path, data, headers or {})
        try:
            with urllib.request.urlopen(asked, timeout=60) as reply:
                return reply.status, reply.read().decode(errors="replace")
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode(errors="replace")

    return request


def bomb() -> bytes:
    """400 million pixels in some fifty thousand bytes."""
    return png(Image.new("1", (20_000, 20_000)))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        (b"", "not an image"),
        (png(Image.effect_noise((64, 64), 90))[:900], "fetched again"),
        (bomb(), "too large"),
    ],
    ids=["svg", "postscript", "nothing", "truncated", "bomb"],
)
def test_what_is_no_image_is_refused_in_words(ask, data, words):
    status, reply = ask("/image?name=../../etc/passwd", data)
    assert status == 422
    assert words in json.loads(reply)["problem"]
    assert "BytesIO" not in reply


def test_an_image_becomes_a_ticket(ask):
    status, reply = ask("/image?name=a.png", png(Image.new("RGB", (8, 8))))
    assert status == 200
    assert set(json.loads(reply)) == {"ticket"}


@pytest.mark.parametrize(("path", "most"), [("/image", MAX_BYTES), ("/gradio_api/queue/join", MAX_EVENT)])
def test_bodies_are_bounded(ask, path, most):
    try:
        status, _ = ask(path, bytes(most + 1))
    except (urllib.error.URLError, ConnectionError):  # the server closed the connection before all was sent
        status = 413
    assert status == 413


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/upload",
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/info",
        "/gradio_api/proxy=http://127.0.0.1/",
        "/gradio_api/vibe-code",
        "/monitoring",
        "/docs",
        "/openapi.json",
        "/save/nobody/gridprune.json",
    ],
)
def test_what_the_page_does_not_need_is_not_there(ask, path):
    assert ask(path)[0] == 404


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "localhost:1"}, 200),  # a tunnel
        ({"Host": "[::1]:7860"}, 200),
        ({"Host": "evil.example"}, 421),  # its name may have come to mean this machine
        ({"Host": "127.0.0.1.evil.example"}, 421),
        ({"Host": "[::1"}, 421),
        ({"Host": "192.168.1.9"}, 421),  # not what it is bound to
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "http://localhost:1"}, 403),  # another page of this machine
        ({"Origin": "null"}, 403),
    ],
    ids=lambda value: " ".join(value.values()) if isinstance(value, dict) else "",
)
def test_only_its_own_page_is_answered(ask, headers, status):
    assert ask("/config", headers=headers)[0] == status


def test_no_path_of_the_server_is_told(ask, server):
    for path in (
        "/",
        "/config",
        "/theme.css",
        "/save/x/gridprune.png",
        "/static/../../../etc/passwd",
        "/assets/none.js",
    ):
        reply = ask(path)[1]
        for secret in (str(server.temporary), str(server.log.parent), "site-packages", "Traceback", "/root", "/home"):
            assert secret not in reply, path
