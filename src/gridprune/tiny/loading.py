"""Load the packaged model; a missing or damaged file is named."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import torch
from transformers import (
    AutoTokenizer,
    CLIPModel,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerBase,
)

from ..errors import CheckpointError
from .checksums import digest


class TinyWeightsError(CheckpointError):
    """A file of the packaged model is missing or differs from its checksum."""


@dataclass(frozen=True)
class TinyModel:
    """The embedded model: LLaVA with its processor, and the CLIP whose vision tower it uses."""

    model: LlavaForConditionalGeneration
    processor: LlavaProcessor
    clip: CLIPModel
    clip_tokenizer: PreTrainedTokenizerBase


def weights_folder() -> Path:
    """Folder of the packaged weights."""
    return Path(str(files(__package__))) / "weights"


def verify(folder: Path) -> None:
    """Compare every file with ``checksums.json``; raises :class:`TinyWeightsError`."""
    listing = folder / "checksums.json"
    if not listing.is_file():
        raise TinyWeightsError(f"{listing} is missing; reinstall the package, or train with `gridprune tiny train`")
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


def load(folder: str | Path | None = None, *, attn_implementation: str = "sdpa") -> TinyModel:
    """Load LLaVA, processor, CLIP and its tokenizer in fp32 on the CPU, from ``folder`` or the package."""
    root = Path(folder) if folder is not None else weights_folder()
    verify(root)
    options = {"dtype": torch.float32, "attn_implementation": attn_implementation}
    return TinyModel(
        model=LlavaForConditionalGeneration.from_pretrained(root / "llava", **options).eval(),
        processor=LlavaProcessor.from_pretrained(root / "llava"),
        clip=CLIPModel.from_pretrained(root / "clip", **options).eval(),
        clip_tokenizer=AutoTokenizer.from_pretrained(root / "clip"),
    )
