"""Which architecture of ours stands for which of vLLM's, and what one can give to methods. Imports no vLLM."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, MissingCueError, UnsupportedCallError, UnsupportedModelError
from ..methods.base import Method
from .settings import Settings

PREFIX = "GridPrune"


@dataclass(frozen=True)
class Architecture:
    """A stock architecture that can be pruned.

    Attributes:
        stock: vLLM's own name.
        target: our class, as "module:Class".
        missing: cues that this architecture cannot give, and why.
        merges_before_projector: whether merged tower features can be projected.
    """

    stock: str
    target: str
    missing: Mapping[str, str]
    merges_before_projector: bool = False

    @property
    def name(self) -> str:
        """What users ask for."""
        return PREFIX + self.stock

    def check(self, method: Method) -> None:
        """Refuse, by name, a method that cannot run here.

        Raises:
            UnsupportedCallError: the method does not act between tower and language model, its count depends on the
                image, or it compares frames.
            MissingCueError: it needs a cue that this architecture cannot give.
        """
        reason = next((why for bad, why in _NOT_IN_AN_ENGINE if bad(method)), None)
        if reason is not None:
            raise UnsupportedCallError(
                f"The method {method.label!r} cannot run in vLLM: {reason}. `gridprune methods` lists the others."
            )
        for cue in sorted(method.needs & set(self.missing)):
            raise MissingCueError(
                f"The method {method.label!r} needs the cue {cue!r}, which {self.name} cannot give: "
                f"{self.missing[cue]}."
            )
        if method.merges and method.merge_space == "tower_features" and not self.merges_before_projector:
            raise UnsupportedCallError(
                f"The method {method.label!r} merges tokens before the projector, which in vLLM cannot be done for "
                f"{self.stock}: its tokens are made of several patches each. Use a method that merges projected "
                "tokens, or one that only drops some."
            )


_NOT_IN_AN_ENGINE = (
    (lambda method: method.stage == "in-llm", "it acts inside the language model, which vLLM runs compiled"),
    (
        lambda method: not method.fixed_count,
        "its count depends on the image, and vLLM reserves places before it sees the image",
    ),
    (lambda method: method.min_frames > 1, "it compares frames of a video, and only still images are pruned here"),
)

_NO_CLS = "its tower has no [CLS]; methods that need saliency only use the attention received"
_NO_CROPS = "its images are not crops of one size"
_NO_LAYER = "vLLM fuses the projections of its language model and splits them over GPUs"
_NO_DERIVATIVE = "vLLM's layers have no derivatives"
_ANY = {"head_relevance": _NO_LAYER, "sensitivity": _NO_DERIVATIVE}
_TILES = {"queries_cls": _NO_CLS, **_ANY}
_QWEN = {"queries_cls": _NO_CLS, "laplacian": _NO_CROPS, **_ANY}

ARCHITECTURES: dict[str, Architecture] = {
    architecture.stock: architecture
    for architecture in (
        Architecture(
            "LlavaForConditionalGeneration",
            "gridprune.vllm.llava:PrunedLlava",
            missing=_ANY,
            merges_before_projector=True,
        ),
        Architecture(
            "LlavaNextForConditionalGeneration",
            "gridprune.vllm.llava:PrunedLlavaNext",
            missing=_ANY,
            merges_before_projector=True,
        ),
        Architecture("Qwen2VLForConditionalGeneration", "gridprune.vllm.qwen:PrunedQwen2VL", _QWEN),
        Architecture("Qwen2_5_VLForConditionalGeneration", "gridprune.vllm.qwen:PrunedQwen25VL", _QWEN),
        Architecture("Qwen3VLForConditionalGeneration", "gridprune.vllm.qwen:PrunedQwen3VL", _QWEN),
        Architecture("InternVLForConditionalGeneration", "gridprune.vllm.internvl:PrunedInternVL", _TILES),
        Architecture("LlavaOnevisionForConditionalGeneration", "gridprune.vllm.llava:PrunedOneVision", _TILES),
        Architecture("Gemma3ForConditionalGeneration", "gridprune.vllm.gemma:PrunedGemma3", _TILES),
    )
}


# Architectures that gridprune prunes in transformers and not here, and why.
REFUSED: dict[str, str] = {
    "Qwen3_5ForConditionalGeneration": "its linear attention runs on CPUs in bfloat16 only, so no test could show that "
    "vLLM's tokens equal those of transformers",
    "Qwen3_5MoeForConditionalGeneration": "as for Qwen3_5ForConditionalGeneration",
    "Qwen3VLMoeForConditionalGeneration": "no test of its experts yet; Qwen3VLForConditionalGeneration is served",
    "InternVLChatModel": "transformers has no such model; serve the checkpoint whose name ends in -hf",
}


def of_config(config: Any) -> Architecture:
    """The architecture of ours for a model's configuration, stock or already overridden.

    Raises:
        UnsupportedModelError: there is none.
    """
    names = [str(name).removeprefix(PREFIX) for name in getattr(config, "architectures", None) or ()]
    for name in names:
        if name in ARCHITECTURES:
            return ARCHITECTURES[name]
    why = next((f": {REFUSED[name]}" for name in names if name in REFUSED), "")
    raise UnsupportedModelError(
        f"gridprune has no vLLM architecture for {', '.join(names) or 'this model'}{why}. "
        f"Supported: {', '.join(ARCHITECTURES)}."
    )


def overrides(model: str, **settings: Any) -> dict[str, Any]:
    """What to give to vLLM as `hf_overrides` so that `model` prunes.

    Args:
        model: a checkpoint folder or a hub id; its configuration is read.
        settings: the fields of :class:`~gridprune.vllm.settings.Settings` (`method`, `keep`, `clip`, ...).

    Raises:
        CheckpointError: no configuration there.
        UnsupportedModelError: an architecture that cannot be pruned.
        GridPruneError: settings that cannot work; the message says which.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(model)
    except Exception as error:  # hub, network, file and format errors come in many classes
        kind = "folder" if Path(model).is_dir() else "hub id"
        raise CheckpointError(f"Could not read the configuration of the {kind} {model!r}: {error}") from error
    architecture = of_config(config)
    given = {key: value for key, value in settings.items() if value is not None}
    for method in Settings.read(given).allowed():
        architecture.check(method)
    return {"architectures": [architecture.name], "gridprune": given}
