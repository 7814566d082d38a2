"""The language model as a lean module: the same arithmetic as ``LlamaForCausalLM``, packed for training."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.embedded.vocabulary import BOS, CLASSES, COUNTS, EOS, LETTERS, TOKEN_ID, VOCABULARY, WORDS

from .clip import attend
from .packing import Packed


@dataclass(frozen=True)
class LMConfig:
    width: int = 256
    layers: int = 4
    heads: int = 4
    mlp: int = 704
    theta: float = 10000.0
    eps: float = 1e-5

    @property
    def head_dim(self) -> int:
        return self.width // self.heads


class RMSNorm(nn.Module):
    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, x.shape[-1:], self.weight, self.eps)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary code in the half-split layout of Llama; x [B, H, N, D], cos and sin [B or 1, 1, N, D]."""
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat([-b, a], -1) * sin


class Block(nn.Module):
    def __init__(self, cfg: LMConfig) -> None:
        super().__init__()
        d = cfg.width
        self.cfg = cfg
        self.norm1, self.norm2 = RMSNorm(d, cfg.eps), RMSNorm(d, cfg.eps)
        self.q, self.k, self.v, self.o = (nn.Linear(d, d, bias=False) for _ in range(4))
        self.gate, self.up = nn.Linear(d, cfg.mlp, bias=False), nn.Linear(d, cfg.mlp, bias=False)
        self.down = nn.Linear(cfg.mlp, d, bias=False)

    def split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.cfg.heads, -1)).transpose(1, 2)

    def mlp(self, x: Tensor) -> Tensor:
        h = self.norm2(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))

    def forward(
        self, prefix: Tensor, text: Tensor, rope: tuple[Tensor, Tensor], mask: Tensor, last: bool
    ) -> tuple[Tensor, Tensor]:
        """prefix [B, P, D] (causal), text [B, T, D] (mask [B, 1, T, P + T]); both updated."""
        p = prefix.shape[1]
        h = torch.cat([self.norm1(prefix), self.norm1(text)], 1)
        cos, sin = rope
        k, v = rotate(self.split(self.k(h)), cos, sin), self.split(self.v(h))
        if last:  # nothing reads the prefix after its keys and values
            q = rotate(self.split(self.q(h[:, p:])), cos[:, :, p:], sin[:, :, p:])
        else:
            q = rotate(self.split(self.q(h)), cos, sin)
            seen = attend(q[:, :, :p], k[:, :, :p], v[:, :, :p], causal=True)
            prefix = self.mlp(prefix + self.o(seen.transpose(1, 2).flatten(2)))
            q = q[:, :, p:]
        seen = attend(q, k, v, mask=mask)
        return prefix, self.mlp(text + self.o(seen.transpose(1, 2).flatten(2)))


class LanguageModel(nn.Module):
    """Llama with tied embeddings; :meth:`forward` answers packed questions behind a visual prefix."""

    def __init__(self, cfg: LMConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.embed = nn.Embedding(len(VOCABULARY), cfg.width)
        self.layers = nn.ModuleList(Block(cfg) for _ in range(cfg.layers))
        self.norm = RMSNorm(cfg.width, cfg.eps)
        nn.init.normal_(self.embed.weight, std=0.08)
        eye = torch.eye(cfg.width)
        for block in self.layers:
            for module in (block.q, block.k, block.v, block.gate, block.up):
                nn.init.normal_(module.weight, std=cfg.width**-0.5)
            for module in (block.o, block.down):
                nn.init.normal_(module.weight, std=0.3 * module.in_features**-0.5)
            with torch.no_grad():  # equal words attract each other from the start: binding is found far sooner
                for module in (block.q, block.k):
                    module.weight.mul_(0.5).add_(eye, alpha=0.8)
                block.v.weight.mul_(0.5).add_(eye)
                block.o.weight.add_(eye, alpha=0.3)

    def rope(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        half = self.cfg.head_dim // 2
        speed = self.cfg.theta ** -(torch.arange(half, device=positions.device) / half)
        angle = positions[..., None].float() * speed  # [B, N, D/2]
        angle = torch.cat([angle, angle], -1)[:, None]
        return angle.cos(), angle.sin()

    def forward(self, visual: Tensor, text: Packed) -> Tensor:
        """Logits [B, T, V] of packed questions behind visual tokens [B, N, D]."""
        return self.states(visual, text)[0]

    def states(self, visual: Tensor, text: Packed, lengths: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """Logits [B, T, V], and the text's states [B, T, D] after each block.

        ``lengths`` [B] says how many visual tokens are real; the rest is padding on the right.
        """
        b, n, _ = visual.shape
        bos = self.embed.weight[BOS].expand(b, 1, -1)
        prefix, x = torch.cat([bos, visual], 1), self.embed(text.ids)
        p = n + 1
        ends = torch.full((b,), p, device=x.device) if lengths is None else 1 + lengths
        seen = torch.arange(p, device=x.device) < ends[:, None]  # [B, P]
        mask = text.mask(seen[:, None].expand(-1, text.ids.shape[1], -1))
        rope = self.rope(torch.cat([torch.arange(p, device=x.device).expand(b, -1), ends[:, None] + text.offset], 1))
        after = []
        for i, block in enumerate(self.layers):
            prefix, x = block(prefix, x, rope, mask, i == len(self.layers) - 1)
            after.append(x)
        return self.norm(x) @ self.embed.weight.T, after


#: Weights of answer tokens in the loss: counts, letters and nouns are learned last, </s> at once.
_WEIGHT = torch.ones(len(VOCABULARY))
_WEIGHT[[TOKEN_ID[word] for word in COUNTS]] = 3.0
_WEIGHT[[TOKEN_ID[word] for word in LETTERS]] = 3.0
_WEIGHT[[TOKEN_ID[word] for word in CLASSES]] = 3.0
_WEIGHT[[TOKEN_ID[word] for word in WORDS]] = 2.0
_WEIGHT[EOS] = 0.3


def answer_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Weighted cross-entropy over the answer tokens."""
    weight = _WEIGHT.to(logits.device)
    return F.cross_entropy(logits.flatten(0, 1).float(), target.flatten(), weight=weight, ignore_index=-100)


def exact(logits: Tensor, text: Packed) -> Tensor:
    """Bool [B, Q]: every answer token right (teacher forcing = greedy exact match); Q is the largest segment + 1."""
    wrong = (logits.argmax(-1) != text.target) & (text.target >= 0)
    count = int(text.segment.max()) + 1
    hits = torch.zeros(len(wrong), count, dtype=torch.long, device=wrong.device)
    hits.scatter_add_(1, text.segment.clamp(min=0), (wrong & (text.segment >= 0)).long())
    return hits == 0
