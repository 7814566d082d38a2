"""Models that other libraries load and hold: checkpoints with every weight, adapters of PEFT, weights that accelerate
keeps elsewhere, compiled modules.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from packaging.version import Version
from torch import nn

from .errors import CheckpointError, UnsupportedModelError

BEFORE_5_24 = Version(version("transformers")) < Version("5.24.0.dev0")
CACHE = "past_key_values" if BEFORE_5_24 else "cache"  # what arguments and outputs of models call keys and values

_REFUSED = {
    "OptimizedModule": "Prune the model first and compile its language model only: "
    "`model.model.language_model = torch.compile(model.model.language_model)`",
    "DataParallel": "Prune `model.module` and call that",
    "DistributedDataParallel": "Prune `model.module` and call that",
}


def pretrained(kind: Any, source: str | Path, **options: Any) -> Any:
    """`kind.from_pretrained(source, **options)`, but that every weight has to come from the checkpoint.

    transformers draws those that are missing at random, and tells its log only. Weights that are tied to others, by the
    checkpoint's config, and those that a class declares dispensable do not count as missing.

    Raises:
        CheckpointError: some are missing, or have another shape.
    """
    model, found = kind.from_pretrained(str(source), output_loading_info=True, **options)
    absent = sorted({*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])})
    if absent:
        tied = ' If it is tied to the embeddings, say so in config.json: "tie_word_embeddings": true.'
        raise CheckpointError(
            f"{str(source)!r} is no whole {type(model).__name__}: {len(absent)} of {len(model.state_dict())} weights "
            f"are missing or of another shape, such as {absent[0]}.{tied if absent == ['lm_head.weight'] else ''}"
        )
    return model


def unwrapped(model: Any) -> Any:
    """The stock model under PEFT's adapters, which stay in place; any other model as it is.

    Raises:
        UnsupportedModelError: the model is wrapped or compiled in a way that cannot be pruned.
    """
    names = [cls.__name__ for cls in type(model).__mro__]
    for name in names:
        if name in _REFUSED:
            raise UnsupportedModelError(f"A model wrapped in {name} cannot be pruned. {_REFUSED[name]}.")
    if getattr(model, "_compiled_call_impl", None) is not None:
        raise UnsupportedModelError(
            "A model compiled as a whole (`model.compile()`) cannot be pruned: its calls cannot be intercepted. "
            "Compile its language model only: `model.model.language_model.compile()`."
        )
    if "PeftModel" not in names:
        return model
    config = model.active_peft_config
    if config.is_prompt_learning or getattr(config, "alora_invocation_tokens", None):
        raise UnsupportedModelError(
            f"Adapters of the kind {config.peft_type.value} count the tokens of the prompt and cannot be pruned with. "
            "LoRA and its relatives can."
        )
    return model.get_base_model()


def entry_modules(model: Any) -> list[nn.Module]:
    """The modules whose calls reach the stock model, which some versions of PEFT's tuners go past."""
    base = unwrapped(model)
    return [base] if base is model else [base, model.base_model]


def is_compiled(module: nn.Module) -> bool:
    """Whether hooks on a module or its parts would be compiled away."""
    left = [module]
    while left:  # `modules()` takes five times as long, and this is asked in every call
        part = left.pop()
        if type(part).__name__ == "OptimizedModule" or part._compiled_call_impl is not None:
            return True
        left += [child for child in part._modules.values() if child is not None]
    return False


def device_of(module: nn.Module) -> torch.device:
    """Where a module's inputs go. Weights that accelerate keeps elsewhere are on "meta": it moves inputs by itself."""
    device = next(module.parameters()).device
    return torch.device("cpu") if device.type == "meta" else device


def cache_of(call: Mapping[str, Any]) -> Any:
    """The cache among the arguments of a call, by either of its names: models still take the older one; or None."""
    return call.get(CACHE, call.get("past_key_values"))


@contextmanager
def in_memory(module: nn.Module) -> Iterator[None]:
    """A module's own parameters in memory, where accelerate keeps them elsewhere; those of its parts stay there."""
    if not hasattr(module, "_hf_hook"):
        yield
        return
    from accelerate.utils import align_module_device

    with align_module_device(module):
        yield
