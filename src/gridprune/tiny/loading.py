"""Load the packaged model; a missing or damaged file is named."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoTokenizer,
    CLIPModel,
    LlavaForConditionalGeneration,
    LlavaNextForConditionalGeneration,
    LlavaNextProcessor,
    LlavaProcessor,
    PreTrainedTokenizerBase,
)

from ..compat import pretrained
from ..errors import CheckpointError
from .checksums import digest
from .forms import FORMS, LLAVA, NEXT, Form


class TinyWeightsError(CheckpointError):
    """A file of the packaged model is missing or differs from its checksum."""


@dataclass(frozen=True)
class TinyModel:
    """The embedded model: LLaVA or LLaVA-NeXT with its processor, and the CLIP whose vision tower it uses."""

    model: LlavaForConditionalGeneration | LlavaNextForConditionalGeneration
    processor: LlavaProcessor | LlavaNextProcessor
    clip: CLIPModel
    clip_tokenizer: PreTrainedTokenizerBase
    form: Form = LLAVA


#: By form of :mod:`gridprune.tiny.forms`: folder, model and processor.
CHECKPOINTS: Mapping[str, tuple[str, type[Any], type[Any]]] = {
    LLAVA.name: ("llava", LlavaForConditionalGeneration, LlavaProcessor),
    NEXT.name: ("llava-next", LlavaNextForConditionalGeneration, LlavaNextProcessor),
}


def weights_folder() -> Path:
    """Folder of the packaged weights."""
    return Path(str(files(__package__))) / "weights"


def checkpoint_folder(form: str) -> Path:
    """Folder of the packaged checkpoint of a form."""
    return weights_folder() / CHECKPOINTS[form][0]


def has_form(folder: Path, form: Form) -> bool:
    """Whether the weights of a form are there."""
    return (folder / CHECKPOINTS[form.name][0]).is_dir()


def verify(folder: Path) -> None:
    """Compare every file with ``checksums.json``; raises :class:`TinyWeightsError`."""
    listing = folder / "checksums.json"
    if not listing.is_file():
        raise TinyWeightsError(f"{listing} is missing; reinstall the package")
    try:
        sums: dict[str, str] = json.loads(listing.read_text())
    except ValueError as error:
        raise TinyWeightsError(f"{listing} is not valid JSON: {error}") from error
    for name, expected in sums.items():
        path = folder / name
        if not path.is_file():
            raise TinyWeightsError(f"{path} is missing; reinstall the package")
        if digest(path) != expected:
            raise TinyWeightsError(f"{path} is damaged (its checksum differs); reinstall the package")


def load(folder: str | Path | None = None, *, form: str = LLAVA.name, attn_implementation: str = "sdpa") -> TinyModel:
    """Load model, processor, CLIP and its tokenizer in fp32 on the CPU, from ``folder`` or the package.

    ``form`` is ``"llava"`` (576 visual tokens) or ``"next"`` (LLaVA-NeXT, 2880).
    """
    name, model, processor = CHECKPOINTS[form]
    root = Path(folder) if folder is not None else weights_folder()
    verify(root)
    if not has_form(root, FORMS[form]):
        raise TinyWeightsError(f"{root / name} is missing; `python -m training.boxes train` makes it")
    options = {"dtype": torch.float32, "attn_implementation": attn_implementation}
    return TinyModel(
        model=pretrained(model, root / name, **options).eval(),
        processor=processor.from_pretrained(root / name),
        clip=pretrained(CLIPModel, root / "clip", **options).eval(),
        clip_tokenizer=AutoTokenizer.from_pretrained(root / "clip"),
        form=FORMS[form],
    )
