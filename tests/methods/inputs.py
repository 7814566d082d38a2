"""Cues and token maps for the tests of methods: random, and adversarial ones whose arithmetic is exact."""

from __future__ import annotations

from dataclasses import replace

import torch

from gridprune.core.token_map import TokenMap
from gridprune.methods import Cues

KINDS = ("random", "duplicates", "constant", "fp16")
DEPTHS = (0.375, 5 / 24)


def cues(kind: str, batch: int, n: int, seed: int = 0, width: int = 16) -> Cues:
    """All cues of `batch` images of `n` tokens.

    random: Gaussian. constant: every token alike. fp16: half-precision features of the largest size. duplicates: few
    different features, of +-1 (cosines are multiples of 1/8, exact in fp32), and scores that tie.
    """
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g)

    def integers(low: int, high: int, *shape: int) -> torch.Tensor:
        return torch.randint(low, high, shape, generator=g)

    if kind == "duplicates":
        signs = integers(0, 2, batch, 7, width).float() * 2 - 1

        def features() -> torch.Tensor:
            return signs.gather(1, integers(0, 7, batch, n)[..., None].expand(-1, -1, width)).clone()

        def scores() -> torch.Tensor:
            return integers(1, 6, batch, n).float() / 64

        question = signs[:, :5].clone()
        words = integers(-3, 4, batch, 5, n).float() / 8
    elif kind == "constant":

        def features() -> torch.Tensor:
            return torch.ones(batch, n, width)

        def scores() -> torch.Tensor:
            return torch.full((batch, n), 0.125)

        question = torch.ones(batch, 5, width)
        words = torch.full((batch, 5, n), 0.25)
    else:
        scale = 2e4 if kind == "fp16" else 1.0

        def features() -> torch.Tensor:
            made = (normal(batch, n, width) + 0.5) * scale
            return made.clamp(-65000, 65000).half() if kind == "fp16" else made

        def scores() -> torch.Tensor:
            return normal(batch, n).mul(1.5).softmax(-1)

        question = normal(batch, 5, width)
        words = normal(batch, 5, n) * 0.1
    mask = torch.ones(batch, 5, dtype=torch.bool)
    mask[:, 3 + seed % 3 :] = False
    laplacian = scores() * 0.01
    heads = words[:, :4].clone().flip(-1)
    return Cues(
        relevance=(scores() - 0.05) * (0.5 if kind != "random" else 1.0),
        saliency=scores(),
        saliency_at={depth: scores() for depth in DEPTHS},
        features=features(),
        tower_features=features(),
        keys=features(),
        queries_cls=features()[:, 0] * (0.25 if kind != "fp16" else 1e-8),
        heads=1 if kind == "duplicates" else 4,
        word_relevance=words,
        word_mask=mask,
        question_embeds=question,
        question_mask=mask.clone(),
        head_relevance=heads,
        sensitivity=scores(),
        laplacian=torch.stack([laplacian, laplacian.square() + scores()], -1),
    )


def anyres() -> TokenMap:
    """A 4 x 4 overview and a 4 x 6 mosaic of two 4 x 3 tiles: planes 0 and 1, views 0, 1, 2; 40 tokens."""
    base, mosaic = TokenMap.from_grid(4, 4), TokenMap.from_grid(4, 6)
    both = {
        name: torch.cat([getattr(base, name), getattr(mosaic, name)])
        for name in ("row", "column", "frame", "separator", "boxes")
    }
    plane = torch.cat([torch.zeros(16), torch.ones(24)]).long()
    view = torch.cat([torch.zeros(16).long(), 1 + mosaic.column // 3])
    return TokenMap(**both, plane=plane, view=view, source=torch.arange(40)[:, None], grid=(4, 6))


def holes() -> TokenMap:
    """A 6 x 7 grid of which 30 tokens are left."""
    g = torch.Generator().manual_seed(5)
    return TokenMap.from_grid(6, 7).take(torch.randperm(42, generator=g)[:30].sort().values)


def video() -> TokenMap:
    """Three frames of 3 x 4 tokens."""
    return TokenMap.from_grid(3, 4, frames=3)


def skewed(batch: int, n: int, seed: int = 0, width: int = 16) -> Cues:
    """Cues as towers give them: a few tokens have nearly all attention, and all features share most of a direction.

    What a token adds to those chosen then falls by many orders of magnitude.
    """
    g = torch.Generator().manual_seed(seed)
    made = cues("random", batch, n, seed, width)
    words = torch.randn(batch, 5, n, generator=g) * 0.02
    features = 2 * torch.randn(batch, 1, width, generator=g) + 0.5 * torch.randn(batch, n, width, generator=g)
    return replace(
        made,
        saliency=(3 * torch.randn(batch, n, generator=g)).softmax(-1),
        relevance=words.mean(1),
        word_relevance=words,
        features=features,
        tower_features=features + 0.1 * torch.randn(batch, n, width, generator=g),
    )
