"""From encoded pictures to cues: only what the method asks for, images of one geometry stacked in one batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import MissingCueError, QuestionError
from ..methods.base import Cues, Method
from .clip_text import ClipText

if TYPE_CHECKING:
    from ..families.base import Encoded, Family

_FROM_TOWER_STATE = frozenset({"relevance", "word_relevance", "tower_features"})
_FROM_ATTENTION = frozenset({"saliency", "keys", "queries_cls"})
_FROM_QUESTION = frozenset({"relevance", "word_relevance", "question_embeds"})


def wanted_blocks(family: Family, method: Method) -> tuple[set[int], set[int]]:
    """Tower blocks whose output, and whose queries and keys, must be captured for `method`."""
    states, attention = set(), set()
    if method.needs & _FROM_TOWER_STATE:
        states.add(family.feature_block)
    if method.needs & _FROM_ATTENTION:
        attention.add(family.tower.block(family.tower.saliency_block))
    attention.update(family.tower.block_at(depth) for depth in method.saliency_depths)
    return states, attention


def needs_question(method: Method) -> bool:
    """Whether a question must be known before `method` can select."""
    return bool(method.needs & _FROM_QUESTION)


def check_available(family: Family, method: Method, clip: ClipText | None) -> None:
    """Raise a :class:`MissingCueError` that names the remedy if `method` needs what this model cannot give."""
    wanted_blocks(family, method)
    if method.needs & {"relevance", "word_relevance"} and clip is None:
        raise MissingCueError(
            f"The method {method.name!r} compares the question with the picture, and {type(family.model).__name__} holds "
            "only the vision half of CLIP. Give the text half: prune(..., clip='openai/clip-vit-large-patch14-336'), a "
            "folder with the CLIP your tower was taken from, or a side folder written once by `gridprune export-clip`. "
            "Methods that need no text, such as 'fastervlm', run without it."
        )


def collect(
    family: Family,
    method: Method,
    encoded: Encoded,
    images: Sequence[int],
    questions: Sequence[str],
    clip: ClipText | None,
) -> Cues:
    """The cues of some `images` of one geometry (same token map), batched in that order.

    Args:
        questions: one per entry of `images`; read only if the method needs them.
    """
    needs = method.needs
    token_map = encoded.maps[images[0]]
    source = token_map.candidates.source  # [N, m]
    found: dict[str, Tensor] = {}
    if "features" in needs:
        positions = token_map.candidate_positions
        found["features"] = torch.stack(
            [encoded.embeddings[i][positions.to(encoded.embeddings[i].device)] for i in images]
        )
    if needs & _FROM_TOWER_STATE:
        prefix = family.tower.prefix
        states = encoded.captured.states[family.feature_block]  # [V, S, C]
        patches = torch.stack([states[encoded.views[i], prefix:].flatten(0, 1) for i in images])  # [B, P, C]
        _from_states(found, needs, patches, source, questions, family, clip)
    if needs & _FROM_ATTENTION:
        block = family.tower.block(family.tower.saliency_block)
        _from_attention(found, needs, family, encoded, images, source, block)
    saliency_at = {
        depth: _saliency(family, encoded, images, source, family.tower.block_at(depth))
        for depth in method.saliency_depths
    }
    if "question_embeds" in needs:
        found |= family.question_embeds(questions)  # type: ignore[attr-defined]
    sign = clip.relevance_sign if clip else 1
    return Cues(**found, saliency_at=saliency_at, relevance_sign=sign, images=len(images))


def _from_states(
    found: dict[str, Tensor],
    needs: frozenset[str],
    patches: Tensor,
    source: Tensor,
    questions: Sequence[str],
    family: Family,
    clip: ClipText | None,
) -> None:
    if "tower_features" in needs:
        found["tower_features"] = pick(patches, source)
    if not needs & {"relevance", "word_relevance"}:
        return
    assert clip is not None  # check_available ran before
    if any(not question.strip() for question in questions):
        raise QuestionError(
            "The question is empty, and this method is guided by it. Give question='...', or use a method without text."
        )
    projected = clip.project_patches(patches, family.tower.post_norm)  # [B, P, E]
    if "relevance" in needs:
        text = torch.stack([clip.embed(question) for question in questions]).to(projected.device)  # [B, E]
        found["relevance"] = pick((projected @ text[:, :, None])[..., 0], source)
    if "word_relevance" in needs:
        words = [clip.embed_words(question).to(projected.device) for question in questions]
        longest = max(len(w) for w in words)
        padded = torch.stack([torch.nn.functional.pad(w, (0, 0, 0, longest - len(w))) for w in words])  # [B, T, E]
        scores = padded @ projected.transpose(1, 2)  # [B, T, P]
        found["word_relevance"] = pick(scores.transpose(1, 2), source).transpose(1, 2)
        found["word_mask"] = torch.arange(longest)[None] < torch.tensor([len(w) for w in words])[:, None]


def _from_attention(
    found: dict[str, Tensor],
    needs: frozenset[str],
    family: Family,
    encoded: Encoded,
    images: Sequence[int],
    source: Tensor,
    block: int,
) -> None:
    if "saliency" in needs:
        found["saliency"] = _saliency(family, encoded, images, source, block)
    prefix = family.tower.prefix
    if "keys" in needs:
        keys = encoded.captured.keys[block]
        found["keys"] = pick(torch.stack([keys[encoded.views[i], prefix:].flatten(0, 1) for i in images]), source)
    if "queries_cls" in needs:
        queries = encoded.captured.queries[block]
        found["queries_cls"] = torch.stack([queries[encoded.views[i], 0].mean(0) for i in images])


def _saliency(family: Family, encoded: Encoded, images: Sequence[int], source: Tensor, block: int) -> Tensor:
    attention = family.tower.cls_attention(encoded.captured, block)  # [V, P]
    return pick(torch.stack([attention[encoded.views[i]].flatten() for i in images]), source)


def pick(values: Tensor, source: Tensor) -> Tensor:
    """Tower values (B, P, ...) to tokens (B, N, ...): the mean over the m patches merged into each; `source` is (N, m)."""
    source = source.to(values.device)
    return values[:, source[:, 0]] if source.shape[1] == 1 else values[:, source].mean(2)
