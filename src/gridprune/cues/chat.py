"""Prompts as a checkpoint's own chat template writes them, wherever the checkpoint keeps it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from ..errors import CheckpointError, UnsupportedCallError

Messages = list[dict[str, Any]]

# Processors of models that were never taught to chat: their prompt is the words alone, and the processor adds the rest.
_WITHOUT_CHAT = ("PaliGemmaProcessor",)

_PROBE = "gridprune-probe"


def chat_side(processor: Any) -> Any:
    """What holds the chat template, the processor or its tokenizer; None if neither does."""
    sides = (processor, getattr(processor, "tokenizer", None))
    return next((side for side in sides if getattr(side, "chat_template", None)), None)


def conversation(
    question: str, history: Sequence[tuple[str, str]] = (), medium: Literal["image", "video"] = "image", count: int = 1
) -> Messages:
    """User turns with the assistant's answers between them, `count` images or videos in the first."""
    asked = [*(turn for turn, _ in history), question]
    turns: Messages = []
    for number, words in enumerate(asked):
        text = {"type": "text", "text": words}
        seen = [] if number else [{"type": medium} for _ in range(count)]
        turns.append({"role": "user", "content": [*seen, text]})
        if number < len(history):
            turns.append({"role": "assistant", "content": [{"type": "text", "text": history[number][1]}]})
    return turns


def question_in(messages: Messages) -> str:
    """The words of the last user turn that has any: what a conversation asks. "" if none has."""
    spoken = (
        " ".join(part["text"] for part in turn["content"] if part["type"] == "text")
        for turn in reversed(messages)
        if turn["role"] == "user"
    )
    return next((words for words in spoken if words.strip()), "")


def prompt_text(processor: Any, messages: Messages) -> str:
    """The prompt of a conversation whose contents are lists of parts, up to where the answer begins.

    Raises:
        CheckpointError: the checkpoint has no chat template, or one that takes neither images nor plain text.
        UnsupportedCallError: several turns, and the model knows only one.
    """
    side = chat_side(processor)
    if side is None and type(processor).__name__ in _WITHOUT_CHAT:
        if len(messages) > 1:
            raise UnsupportedCallError(
                "This model was not trained on conversations: ask one question, without history."
            )
        return as_text(processor, messages[0]["content"], behind="")
    if side is None:
        raise CheckpointError(
            "The checkpoint has no chat template, neither in its processor nor in its tokenizer, so how to write a "
            "prompt for it is not known. Put its chat_template.jinja into the checkpoint's folder, or set "
            "processor.chat_template."
        )
    if understands_parts(side):
        return render(side, messages)
    return render(side, [{**turn, "content": as_text(processor, turn["content"])} for turn in messages])


def render(side: Any, messages: Messages, *, generation: bool = True) -> str:
    """A conversation as text, by the template of :func:`chat_side`."""
    return str(side.apply_chat_template(messages, add_generation_prompt=generation, tokenize=False))


def understands_parts(side: Any) -> bool:
    """Whether a template takes contents that are lists of parts; one written for text prints or refuses them."""
    try:
        text = render(side, [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": _PROBE}]}])
    except Exception:  # templates raise whatever they like
        return False
    return _PROBE in text and "'type'" not in text


def as_text(processor: Any, parts: Sequence[dict[str, Any]], behind: str = "\n") -> str:
    """Parts of a turn as one text, placeholders of images and videos among the words."""
    return "".join(
        part["text"]
        if part["type"] == "text"
        else getattr(processor, f"{part['type']}_token", f"<{part['type']}>") + behind
        for part in parts
    )


def special_tokens_of(processor: Any, text: str) -> dict[str, Any]:
    """Arguments for tokenizing a rendered prompt: none are added to one whose template wrote them.

    The rule of transformers' own `apply_chat_template(tokenize=True)`.
    """
    first = getattr(getattr(processor, "tokenizer", processor), "bos_token", None)
    return {"add_special_tokens": False} if first and text.startswith(first) else {}
