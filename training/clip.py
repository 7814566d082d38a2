"""CLIP's two towers as lean modules: the same arithmetic as ``CLIPModel``, on any subset of the patches."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.embedded.scenes import GRID, PATCH
from training.embedded.vocabulary import EOS, VOCABULARY

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
POSITION_DIMS = 32  # the part of the residual stream that starts out as the position code


@dataclass(frozen=True)
class TowerConfig:
    width: int = 192
    layers: int = 5  # the last one only serves [CLS]; LLaVA reads the output of the one before
    heads: int = 6
    mlp: int = 768
    text_width: int = 160
    text_layers: int = 3
    text_heads: int = 5
    text_mlp: int = 640
    text_length: int = 77
    projection: int = 192
    eps: float = 1e-5


class Layer(nn.Module):
    """One pre-norm transformer block; names follow transformers' ``CLIPEncoderLayer``."""

    def __init__(self, width: int, heads: int, mlp: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(width, eps), nn.LayerNorm(width, eps)
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))
        self.fc1, self.fc2 = nn.Linear(width, mlp), nn.Linear(mlp, width)
        for linear, gain in ((self.q_proj, 1.0), (self.k_proj, 1.0), (self.v_proj, 1.0), (self.out_proj, 0.4)):
            nn.init.normal_(linear.weight, std=gain * width**-0.5)
            nn.init.zeros_(linear.bias)
        nn.init.normal_(self.fc1.weight, std=width**-0.5)
        nn.init.normal_(self.fc2.weight, std=0.4 * mlp**-0.5)
        nn.init.zeros_(self.fc1.bias)
        nn.init.zeros_(self.fc2.bias)

    def split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, x: Tensor, queries: int | None = None, causal: bool = False) -> Tensor:
        """x [B, N, D]; only the first ``queries`` positions are updated and returned when given."""
        h = self.layer_norm1(x)
        x, top = x[:, :queries], h[:, :queries]
        seen = attend(self.split(self.q_proj(top)), self.split(self.k_proj(h)), self.split(self.v_proj(h)), causal)
        x = x + self.out_proj(seen.transpose(1, 2).flatten(2))
        return x + self.fc2(F.gelu(self.fc1(self.layer_norm2(x))))

    def cls_attention(self, x: Tensor) -> Tensor:
        """Attention from position 0 to the others, mean over heads, [B, N - 1]."""
        h = self.layer_norm1(x)
        q, k = self.split(self.q_proj(h[:, :1])), self.split(self.k_proj(h))
        weights = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1)
        return weights[:, :, 0, 1:].mean(1)


def attend(q: Tensor, k: Tensor, v: Tensor, causal: bool = False, mask: Tensor | None = None) -> Tensor:
    """Attention [B, H, N, D]; written out on a CPU: the fused kernel spends half of a step on its backward pass."""
    if q.is_cuda:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
    logits = (q * q.shape[-1] ** -0.5) @ k.mT
    if causal:
        logits = logits + logits.new_full(logits.shape[-2:], -1e4).triu(1)
    if mask is not None:
        logits = logits.masked_fill(~mask, -1e4)
    return logits.softmax(-1, dtype=v.dtype) @ v


def position_code() -> Tensor:
    """Sine-cosine code of the grid, [576, 32]: (sin, cos) pairs of 8 speeds for y, then for x."""
    speed = 1.8 * 0.72 ** torch.arange(POSITION_DIMS // 4)
    y, x = torch.meshgrid(torch.arange(GRID), torch.arange(GRID), indexing="ij")
    parts = []
    for axis in (y, x):
        angle = axis.flatten()[:, None] * speed  # [576, 8]
        parts.append(torch.stack([angle.sin(), angle.cos()], -1).flatten(1))
    return torch.cat(parts, 1)


def shift_matrix(dy: float, dx: float) -> Tensor:
    """[32, 32] rotation that takes the code of (y, x) to that of (y + dy, x + dx)."""
    speed = 1.8 * 0.72 ** torch.arange(POSITION_DIMS // 4)
    out = torch.zeros(POSITION_DIMS, POSITION_DIMS)
    for base, step in ((0, dy), (POSITION_DIMS // 2, dx)):
        for i, w in enumerate(speed.tolist()):
            a = torch.tensor(w * step)
            j = base + 2 * i
            out[j, j] = out[j + 1, j + 1] = a.cos()
            out[j, j + 1], out[j + 1, j] = a.sin(), -a.sin()
    return out


#: Neighbour that each head of the first layers attends to at the start (like a convolution).
OFFSETS = (
    ((0, -1), (0, 1), (-1, 0), (1, 0), (0, -2), (0, 2)),
    ((-1, -1), (-1, 1), (1, -1), (1, 1), (-2, 0), (2, 0)),
    ((0, -1), (0, 1), (-1, 0), (1, 0)),
    ((0, 0), (0, 0)),
)


class VisionTower(nn.Module):
    """CLIP's vision transformer on a chosen subset of patches."""

    def __init__(self, cfg: TowerConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.patch = nn.Linear(3 * PATCH * PATCH, cfg.width, bias=False)
        self.cls = nn.Parameter(torch.randn(cfg.width) * 0.3)
        position = torch.zeros(1 + GRID * GRID, cfg.width)
        position[1:, :POSITION_DIMS] = 1.2 * position_code()
        self.position = nn.Parameter(position)
        self.pre = nn.LayerNorm(cfg.width, cfg.eps)
        self.layers = nn.ModuleList(Layer(cfg.width, cfg.heads, cfg.mlp, cfg.eps) for _ in range(cfg.layers))
        self.post = nn.LayerNorm(cfg.width, cfg.eps)
        nn.init.normal_(self.patch.weight, std=0.04)
        with torch.no_grad():
            self.patch.weight[:POSITION_DIMS] = 0
            self.cls[:POSITION_DIMS] = 0
            self._local_heads()

    def _local_heads(self) -> None:
        size = self.cfg.width // self.cfg.heads
        for layer, offsets in zip(self.layers, OFFSETS, strict=False):
            for head, (dy, dx) in enumerate(offsets):
                rows = slice(head * size, (head + 1) * size)
                gain = 1.5 if (dy, dx) != (0, 0) else 0.8
                for linear, matrix in ((layer.q_proj, shift_matrix(dy, dx)), (layer.k_proj, shift_matrix(0, 0))):
                    linear.weight[rows] *= 0.1
                    linear.weight[rows, :POSITION_DIMS] = gain * matrix[:size]

    def embed(self, patches: Tensor, index: Tensor) -> Tensor:
        """patches [B, N, 192] normalised, index [B, N] flat patch numbers -> [B, 1 + N, D]."""
        x = self.patch(patches) + self.position[1 + index]
        cls = (self.cls + self.position[0]).expand(len(x), 1, -1)
        return self.pre(torch.cat([cls, x], 1))

    def forward(self, patches: Tensor, index: Tensor) -> Tensor:
        """Penultimate states, [B, 1 + N, D] (``hidden_states[-2]``)."""
        x = self.embed(patches, index)
        for layer in self.layers[:-1]:
            x = layer(x)
        return x

    def saliency(self, patches: Tensor, index: Tensor) -> Tensor:
        """[CLS] attention of the block that outputs the penultimate states, [B, N]."""
        x = self.embed(patches, index)
        for layer in self.layers[:-2]:
            x = layer(x)
        return self.layers[-2].cls_attention(x)


class TextTower(nn.Module):
    """CLIP's causal text transformer; pooled at the first ``</s>``."""

    def __init__(self, cfg: TowerConfig) -> None:
        super().__init__()
        self.embed = nn.Embedding(len(VOCABULARY), cfg.text_width)
        self.position = nn.Parameter(torch.randn(cfg.text_length, cfg.text_width) * 0.02)
        nn.init.normal_(self.embed.weight, std=0.3)
        self.layers = nn.ModuleList(
            Layer(cfg.text_width, cfg.text_heads, cfg.text_mlp, cfg.eps) for _ in range(cfg.text_layers)
        )
        self.norm = nn.LayerNorm(cfg.text_width, cfg.eps)

    def forward(self, ids: Tensor) -> Tensor:
        """ids [B, T] -> pooled [B, D]."""
        x = self.embed(ids) + self.position[: ids.shape[1]]
        for layer in self.layers:
            x = layer(x, causal=True)
        end = (ids == EOS).int().argmax(-1)
        return self.norm(x[torch.arange(len(ids), device=ids.device), end])


class CLIP(nn.Module):
    """Both towers and their projections; embeddings are L2-normalised."""

    def __init__(self, cfg: TowerConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.vision, self.text = VisionTower(cfg), TextTower(cfg)
        self.visual_projection = nn.Linear(cfg.width, cfg.projection, bias=False)
        self.text_projection = nn.Linear(cfg.text_width, cfg.projection, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(2.3))

    def project(self, states: Tensor) -> Tensor:
        """visual_projection(post_layernorm(states)), normalised: the path of the relevance cue."""
        return F.normalize(self.visual_projection(self.vision.post(states)), dim=-1)

    def image_embeds(self, penultimate: Tensor) -> Tensor:
        """Image embedding from the penultimate states through the last block, [B, P]."""
        return self.project(self.vision.layers[-1](penultimate, queries=1)[:, 0])

    def text_embeds(self, ids: Tensor) -> Tensor:
        return F.normalize(self.text_projection(self.text(ids)), dim=-1)


def patchify(pixels: Tensor) -> Tensor:
    """uint8 [B, S, S, 3] -> patches as bytes [B, 576, 192], channels first as in the convolution."""
    b = len(pixels)
    x = pixels.view(b, GRID, PATCH, GRID, PATCH, 3).permute(0, 1, 3, 5, 2, 4)
    return x.reshape(b, GRID * GRID, 3 * PATCH * PATCH)


def normalise(patches: Tensor) -> Tensor:
    """Patches as bytes [..., 192] -> as the tower takes them."""
    mean = torch.tensor(MEAN, device=patches.device).repeat_interleave(PATCH * PATCH)
    std = torch.tensor(STD, device=patches.device).repeat_interleave(PATCH * PATCH)
    return (patches.float() / 255 - mean) / std
