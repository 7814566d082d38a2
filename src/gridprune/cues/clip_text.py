"""Text relevance from CLIP: the half of CLIP that a LLaVA checkpoint does not hold.

A LLaVA carries CLIP's vision tower only. The relevance of a patch,

    r_i = cosine( visual_projection(post_layernorm(h_i)),  text embedding of the question ),

needs the matching text tower and the `visual_projection` as well. They come from a CLIP checkpoint, or from the small
side folder that ``gridprune export-clip`` writes once (124 M parameters for CLIP-L/336, 249 MB in bf16).
h_i is the patch state of the layer the language model reads (the penultimate one); no second vision pass is made.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..compat import pretrained
from ..core.reading import Reading
from ..errors import CheckpointError
from .notes import note
from .text_tower import CLIP_TEXT, TextTower, stored_reading

PROJECTION_FILE = "visual_projection.safetensors"
DEFAULT_READING: Reading = "both"
_STEP = 16  # lengths of recorded texts are multiples of it


class ClipText(TextTower):
    """CLIP's text side: embeds questions, and projects patches into the same space.

    Attributes:
        visual_projection: (E, C) fp32, the weight of CLIP's visual projection.
        reading: which end of the cosine means "relevant" on this CLIP. TRIM, CDPruner, EADP and LiteLVLM negate the
            cosine of OpenAI's CLIP, GridPrune's paper does not. "both" is the default, as the reading that was never
            behind on two towers of ours, one trained by captions alone (LAB.md). A `gridprune.json` beside the
            checkpoint overrides it; ``gridprune sign`` measures it.
    """

    source: ClassVar[str] = CLIP_TEXT
    pooled: ClassVar[str] = "text_embeds"

    def __init__(
        self, text_model: Any, tokenizer: Any, visual_projection: Tensor, reading: Reading = DEFAULT_READING
    ) -> None:
        """Args:
        text_model: a `CLIPTextModelWithProjection`.
        tokenizer: its tokenizer.
        visual_projection: (E, C), the weight of CLIP's visual projection.
        reading: see above.
        """
        super().__init__(text_model, tokenizer, reading)
        self.visual_projection = visual_projection.detach().float()

    @property
    def patch_width(self) -> int:
        return self.visual_projection.shape[1]

    @property
    def patch_weights(self) -> Sequence[nn.Module | Tensor]:
        return [self.visual_projection]

    def tokens(self, segments: list[str]) -> dict[str, Tensor]:
        tokens = self.tokenizer(segments, padding=True, truncation=True, max_length=self.context, return_tensors="pt")
        ids, mask = tokens["input_ids"], tokens["attention_mask"]
        if not self._graphs.able(self.device) or not bool(mask[:, 0].all()):
            return {"input_ids": ids, "attention_mask": mask}
        # A text is read off its end and sees what is before it: what follows there changes nothing, and needs no mask.
        length = min(-(-ids.shape[1] // _STEP) * _STEP, self.context)
        return {"input_ids": nn.functional.pad(ids, (0, length - ids.shape[1]))}

    def word_states(self, question: str) -> tuple[list[int], Tensor]:
        tokens = self.tokenizer([question], truncation=True, max_length=self.context, return_tensors="pt")
        states = self.text_model.text_model(
            input_ids=tokens["input_ids"].to(self.device), attention_mask=tokens["attention_mask"].to(self.device)
        )
        return tokens["input_ids"][0].tolist(), self.text_model.text_projection(states.last_hidden_state[0])

    def embed_patches(self, states: Tensor, post_norm: nn.Module | None) -> Tensor:
        """By CLIP's own path: post-norm, then projection."""
        normed = states if post_norm is None else post_norm(states)
        if self.visual_projection.device != normed.device:  # it goes where the patches are, once
            self.visual_projection = self.visual_projection.to(normed.device)
        return normed.float() @ self.visual_projection.T

    def to(self, device: torch.device | str) -> ClipText:
        super().to(device)
        self.visual_projection = self.visual_projection.to(device)
        return self

    @classmethod
    def from_model(cls, clip: Any, tokenizer: Any, reading: Reading = DEFAULT_READING) -> ClipText:
        """From a loaded `CLIPModel` and its tokenizer."""
        from transformers import CLIPTextModelWithProjection

        config = copy.deepcopy(clip.config.text_config)
        config.projection_dim = clip.config.projection_dim  # the text half's own entry is not what CLIP was built with
        text = CLIPTextModelWithProjection(config).to(clip.text_projection.weight.dtype)
        own = {f"text_model.{k}": v for k, v in clip.text_model.state_dict().items()}
        own["text_projection.weight"] = clip.text_projection.weight
        text.load_state_dict(own)
        return cls(text, tokenizer, clip.visual_projection.weight, reading)

    @classmethod
    def load(cls, source: str | Path) -> ClipText:
        """From a CLIP checkpoint (folder or hub id), or a side folder written by :meth:`export`.

        Raises:
            CheckpointError: nothing loadable there; the message says what was tried.
        """
        from transformers import AutoTokenizer, CLIPModel, CLIPTextModelWithProjection

        folder = Path(source)
        side = folder / PROJECTION_FILE
        try:
            tokenizer = AutoTokenizer.from_pretrained(str(source))
            if side.is_file():
                text = pretrained(CLIPTextModelWithProjection, source, dtype=torch.float32)
                projection = load_file(side)["weight"]
                return cls(text, tokenizer, projection, stored_reading(folder, DEFAULT_READING))
            clip = pretrained(CLIPModel, source, dtype=torch.float32)
        except Exception as error:  # hub, network, file and format errors come in many classes
            raise CheckpointError(
                f"Could not load a CLIP text side from {str(source)!r}: {error}\nGive a folder with a CLIP "
                f"checkpoint, a folder written by `gridprune export-clip`, or a hub id such as "
                f"'openai/clip-vit-large-patch14-336' (needs network access once)."
            ) from error
        return cls.from_model(clip, tokenizer, stored_reading(folder, DEFAULT_READING))

    def export(self, folder: str | Path, dtype: torch.dtype = torch.bfloat16) -> Path:
        """Write the text side as a small folder that :meth:`load` reads: text tower, projection, tokenizer, reading."""
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        before = next(self.text_model.parameters()).dtype
        self.text_model.to(dtype).save_pretrained(str(target))  # type: ignore[operator]
        self.text_model.to(before)
        self.tokenizer.save_pretrained(str(target))
        save_file({"weight": self.visual_projection.to(dtype).contiguous()}, target / PROJECTION_FILE)
        note(target, reading=self.reading)
        return target
