"""The question: read out of a prompt's token ids with the checkpoint's own chat template, or given."""

from __future__ import annotations

import itertools
import re
from bisect import bisect_right
from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Any, Literal

from torch import Tensor

from .answer_format import strip_format
from .template import WELL_KNOWN, Template, learn

__all__ = ["Guide", "QuestionReader", "clean", "split_words", "strip_format"]

Guide = Literal["last", "turn"]

_IMAGE, _MEDIUM, _MARK = "\ue002", "\ue003", "\ue004"  # an image asked about, any image or video, a special token

# What templates and processors write in front of an image or frame, in words.
_LABELS = (
    r"(?:picture|image|video|frame)\s*\d+\s*:",  # "Picture 1: " of Qwen's add_vision_id, "Frame1: " of InternVL
    r"<\d+(?:\.\d+)? seconds>",  # Qwen3-VL
    r"(?:you are provided the following series of [^.]* frames from a [^.]* video\.\s*)?frame from [\d:.]+:",  # SmolVLM
    r"here is the original image|and here are some crops to help you see better",  # Gemma's pan and scan
    r"TILE_(?:\d+|GLOBAL)|<row_\d+_col_\d+>|<global-img>",  # tiles, in tokenizers that do not mark these as special
)
_LABEL = re.compile(rf"(?:{'|'.join(_LABELS)})\s*(?={_MEDIUM})", re.IGNORECASE)
_BESIDE = re.compile(rf"{_MARK}+(?={_MEDIUM})|(?<={_MEDIUM}){_MARK}+")


def clean(text: str) -> str:
    """One line, single spaces, answer-format instructions removed."""
    return re.sub(r"\s+", " ", strip_format(text)).strip()


@lru_cache(maxsize=256)
def split_words(question: str, parts: int) -> tuple[str, ...]:
    """A question cut into `parts` runs of nearly equally many words, for text towers with a short context."""
    words = question.split()
    cut = [len(words) * i // parts for i in range(parts + 1)]
    return tuple(" ".join(words[a:b]) for a, b in itertools.pairwise(cut) if b > a)


class QuestionReader:
    """Reads from prompts the question that a call is to answer: that of the last user turn that asks something."""

    def __init__(self, processor: Any) -> None:
        """Args:
        processor: a processor with a tokenizer, or a tokenizer.
        """
        self.processor = processor
        self.tokenizer = getattr(processor, "tokenizer", processor)

    def read(
        self,
        ids: Tensor,
        images: Sequence[tuple[int, Tensor]],
        mask: Tensor | None = None,
        guide: Guide = "last",
    ) -> list[str]:
        """One question per image; "" where the prompt asks nothing.

        Args:
            ids: (B, L) on the CPU.
            images: row and columns of each image's tokens, in prompt order.
            mask: (B, L), what is not padding; without it, padding is told by the tokenizer's pad token.
            guide: "last" takes the last question of a prompt for all its images. "turn" takes for each image the
                last one up to the turn that holds it, or else the next: what it was when the image came.
        """
        questions: list[str] = []
        for row in range(len(ids)):
            columns = [place for where, place in images if where == row]
            if columns:
                questions += self._of_row(ids[row], columns, None if mask is None else mask[row], guide)
        return questions

    def _of_row(self, ids: Tensor, images: list[Tensor], mask: Tensor | None, guide: Guide) -> list[str]:
        real = ids != self.tokenizer.pad_token_id if mask is None else mask.bool()
        pieces, start = [], 0
        for columns in images:  # separators between the tiles of one image are not text of the user's
            pieces.append(self._decode(ids[start : int(columns[0])][real[start : int(columns[0])]]))
            start = int(columns[-1]) + 1
        pieces.append(self._decode(ids[start:][real[start:]]))
        text = _IMAGE.join(pieces)
        turns, words = self._turns(text)
        asked = [number for number, each in enumerate(words) if each]
        if not asked:
            return [""] * len(images)
        if guide == "last":
            return [words[asked[-1]]] * len(images)
        holding = [bisect_right(turns, found.start()) - 1 for found in re.finditer(_IMAGE, text)]
        return [words[asked[max(bisect_right(asked, turn) - 1, 0)]] for turn in holding]

    def _turns(self, text: str) -> tuple[list[int], list[str]]:
        """Where the user turns of a decoded prompt begin, and what each says."""
        for template in self.templates:
            spans = template.turns(text, lambda marker: bool(self._special.search(marker)))
            if spans:
                shared = range(len(spans))[template.system_turn]
                words = [self._words(text[a:b], template if n == shared else None) for n, (a, b) in enumerate(spans)]
                return [start for start, _ in spans], words
        return [0], [self._words(text)]

    def _words(self, turn: str, template: Template | None = None) -> str:
        """What a user wrote: no tokens that are not text, nothing that templates and processors insert."""
        text = self._special.sub(_MARK, self._media.sub(_MEDIUM, turn.replace(_IMAGE, _MEDIUM)))
        text = _LABEL.sub(self._lead, _BESIDE.sub("", text))
        if template is not None:
            text = template.without_system(text, _MEDIUM, self._lead)
        return clean(re.sub(f"[{_MEDIUM}{_MARK}]", " ", text))

    def _decode(self, ids: Tensor) -> str:
        return str(self.tokenizer.decode(ids.tolist(), skip_special_tokens=False)) if len(ids) else ""

    @cached_property
    def _media(self) -> re.Pattern[str]:
        """Placeholders of images and videos."""
        names = ("image_token", "video_token")
        return _one_of({getattr(side, name, "") for side in (self.processor, self.tokenizer) for name in names})

    @cached_property
    def _special(self) -> re.Pattern[str]:
        """Every token that is not text. Added ones that are, such as "<b>" in Gemma's vocabulary, stay."""
        added: dict[int, Any] = getattr(self.tokenizer, "added_tokens_decoder", {})
        return _one_of({*self.tokenizer.all_special_tokens, *(token for token in added.values() if token.special)})

    @cached_property
    def _lead(self) -> str:
        """White space that the processor puts in front of every image."""
        around = str(getattr(self.processor, "full_image_sequence", ""))
        return around[: len(around) - len(around.lstrip())]

    @cached_property
    def templates(self) -> tuple[Template, ...]:
        """The processor's own template, and those that prompts written by hand commonly follow."""
        own = learn(self.processor, self._as_decoded)
        return WELL_KNOWN if own is None else (own, *WELL_KNOWN)

    def _as_decoded(self, text: str) -> str:
        """The text as it comes back from the tokenizer, so that it is found in decoded prompts."""
        return str(self.tokenizer.decode(self.tokenizer(text, add_special_tokens=False)["input_ids"]))


def _one_of(tokens: set[Any]) -> re.Pattern[str]:
    names = sorted({str(token) for token in tokens if str(token or "").strip()}, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, names)) or r"(?!)")
