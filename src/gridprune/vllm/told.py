"""What was kept goes back to who asked. Imports no vLLM."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple


class Kept(NamedTuple):
    """What is kept of one image.

    Attributes:
        kept: k, visual tokens that the language model sees.
        total: N, those there were to choose from.
        method: what chose, with settings.
    """

    kept: int
    total: int
    method: str


_PROMPTS: ContextVar[list[list[Kept]] | None] = ContextVar("gridprune_prompts", default=None)


@contextmanager
def listening() -> Iterator[list[list[Kept]]]:
    """Hear what is kept of the images that are sent within the block, by this thread or task.

        with listening() as prompts:
            answers = llm.chat(conversations)

    Yields:
        One list a prompt with images, in the order sent, with one :class:`Kept` an image. Images that pass unpruned
        (embeddings that the client computed) are left out.
    """
    prompts: list[list[Kept]] = []
    token = _PROMPTS.set(prompts)
    try:
        yield prompts
    finally:
        _PROMPTS.reset(token)


def tell(images: Sequence[Kept]) -> None:
    """Say what is kept of the images of one prompt to who listens."""
    prompts = _PROMPTS.get()
    if prompts is not None:
        prompts.append(list(images))
