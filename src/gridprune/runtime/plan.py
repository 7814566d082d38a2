"""`gridprune plan`: what a model costs at N and at k visual tokens, from its configuration alone.

No weight is read. Parameters are counted on a model built without memory, visual tokens come from the family's own
geometry for an image of a stated size, and the rest is the arithmetic below, written so that it can be done by hand:

    KV memory         GPUs x (memory x utilization) - parameters; activations and the vision encoder take the remainder
    requests at once  KV memory / keys and values of one request (its images and its text)

Keys and values of a token, and FLOPs over visual tokens only, are those of :mod:`gridprune.costs`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..core.budget import Budget
from ..costs import LanguageModel
from ..errors import CheckpointError, SettingError, UnsupportedModelError, first_line
from .packages import check_torchvision

if TYPE_CHECKING:
    from ..families.base import Family

_UNITS = {"": 2**30, "GiB": 2**30, "GB": 10**9, "MiB": 2**20, "MB": 10**6, "TiB": 2**40, "TB": 10**12}


@dataclass(frozen=True)
class VisualTokens:
    """What one image puts into the prompt: tokens to choose from, and separators (newline tokens) beside them."""

    count: int
    separators: int = 0

    def prompt(self, keep: int) -> int:
        """Most tokens the prompt can hold when `keep` stay; every kept token may bring its row's separator along."""
        return keep + min(self.separators, keep)


@dataclass(frozen=True)
class Model:
    """What is known of a checkpoint without its weights.

    Attributes:
        parameters: number of all parameters, tied ones counted once.
        itemsize: bytes of a parameter, and of an element of keys and values.
    """

    name: str
    family: str
    language_model: LanguageModel
    visual: VisualTokens
    parameters: int
    dtype: str
    itemsize: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Load:
    """What is to be served: images and text tokens of a request, on GPUs of `memory` bytes each."""

    images: int = 1
    text: int = 256
    gpus: int = 1
    memory: int = 24 * 2**30
    utilization: float = 0.9

    def __post_init__(self) -> None:
        if min(self.images, self.gpus, self.memory) < 1 or self.text < 0 or not 0 < self.utilization <= 1:
            raise SettingError(f"Give at least one image and GPU, text >= 0 and utilization in (0, 1], got {self}.")


def read(name: str, size: tuple[int, int], dtype: str = "auto") -> Model:
    """Read a checkpoint's configuration: "embedded", a folder or a hub id.

    Args:
        size: width and height of an image in pixels.
        dtype: "auto" for the configuration's own, or "float32", "bfloat16", "float16".

    Raises:
        CheckpointError: there is no readable configuration.
        UnsupportedModelError: no family knows the model.
        InstallationError: torchvision does not fit torch.
    """
    import torch

    config, family = unloaded(name)
    chosen, notes = _dtype(config, dtype)
    return Model(
        name=name,
        family=family.name,
        language_model=LanguageModel.of(config.get_text_config()),
        visual=visual_tokens(family, _seen(family, _image_processor(source_of(name)), size)),
        parameters=sum(parameter.numel() for parameter in family.model.parameters()),
        dtype=chosen,
        itemsize=getattr(torch, chosen).itemsize,
        notes=tuple(notes),
    )


def unloaded(name: str) -> tuple[Any, Family]:
    """A checkpoint's configuration, and its family on a model without weights. Raises what :func:`read` does."""
    check_torchvision()
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    from .. import families

    source = source_of(name)
    try:
        config = AutoConfig.from_pretrained(source)
    except Exception as error:  # hub, network, file and format errors come in many classes
        raise CheckpointError(
            f"Could not read the configuration of {name!r}: {first_line(error)}\n"
            "Give a folder that holds config.json, a hub id, or 'embedded'."
        ) from error
    if type(config) not in AutoModelForImageTextToText._model_mapping:
        raise UnsupportedModelError(
            f"{name!r} is a {config.model_type} model, which takes no images. `gridprune families` lists what does."
        )
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    return config, families.find(model)


def plan(model: Model, keeps: Sequence[Budget], load: Load) -> dict[str, Any]:
    """The arithmetic at all visual tokens and at each budget, as plain values.

    Raises:
        BudgetError: an image has fewer tokens than a budget keeps.
    """
    shape, visual = model.language_model, model.visual
    weights = model.parameters * model.itemsize
    split = shape.heads % load.gpus == 0
    whole = _row(model, load, visual.count, visual.count + visual.separators, split)
    rows = [_row(model, load, k, visual.prompt(k), split) for k in (keep.resolve(visual.count) for keep in keeps)]
    for row in (whole, *rows):
        row["prefill_flops_ratio"] = row["prefill_flops"] / whole["prefill_flops"]
    notes = list(model.notes)
    if not split:
        notes.append(f"no tensor parallelism over {load.gpus} GPUs: they do not divide {shape.heads} attention heads")
    if weights > load.gpus * load.memory * load.utilization:
        notes.append("the parameters alone do not fit")
    return {
        "model": model.name,
        "family": model.family,
        "dtype": model.dtype,
        "parameters": model.parameters,
        "parameter_bytes": weights,
        "kv_bytes_per_token": shape.kv_bytes(1, model.itemsize),
        "visual_tokens": visual.count,
        "separators": visual.separators,
        "request": {"images": load.images, "text_tokens": load.text},
        "gpus": load.gpus,
        "gpu_memory": load.memory,
        "utilization": load.utilization,
        "all": whole,
        "kept": rows,
        "notes": notes,
    }


def _row(model: Model, load: Load, tokens: int, prompt: int, split: bool) -> dict[str, Any]:
    """One line of the plan: `tokens` visual tokens an image, `prompt` with separators."""
    shape, weights = model.language_model, model.parameters * model.itemsize
    length = load.images * prompt + load.text
    room = int(load.memory * load.utilization)
    alone = max(room - weights, 0) // shape.kv_bytes(length, model.itemsize)
    together = max(room - -(-weights // load.gpus), 0) // shape.kv_bytes(length, model.itemsize, load.gpus)
    return {
        "visual_tokens": tokens,
        "prompt_tokens": prompt,
        "kv_bytes_per_image": shape.kv_bytes(prompt, model.itemsize),
        "kv_bytes_per_request": shape.kv_bytes(length, model.itemsize),
        "prefill_flops": shape.flops(tokens),
        "tensor_parallel": _capacity(together, load) if split else None,
        "data_parallel": _capacity(alone * load.gpus, load),
    }


def _capacity(requests: int, load: Load) -> dict[str, Any]:
    images = requests * load.images
    return {"requests": requests, "images": images, "images_per_gpu": images / load.gpus}


# -- what a checkpoint says ----------------------------------------------------------------------------------------


def source_of(name: str) -> str:
    """Folder or hub id of a model by the name a person gives it."""
    from .ask import EMBEDDED_FORMS

    if name not in EMBEDDED_FORMS:
        return name
    from ..tiny.loading import checkpoint_folder

    return str(checkpoint_folder(EMBEDDED_FORMS[name]))


def _image_processor(source: str) -> Any:
    """The checkpoint's image processor; defaults of its model's class would be silently wrong for some checkpoints."""
    from transformers import AutoImageProcessor

    try:
        return AutoImageProcessor.from_pretrained(source)
    except Exception as error:  # as above
        raise CheckpointError(
            f"Could not read the image processor of {source!r}: {first_line(error)}\nIt says how many tokens an "
            "image gets: put preprocessor_config.json (or processor_config.json) beside config.json."
        ) from error


def _dtype(config: Any, dtype: str) -> tuple[str, list[str]]:
    from .devices import check_dtype

    check_dtype(dtype)
    if dtype != "auto":
        return dtype, []
    own = getattr(config, "dtype", None) or getattr(config.get_text_config(), "dtype", None)
    if own is None:
        return "bfloat16", ["the configuration names no dtype: bfloat16 was taken"]
    return str(own).removeprefix("torch."), []


def _seen(family: Family, processor: Any, size: tuple[int, int]) -> dict[str, Any]:
    """The vision arguments of a white image of `size`."""
    from PIL import Image

    tiles = {"crop_to_patches": True} if hasattr(processor, "crop_to_patches") else {}  # as InternVL's processor does
    call = processor(images=[Image.new("RGB", size, "white")], return_tensors="pt", **tiles)
    vision = family.vision(dict(call))
    if vision is None:
        raise UnsupportedModelError(
            f"The image processor of {family.name} returns {', '.join(call)}; the family reads {family.pixel_keys[0]}."
        )
    return vision


def visual_tokens(family: Family, vision: dict[str, Any]) -> VisualTokens:
    """What the images of a call put into the prompt, by the family's own geometry."""
    maps = family.token_maps(vision)
    separators = sum(int(token_map.separator.sum()) for token_map in maps)
    return VisualTokens(sum(map(len, maps)) - separators, separators)


def parse_size(text: str) -> tuple[int, int]:
    """`1024x768` as width and height.

    Raises:
        SettingError: not two positive numbers.
    """
    found = re.fullmatch(r"([1-9]\d{0,4})\s*[xX]\s*([1-9]\d{0,4})", text.strip())
    if found is None:
        raise SettingError(f"--size is width x height in pixels, such as 1024x768, got {text!r}.")
    return int(found[1]), int(found[2])


def parse_memory(text: str) -> int:
    """`24GiB`, `80GB` or `24` (GiB) as bytes.

    Raises:
        SettingError: not an amount of memory.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?i?B?)", text.strip())
    if found is None or found[2] not in _UNITS:
        raise SettingError(f"--gpu-memory is an amount such as 24GiB or 80GB, got {text!r}.")
    return int(float(found[1]) * _UNITS[found[2]])
