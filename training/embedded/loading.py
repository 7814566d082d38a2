"""Load the embedded model: CLIP, and the LLaVA whose vision tower is CLIP's and is stored once, with CLIP.

:func:`load` puts them together in memory; :func:`write_standard` writes folders that any tool can read.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    AutoTokenizer,
    CLIPModel,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerBase,
)

from gridprune.errors import CheckpointError
from gridprune.tiny.checksums import digest

TOWER = "vision_model."  # prefix of the tower's tensors in CLIP
SUMS = "checksums.json"


class EmbeddedWeightsError(CheckpointError):
    """A file of the embedded model is missing or differs from its checksum."""


@dataclass(frozen=True)
class EmbeddedModel:
    """LLaVA with its processor, and the CLIP whose vision tower it uses."""

    model: LlavaForConditionalGeneration
    processor: LlavaProcessor
    clip: CLIPModel
    clip_tokenizer: PreTrainedTokenizerBase


def weights_folder() -> Path:
    """Folder of the packaged weights."""
    return Path(str(files(__package__))) / "weights"


def verify(folder: Path) -> None:
    """Compare every file with its checksum; raises :class:`EmbeddedWeightsError`, which names the file."""
    listing = folder / SUMS
    if not listing.is_file():
        raise EmbeddedWeightsError(f"{listing} is missing; train the model with `python -m training`")
    for name, expected in json.loads(listing.read_text()).items():
        path = folder / name
        if not path.is_file():
            raise EmbeddedWeightsError(f"{path} is missing; reinstall the package")
        if digest(path) != expected:
            raise EmbeddedWeightsError(f"{path} is damaged (its checksum differs); reinstall the package")


def tower_prefix(model: torch.nn.Module) -> str:
    """What the names of the tower's tensors begin with in a LLaVA."""
    end = "embeddings.class_embedding"
    return next(name for name in model.state_dict() if name.endswith(end)).removesuffix(end)


def joined(clip: CLIPModel, folder: Path, *, attn_implementation: str = "sdpa") -> LlavaForConditionalGeneration:
    """LLaVA from a folder without a tower, and CLIP's tower."""
    config = LlavaConfig.from_pretrained(folder)
    with torch.device("meta"):
        prefix = tower_prefix(LlavaForConditionalGeneration(config))
    state: dict[str, Tensor] = load_file(folder / "model.safetensors")
    tower = {name: value for name, value in clip.state_dict().items() if name.startswith(TOWER)}
    state |= {prefix + name.removeprefix(TOWER): value for name, value in tower.items()}
    model = LlavaForConditionalGeneration.from_pretrained(
        None, config=config, state_dict=state, dtype=torch.float32, attn_implementation=attn_implementation
    )
    model.generation_config = type(model.generation_config).from_pretrained(folder)
    return model.eval()


def load(folder: str | Path | None = None, *, attn_implementation: str = "sdpa") -> EmbeddedModel:
    """Load model, processor, CLIP and its tokenizer in fp32 on the CPU, from ``folder`` or the package."""
    root = Path(folder) if folder is not None else weights_folder()
    verify(root)
    clip = CLIPModel.from_pretrained(root / "clip", dtype=torch.float32, attn_implementation=attn_implementation).eval()
    return EmbeddedModel(
        model=joined(clip, root / "llava", attn_implementation=attn_implementation),
        processor=LlavaProcessor.from_pretrained(root / "llava"),
        clip=clip,
        clip_tokenizer=AutoTokenizer.from_pretrained(root / "clip"),
    )


def write_standard(target: Path, folder: str | Path | None = None) -> Path:
    """Write ``target`` as an ordinary LLaVA checkpoint (with a tower of its own), in bf16; returns it."""
    loaded = load(folder)
    loaded.model.bfloat16().save_pretrained(target)
    loaded.processor.save_pretrained(target)
    return target
