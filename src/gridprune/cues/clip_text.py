"""Text relevance from CLIP: the half of CLIP that a LLaVA checkpoint does not hold.

A LLaVA carries CLIP's vision tower only. The relevance of a patch,

    r_i = cosine( visual_projection(post_layernorm(h_i)),  text embedding of the question ),

needs the matching text tower and the `visual_projection` as well. They come from a CLIP checkpoint, or from the small
side folder that ``gridprune export-clip`` writes once (124 M parameters for CLIP-L/336, 249 MB in bf16).
h_i is the patch state of the layer the language model reads (the penultimate one); no second vision pass is made.
"""

from __future__ import annotations

import copy
import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..errors import CheckpointError, SettingError
from .question import split_words

PROJECTION_FILE = "visual_projection.safetensors"
SIGN_FILE = "gridprune.json"
DEFAULT_SIGN = -1
_CACHE_SIZE = 256


class ClipText:
    """CLIP's text side: embeds questions, and projects patches into the same space.

    Attributes:
        relevance_sign: +1 or -1, which end of the cosine means "relevant" on this CLIP. OpenAI's CLIP gives background
            patches the higher cosine; TRIM, CDPruner, EADP and LiteLVLM negate it, and so does the default here. A
            `gridprune.json` beside the checkpoint overrides it; ``gridprune sign`` measures it.
    """

    def __init__(
        self, text_model: Any, tokenizer: Any, visual_projection: Tensor, relevance_sign: int = DEFAULT_SIGN
    ) -> None:
        """Args:
        text_model: a `CLIPTextModelWithProjection`.
        tokenizer: its tokenizer.
        visual_projection: (E, C), the weight of CLIP's visual projection.
        relevance_sign: +1 or -1.
        """
        if relevance_sign not in (1, -1):
            raise SettingError(f"relevance_sign must be +1 or -1, got {relevance_sign!r}.")
        self.text_model = text_model.eval()
        self.tokenizer = tokenizer
        self.visual_projection = visual_projection.detach().float()
        self.relevance_sign = relevance_sign
        self._cache: OrderedDict[str, Tensor] = OrderedDict()

    @property
    def patch_width(self) -> int:
        """Width C of the vision tower this text side belongs to."""
        return self.visual_projection.shape[1]

    @property
    def context(self) -> int:
        """Tokens the text tower takes at once, BOS and EOS included (77 for OpenAI's)."""
        return int(self.text_model.config.max_position_embeddings)

    @torch.no_grad()
    def embed(self, question: str) -> Tensor:
        """(E,) fp32: the mean of the unit embeddings of the question's segments.

        A question that fits the context is one segment. A longer one is cut into as few runs of words as fit, each with
        its own BOS and EOS; since r_i is linear in the unit text embedding, the dot product with this mean is the mean
        of the segments' cosines. Embeddings are cached, so a question asked of many images costs one pass.
        """
        if question not in self._cache:
            segments = self._segments(question)
            tokens = self.tokenizer(
                segments, padding=True, truncation=True, max_length=self.context, return_tensors="pt"
            )
            device = next(self.text_model.parameters()).device
            output = self.text_model(
                input_ids=tokens["input_ids"].to(device), attention_mask=tokens["attention_mask"].to(device)
            )
            self._cache[question] = nn.functional.normalize(output.text_embeds.float(), dim=-1).mean(0)
            while len(self._cache) > _CACHE_SIZE:
                self._cache.popitem(last=False)
        return self._cache[question]

    @torch.no_grad()
    def embed_words(self, question: str) -> Tensor:
        """(T, E) fp32 unit embeddings of its own tokens (no BOS, EOS or padding), truncated to the context."""
        tokens = self.tokenizer([question], truncation=True, max_length=self.context, return_tensors="pt")
        device = next(self.text_model.parameters()).device
        ids = tokens["input_ids"].to(device)
        states = self.text_model.text_model(input_ids=ids, attention_mask=tokens["attention_mask"].to(device))
        words = self.text_model.text_projection(states.last_hidden_state[0]).float()
        special = torch.tensor(
            self.tokenizer.get_special_tokens_mask(ids[0].tolist(), already_has_special_tokens=True), dtype=torch.bool
        )
        inner = ~special.to(device)
        return nn.functional.normalize(words[inner] if bool(inner.any()) else words, dim=-1)

    def _segments(self, question: str) -> list[str]:
        parts = 1
        while True:
            segments = list(split_words(question, parts)) or [question]
            lengths = [len(ids) for ids in self.tokenizer(segments)["input_ids"]]
            if max(lengths) <= self.context or parts >= len(question.split()):
                return segments
            parts += 1

    @torch.no_grad()
    def project_patches(self, states: Tensor, post_norm: nn.Module | None) -> Tensor:
        """(..., E) fp32 unit embeddings of patch states (..., C), by CLIP's own path: post-norm, then projection."""
        if states.shape[-1] != self.patch_width:
            raise CheckpointError(
                f"This CLIP text side belongs to a vision tower of width {self.patch_width}, but the model's tower has "
                f"width {states.shape[-1]}. Give the CLIP checkpoint that the model's vision tower was taken from."
            )
        normed = states if post_norm is None else post_norm(states)
        weight = self.visual_projection.to(normed.device)
        return nn.functional.normalize(normed.float() @ weight.T, dim=-1)

    def to(self, device: torch.device | str) -> ClipText:
        """Move the text tower; embeddings cached so far are dropped."""
        self.text_model.to(device)
        self._cache.clear()
        return self

    @classmethod
    def from_model(cls, clip: Any, tokenizer: Any, relevance_sign: int = DEFAULT_SIGN) -> ClipText:
        """From a loaded `CLIPModel` and its tokenizer."""
        from transformers import CLIPTextModelWithProjection

        config = copy.deepcopy(clip.config.text_config)
        config.projection_dim = clip.config.projection_dim  # the text half's own entry is not what CLIP was built with
        text = CLIPTextModelWithProjection(config).to(clip.text_projection.weight.dtype)
        own = {f"text_model.{k}": v for k, v in clip.text_model.state_dict().items()}
        own["text_projection.weight"] = clip.text_projection.weight
        text.load_state_dict(own)
        return cls(text, tokenizer, clip.visual_projection.weight, relevance_sign)

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
                text = CLIPTextModelWithProjection.from_pretrained(str(source), dtype=torch.float32)
                projection = load_file(side)["weight"]
                return cls(text, tokenizer, projection, stored_sign(folder))
            clip = CLIPModel.from_pretrained(str(source), dtype=torch.float32)
        except Exception as error:  # hub, network, file and format errors come in many classes
            raise CheckpointError(
                f"Could not load a CLIP text side from {str(source)!r}: {error}\nGive a folder with a CLIP "
                f"checkpoint, a folder written by `gridprune export-clip`, or a hub id such as "
                f"'openai/clip-vit-large-patch14-336' (needs network access once)."
            ) from error
        return cls.from_model(clip, tokenizer, stored_sign(folder))

    def export(self, folder: str | Path, dtype: torch.dtype = torch.bfloat16) -> Path:
        """Write the text side as a small folder that :meth:`load` reads: text tower, projection, tokenizer and sign."""
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        before = next(self.text_model.parameters()).dtype
        self.text_model.to(dtype).save_pretrained(str(target))  # type: ignore[operator]
        self.text_model.to(before)
        self.tokenizer.save_pretrained(str(target))
        save_file({"weight": self.visual_projection.to(dtype).contiguous()}, target / PROJECTION_FILE)
        (target / SIGN_FILE).write_text(json.dumps({"relevance_sign": self.relevance_sign}) + "\n")
        return target


def find_beside(model_folder: str | Path) -> Path | None:
    """A folder called `clip` in or beside a local checkpoint, if it holds a CLIP."""
    folder = Path(model_folder)
    for candidate in (folder / "clip", folder.parent / "clip"):
        if (candidate / "config.json").is_file():
            return candidate
    return None


def stored_sign(folder: Path) -> int:
    """The relevance sign noted beside a CLIP, or the default of -1."""
    file = folder / SIGN_FILE
    if not file.is_file():
        return DEFAULT_SIGN
    return int(json.loads(file.read_text())["relevance_sign"])
