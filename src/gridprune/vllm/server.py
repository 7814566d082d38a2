"""What a server adds: response headers that say what was kept, and the counts of visual tokens.

A prompt's images are processed in a thread that does not know its request. vLLM's renderer stands between the two and
is chosen by name (`--tokenizer-mode gridprune`); the headers are a middleware (`--middleware`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

from vllm.renderers.hf import HfRenderer

from .metrics import count
from .told import Kept, listening, tell

METHOD, KEPT, TOTAL = b"gridprune-method", b"gridprune-kept", b"gridprune-total"
Message = MutableMapping[str, Any]


class Renderer(HfRenderer):
    """vLLM's own, and it says what is kept of a prompt's images."""

    async def process_for_engine_async(self, prompt: Any, arrival_time: float, **options: Any) -> Any:
        made = await super().process_for_engine_async(prompt, arrival_time, **options)
        kept = getattr(self.mm_processor, "kept", None)  # a stock architecture has none
        if kept is not None and (images := kept(made)):
            tell(images)
            if not options.get("skip_mm_cache"):  # then only the prompt was wanted, and nothing is computed
                count(self.model_config.served_model_name, images)
        return made


class Headers:
    """Middleware (ASGI) that says in response headers what was kept of the images of a request, in their order."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self.app = app

    async def __call__(self, scope: Message, receive: Any, send: Callable[[Message], Awaitable[None]]) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        with listening() as prompts:

            async def send_told(message: Message) -> None:
                images = [image for images in prompts for image in images]
                if message["type"] == "http.response.start" and images:
                    message["headers"] = [*message.get("headers", ()), *headers(images)]
                await send(message)

            await self.app(scope, receive, send_told)


def headers(images: Sequence[Kept]) -> list[tuple[bytes, bytes]]:
    """Method, k and N; a list with commas where there are several images."""
    return [
        (METHOD, images[0].method.encode("ascii", "backslashreplace")),  # a request has one
        (KEPT, ", ".join(str(image.kept) for image in images).encode()),
        (TOTAL, ", ".join(str(image.total) for image in images).encode()),
    ]
