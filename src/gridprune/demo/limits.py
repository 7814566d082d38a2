"""What the page accepts: how large images may be, which requests are answered, and how many of anything is kept."""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from PIL.Image import Image, Resampling

from ..runtime.images import decode_image

MAX_BYTES = 20_000_000  # of an uploaded file
MAX_PIXELS = 40_000_000  # of an uploaded image, checked before it is decoded
MAX_SIDE = 2048  # larger images are scaled down to this: it bounds what a visitor holds in memory
MAX_EVENT = 64_000  # bytes of any other request
MAX_QUESTION = 2000  # characters
MAX_IMAGES = 6  # uploads a visitor holds at once
MAX_TURNS = 12
MAX_SESSIONS = 32
MAX_WAITING = 32  # visitors in the queue

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


def read_upload(data: bytes) -> Image:
    """The image in an upload, upright RGB, at most `MAX_SIDE` pixels a side.

    Raises:
        ImageError: not an image, broken, or too large; the message says what to do.
    """
    image = decode_image(data, "The file", max_bytes=MAX_BYTES, max_pixels=MAX_PIXELS)
    image.thumbnail((MAX_SIDE, MAX_SIDE), Resampling.LANCZOS)
    return image


class Inbox:
    """Images that were uploaded and wait, for a short time, to be taken by the page that sent them."""

    def __init__(self, most: int = 8, seconds: float = 60.0) -> None:
        self._most, self._seconds = most, seconds
        self._waiting: OrderedDict[str, tuple[float, str, Image]] = OrderedDict()

    def put(self, name: str, image: Image) -> str:
        """A ticket for the image."""
        ticket = secrets.token_urlsafe(18)
        self._drop_old()
        self._waiting[ticket] = (time.monotonic(), name, image)
        while len(self._waiting) > self._most:
            self._waiting.popitem(last=False)
        return ticket

    def take(self, ticket: str) -> tuple[str, Image] | None:
        """Name and image behind a ticket, once."""
        self._drop_old()
        found = self._waiting.pop(ticket, None)
        return None if found is None else found[1:]

    def _drop_old(self) -> None:
        oldest = time.monotonic() - self._seconds
        for ticket in [ticket for ticket, (since, _, _) in self._waiting.items() if since < oldest]:
            del self._waiting[ticket]


class Guard:
    """Lets through what the page itself asks for, and no body beyond its bound.

    Gradio serves more than the page needs, files and uploads among it: what is not named here is not there.
    """

    def __init__(self, app: App, paths: tuple[str, ...], prefixes: tuple[str, ...], bounds: dict[str, int]) -> None:
        self._app, self._paths, self._prefixes, self._bounds = app, paths, prefixes, bounds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        path = scope["path"]
        if path not in self._paths and not path.startswith(self._prefixes):
            await _reply(send, 404, b"Not found")
            return
        most = self._bounds.get(path, MAX_EVENT)
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if not announced.isdigit() or int(announced) > most:
            await _reply(send, 413, f"At most {most:,} bytes are read.".encode())
            return
        await self._app(scope, _bounded(receive, most), send)


def _bounded(receive: Receive, most: int) -> Receive:
    """`receive`, ending as if the sender had left as soon as more than `most` bytes have come."""
    seen = 0

    async def bounded() -> MutableMapping[str, Any]:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        return message if seen <= most else {"type": "http.disconnect"}

    return bounded


async def _reply(send: Send, status: int, body: bytes) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
