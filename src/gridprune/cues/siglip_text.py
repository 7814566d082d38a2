"""Text relevance from SigLIP: its text tower, and its pooling head applied to one patch at a time.

SigLIP has no projection of patches into the space of its texts: a learned probe attends to all patches, and what it
gathers goes through a residual MLP. The relevance of a patch is read off the same head with the probe attending to that
patch alone, so that its attention weight is 1 whatever probe, queries and keys are:

    v_i = W_out (W_value x_i + b_value) + b_out,    z_i = v_i + MLP(LayerNorm(v_i)),    r_i = cosine(z_i, text)

where x_i is the patch state behind the tower's last norm. This is what SigLIP would embed an image as that had only
this patch; it is a choice, and nothing in SigLIP's training asks for it. The model's own tower gives x_i, read at the
layer its projector reads: a tower that was trained further, or lost its last blocks, has drifted from this head.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..compat import pretrained
from ..core.reading import Reading
from ..errors import CheckpointError
from .text_tower import SIGLIP_TEXT, TextTower, stored_reading

DEFAULT_READING: Reading = "plus"  # the cosine as it is; nobody measured it, `gridprune sign` does


class SiglipText(TextTower):
    """SigLIP's text side (SigLIP and SigLIP 2): embeds questions, and patches through its pooling head.

    Attributes:
        head: the pooling head of its vision tower.
        reading: "plus" unless a `gridprune.json` beside the checkpoint says otherwise; ``gridprune sign`` measures it.
    """

    source: ClassVar[str] = SIGLIP_TEXT
    pooled: ClassVar[str] = "pooler_output"

    def __init__(self, text_model: Any, tokenizer: Any, head: Any, reading: Reading = DEFAULT_READING) -> None:
        """Args:
        text_model: a `SiglipTextModel` or `Siglip2TextModel`.
        tokenizer: its tokenizer.
        head: the `SiglipMultiheadAttentionPoolingHead` of the vision tower.
        reading: see above.
        """
        super().__init__(text_model, tokenizer, reading)
        self.head = head.eval()

    @property
    def patch_width(self) -> int:
        return int(self.head.probe.shape[-1])

    @property
    def patch_weights(self) -> Sequence[nn.Module | Tensor]:
        return [self.head]

    def tokens(self, segments: list[str]) -> dict[str, Tensor]:
        """Ids padded to the context and not masked, as in SigLIP's training."""
        tokens = self.tokenizer(
            segments, padding="max_length", truncation=True, max_length=self.context, return_tensors="pt"
        )
        return {"input_ids": tokens["input_ids"]}

    def word_states(self, question: str) -> tuple[list[int], Tensor]:
        ids = self.tokens([question])["input_ids"]
        states = self.text_model(input_ids=ids.to(self.device)).last_hidden_state[0]
        return ids[0].tolist(), self.text_model.head(states)

    def embed_patches(self, states: Tensor, post_norm: nn.Module | None) -> Tensor:
        normed = states if post_norm is None else post_norm(states)
        alone = normed.reshape(-1, 1, normed.shape[-1]).to(self.head.probe.device, self.head.probe.dtype)
        return self.head(alone).view(*states.shape).to(states.device)  # type: ignore[no-any-return]

    def to(self, device: torch.device | str) -> SiglipText:
        super().to(device)
        self.head.to(device)
        return self

    @classmethod
    def from_model(cls, siglip: Any, tokenizer: Any, reading: Reading = DEFAULT_READING) -> SiglipText:
        """From a loaded `SiglipModel` or `Siglip2Model` and its tokenizer.

        Raises:
            CheckpointError: its vision tower has no pooling head.
        """
        head = next((part for part in siglip.vision_model.modules() if hasattr(part, "probe")), None)
        if head is None:
            raise CheckpointError("This SigLIP's vision tower has no pooling head, so patches cannot be compared.")
        return cls(siglip.text_model, tokenizer, head, reading)

    @classmethod
    def load(cls, source: str | Path) -> SiglipText:
        """From a SigLIP checkpoint with both towers, folder or hub id.

        Raises:
            CheckpointError: nothing loadable there.
        """
        from transformers import AutoModel, AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(str(source))
            siglip = pretrained(AutoModel, source, dtype=torch.float32)
        except Exception as error:  # hub, network, file and format errors come in many classes
            raise CheckpointError(
                f"Could not load a SigLIP from {str(source)!r}: {error}\nGive a folder or hub id of a checkpoint with "
                "both towers, such as 'google/siglip-so400m-patch14-384' (needs network access once)."
            ) from error
        return cls.from_model(siglip, tokenizer, stored_reading(Path(source), DEFAULT_READING))
