"""What the page accepts: how large images and videos are, which requests are answered, how many of anything is kept."""

from __future__ import annotations

import secrets
import socket
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from dataclasses import replace
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from PIL.Image import Image, Resampling

from ..runtime.images import decode_image
from ..runtime.video import Bounds, Video, decode_video

MAX_BYTES = 20_000_000  # of an uploaded file
MAX_PIXELS = 40_000_000  # of an uploaded image, checked before it is decoded
MAX_SIDE = 2048  # larger images are scaled down to this: it bounds what a visitor holds in memory
MAX_EVENT = 64_000  # bytes of any other request
MAX_QUESTION = 2000  # characters
MAX_IMAGES = 8  # of one upload, frames of a video, and all that a visitor holds at once
MAX_VIDEO = Bounds(size=50_000_000, pixels=2_100_000, frames=1800, seconds=60)
MAX_TURNS = 12
MAX_SESSIONS = 32
MAX_WAITING = 32  # visitors in the queue

Images = Sequence[Image] | Video  # what one question is about
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


def read_upload(data: bytes) -> Image:
    """The image in an upload, upright RGB, at most `MAX_SIDE` pixels a side.

    Raises:
        ImageError: not an image, broken, or too large; the message says what to do.
    """
    return _scaled(decode_image(data, "The file", max_bytes=MAX_BYTES, max_pixels=MAX_PIXELS))


def read_video_upload(data: bytes) -> Video:
    """At most `MAX_IMAGES` frames of the video in an upload, each as :func:`read_upload` gives images.

    Raises:
        ImageError: not a video, broken, or beyond `MAX_VIDEO`; the message says what to do.
    """
    video = decode_video(data, MAX_VIDEO, MAX_IMAGES, "The file")
    return replace(video, frames=[_scaled(frame) for frame in video.frames])


def _scaled(image: Image) -> Image:
    image.thumbnail((MAX_SIDE, MAX_SIDE), Resampling.LANCZOS)
    return image


def images_in(images: Images) -> Sequence[Image]:
    """The images themselves, or the frames of a video."""
    return images.frames if isinstance(images, Video) else images


class Inbox:
    """Images and videos that were uploaded and wait, for a short time, to be taken by the page that sent them."""

    def __init__(self, most: int = 4 * MAX_IMAGES, seconds: float = 60.0) -> None:
        """Args:
        most: images and frames that wait at once; of more the oldest go.
        """
        self._most, self._seconds = most, seconds
        self._waiting: OrderedDict[str, tuple[float, str, Images]] = OrderedDict()

    def put(self, name: str, sent: Images) -> str:
        """A ticket for images or a video."""
        ticket = secrets.token_urlsafe(18)
        self._drop_old()
        self._waiting[ticket] = (time.monotonic(), name, sent)
        while sum(len(images_in(each)) for _, _, each in self._waiting.values()) > self._most:
            self._waiting.popitem(last=False)
        return ticket

    def take(self, ticket: str) -> tuple[str, Images] | None:
        """Name and content behind a ticket, once."""
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

    def __init__(
        self, app: App, paths: tuple[str, ...], prefixes: tuple[str, ...], bounds: dict[str, int], host: str
    ) -> None:
        """Args:
        host: the address or name that the server was told to listen on.
        """
        self._app, self._paths, self._prefixes, self._bounds, self._host = app, paths, prefixes, bounds, host

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
        headers = dict(scope["headers"])
        asked = headers.get(b"host", b"").decode("latin-1")
        if not is_own_name(asked, self._host):
            words = (
                f"This page does not answer as {asked[:100]!r}. Open it by the address that gridprune demo printed, "
                "or start it with --host and this machine's name."
            )
            await _reply(send, 421, words.encode())
            return
        origin = headers.get(b"origin", b"").decode("latin-1")
        if origin and origin.partition("://")[2] != asked:
            await _reply(send, 403, b"Another page asks here. Open this one by its own address.")
            return
        announced = headers.get(b"content-length", b"0")
        if not announced.isdigit() or int(announced) > most:
            await _reply(send, 413, f"At most {most:,} bytes are read.".encode())
            return
        await self._app(scope, _bounded(receive, most), send)


def is_own_name(asked: str, bound: str) -> bool:
    """Whether a request's `Host` can mean a server that listens on `bound`.

    A page elsewhere can have its own name resolve to this machine (DNS rebinding), but it cannot be called by an IP
    address or by a name of ours. Ports are free: tunnels change them.
    """
    try:
        name = urlsplit(f"//{asked}").hostname or ""
    except ValueError:  # such as half an IPv6 address
        return False
    if _is_loopback(bound):
        return _is_loopback(name)
    return _is_address(name) or name in ("localhost", bound.lower(), socket.gethostname().lower())


def _is_address(name: str) -> bool:
    try:
        return bool(ip_address(name))
    except ValueError:
        return False


def _is_loopback(name: str) -> bool:
    return name == "localhost" or (_is_address(name) and ip_address(name).is_loopback)


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
