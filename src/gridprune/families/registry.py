"""Which family a model belongs to, found by the names of the model's classes.

Family files import nothing of a model's own at module level, so a family whose model class is younger than the
installed transformers breaks no other.
"""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from ..compat import unwrapped
from ..errors import SettingError, UnsupportedModelError
from ..methods.registry import summary
from .base import Family

ENTRY_POINT_GROUP = "gridprune.families"
TRANSFORMERS = "5.18, 5.24"  # what the matrix runs with: constraints-oldest.txt and constraints.txt

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
    ".glm:Glm",
    ".cohere:AyaVision",
    ".cohere:Cohere2Vision",
    ".deepseek:Deepseek",
    ".pixtral:LightOnOcr",
    ".patched:Lfm2Vl",
    ".patched:Gemma4",
)


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
    """One plain dictionary per family: name, a sentence, classes, cue sources, video, tested transformers versions."""
    return [
        {
            "name": family.name,
            "summary": summary(family),
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
    """The family of a loaded model, bound to the stock model in it.

    Raises:
        UnsupportedModelError: no family knows the class, and the message lists those that are known; or the model is
            wrapped in a way that cannot be pruned.
    """
    model = unwrapped(model)
    for family in available():
        if family.serves(model):
            return family(model)
    known = ", ".join(sorted(name for family in available() for name in family.classes))
    raise UnsupportedModelError(
        f"gridprune does not know the model class {type(model).__name__}. Supported classes: {known}. "
        "A new family is one file: a subclass of gridprune.families.Family that finds the images in a call, runs the "
        "model's encoder, gives a TokenMap and hands shortened features back (entry-point group 'gridprune.families')."
    )
