"""VipLLaVA: LLaVA-1.5's layout on features of several CLIP layers side by side."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from .llava import Llava


class VipLlava(Llava):
    """`VipLlavaForConditionalGeneration`. Relevance and tower features read the penultimate block, as in LLaVA-1.5."""

    name: ClassVar[str] = "vip-llava"
    classes: ClassVar[tuple[str, ...]] = ("VipLlavaForConditionalGeneration",)
    option_keys: ClassVar[tuple[str, ...]] = ("vision_feature_layer",)
    dense: ClassVar[bool] = True

    @property
    def feature_block(self) -> int:
        return self.tower.block(-2)

    def check_strategy(self, vision: dict[str, Any]) -> None:
        """It never hands [CLS] on."""

    def project(self, tower_features: Tensor) -> Tensor:
        return super(Llava, self).project(tower_features)
