"""Relevance without a text tower: visual tokens against the language model's own input embeddings of the question.

Both live in the space the language model reads: the relevance of a token is its mean cosine with the question's tokens,
larger meaning more relevant (the recipe of OpenVINO GenAI's pruner). It works with any model and needs no extra
weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..compat import device_of
from ..core.reading import Reading
from ..errors import QuestionError

READING: Reading = "plus"


def question_embeds(questions: Sequence[str], tokenizer: Any, table: nn.Module) -> tuple[Tensor, Tensor]:
    """(B, M, D) input embeddings of the questions' tokens, no special ones, and (B, M) bool which of them exist."""
    ids = [list(tokenizer(question, add_special_tokens=False)["input_ids"]) for question in questions]
    if not all(ids):
        raise QuestionError(
            "The question is empty, and this method is guided by it. Give question='...', or use a method without text."
        )
    longest = max(len(row) for row in ids)
    device = device_of(table)
    padded = torch.tensor([row + [row[0]] * (longest - len(row)) for row in ids], device=device)
    lengths = torch.tensor([len(row) for row in ids], device="cpu")
    mask = torch.arange(longest, device="cpu") < lengths[:, None]
    return table(padded), mask.to(device)


def word_relevance(features: Tensor, words: Tensor) -> Tensor:
    """(B, M, N) fp32 cosines of question tokens (B, M, D) with visual tokens (B, N, D)."""
    words = nn.functional.normalize(words.to(features.device).float(), dim=-1)
    return words @ nn.functional.normalize(features.float(), dim=-1).transpose(1, 2)


def relevance(by_word: Tensor, mask: Tensor) -> Tensor:
    """(B, N) fp32, the mean over the question's tokens."""
    weight = mask.to(by_word.device).float()[..., None]
    return (by_word * weight).sum(1) / weight.sum(1)
