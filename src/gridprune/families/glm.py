"""GLM-4.1V, GLM-4.5V, GLM-4.6V and GLM-OCR: Qwen2-VL's layout with a tower of their own, still images."""

from __future__ import annotations

from typing import Any, ClassVar

from ..errors import UnsupportedCallError
from .base import Family
from .qwen_vl import QwenVL


class Glm(QwenVL):
    """Squares of 2 x 2 patches fused by a convolution, M-RoPE. Frames of a video share the images' placeholder."""

    name: ClassVar[str] = "glm"
    classes: ClassVar[tuple[str, ...]] = (
        "Glm4vForConditionalGeneration",
        "Glm4vMoeForConditionalGeneration",
        "Glm46VForConditionalGeneration",
        "GlmOcrForConditionalGeneration",
    )
    video: ClassVar[bool] = False

    @property
    def streams(self) -> list[Family]:  # type: ignore[override]
        return [self]

    def vision(self, call: dict[str, Any]) -> dict[str, Any] | None:
        if call.get("pixel_values_videos") is not None:
            raise UnsupportedCallError(
                f"Videos of {type(self.model).__name__} are not pruned: give their frames as images."
            )
        return super().vision(call)
