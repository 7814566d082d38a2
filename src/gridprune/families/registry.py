"""Which family a model belongs to, found by the names of the model's classes.

Family files import nothing of a model's own at module level, so a family whose model class is younger than the
installed transformers breaks no other.
"""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from ..errors import SettingError, UnsupportedModelError
from .base import Family

ENTRY_POINT_GROUP = "gridprune.families"
TRANSFORMERS = ">=5.18,<6"

BUILT_IN: tuple[str, ...] = (
    ".pixtral:Pixtral",
    ".llava:Llava",
    ".llava_next:LlavaNext",
    ".onevision:OneVision",
    ".vip_llava:VipLlava",
    ".video:LlavaNextVideo",
    ".video:VideoLlava",
    ".internvl:InternVL",
    ".idefics3:Idefics3",
    ".siglip:Gemma3",
    ".siglip:PaliGemma",
    ".pixtral:Mistral3",
    ".qwen_vl:QwenVL",
    ".qwen_vl:Qwen3VL",
    ".qwen_vl:Qwen35",
)

_WRAPPERS = {
    "PeftModel": "Merge the adapter (`model.merge_and_unload()`) and prune the model that this returns",
    "OptimizedModule": "Prune the model first and compile its language model only: "
    "`model.model.language_model = torch.compile(model.model.language_model)`",
    "DataParallel": "Prune `model.module` and call that",
    "DistributedDataParallel": "Prune `model.module` and call that",
}


@lru_cache(maxsize=1)
def available() -> tuple[type[Family], ...]:
    """All family classes, built in and registered by other packages."""
    targets = [*BUILT_IN, *(entry.value for entry in entry_points(group=ENTRY_POINT_GROUP))]
    families: dict[str, type[Family]] = {}
    for target in targets:
        module, _, attribute = target.partition(":")
        family = getattr(import_module(module, __package__), attribute)
        if family.name in families:
            raise SettingError(
                f"Two families are called {family.name!r}: {families[family.name].__module__} and {family.__module__}. "
                "Rename one of them."
            )
        families[family.name] = family
    return tuple(families.values())


def describe() -> list[dict[str, Any]]:
    """One plain dictionary per family: name, classes, cue sources, video, tested transformers versions."""
    return [
        {
            "name": family.name,
            "classes": list(family.classes),
            "saliency": family.saliency_source(),
            "relevance": family.relevance,
            "video": family.video,
            "limits": {name: str(limit) for name, limit in family.limits.items()},
            "transformers": TRANSFORMERS,
        }
        for family in available()
    ]


def find(model: Any) -> Family:
    """The family of a loaded model, bound to it.

    Raises:
        UnsupportedModelError: no family knows the class; the message lists those that are known.
    """
    names = [cls.__name__ for cls in type(model).__mro__]
    for name in names:
        if name in _WRAPPERS:
            raise UnsupportedModelError(f"A model wrapped in {name} cannot be pruned. {_WRAPPERS[name]}.")
    for family in available():
        if family.serves(model):
            return family(model)
    known = ", ".join(sorted(name for family in available() for name in family.classes))
    raise UnsupportedModelError(
        f"gridprune does not know the model class {names[0]}. Supported classes: {known}. "
        "A new family is one file: a subclass of gridprune.families.Family that finds the pictures in a call, runs the "
        "model's encoder, gives a TokenMap and hands shortened features back (entry-point group 'gridprune.families')."
    )
