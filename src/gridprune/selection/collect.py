"""From encoded images to cues: only what the method asks for, images of one geometry stacked in one batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..compat import is_compiled
from ..cues import embeddings
from ..cues.first_layer import head_relevance
from ..cues.sensitivity import sensitivity
from ..cues.structure import laplacian_moments
from ..cues.text_tower import TextTower
from ..errors import MissingCueError, QuestionError, UnsupportedModelError
from ..families.base import CLIP_TEXT, EMBEDDINGS, Blocks, Encoded, Family, embedding_table
from ..methods.base import Cues, Method, Needs
from ..methods.checks import deciding

if TYPE_CHECKING:
    from ..core.token_map import TokenMap

_TEXT = frozenset({"relevance", "word_relevance"})
_FROM_IDS = frozenset({"question_embeds", "head_relevance"})
_FROM_ATTENTION = frozenset({"saliency", "keys", "queries_cls"})


@dataclass(frozen=True)
class TextSide:
    """What questions are compared with images by: the vision tower's text half, or the language model's tokenizer."""

    clip: TextTower | None = None
    tokenizer: Any = None

    def by_tower(self, family: Family) -> bool:
        """Whether relevance comes from a text tower, and not from the language model's embeddings."""
        return self.clip is not None and self.clip.source == family.text_tower


def wanted_cues(family: Family, needs: Needs, text: TextSide) -> frozenset[str]:
    """Names of the cues of `needs`, and saliency where the text tower's relevance is read by agreement with it."""
    agrees = bool(needs.cues & _TEXT) and text.by_tower(family) and text.clip.reading == "agree"  # type: ignore[union-attr]
    return needs.cues | {"saliency"} if agrees else needs.cues


def wanted_blocks(family: Family, needs: Needs, text: TextSide) -> Blocks:
    """Tower blocks that must be read for `needs`."""
    states, attention, cues = set(), set(), wanted_cues(family, needs, text)
    if cues & {"tower_features", "sensitivity"} or (cues & _TEXT and family.text_tower):
        states.add(family.feature_block)
    if cues & _FROM_ATTENTION:
        attention.add(family.tower.block(family.tower.saliency_block))
    attention.update(family.tower.block_at(depth) for depth in needs.saliency_depths)
    return Blocks(frozenset(states), frozenset(attention))


def check_available(family: Family, method: Method, text: TextSide) -> None:
    """Raise a :class:`MissingCueError` that names the remedy if `method` needs what this model cannot give."""
    read = wanted_blocks(family, Needs.of(method), text)
    model = type(family.model).__name__
    if (read.states or read.attention) and is_compiled(family.tower.module):
        raise UnsupportedModelError(
            f"The vision tower of {model} is compiled, so hooks on it do not run and it cannot be read. Leave it as it "
            "is and compile the language model, or use a method that needs no cue of the tower, such as 'divprune'."
        )
    if "queries_cls" in method.needs and family.tower.saliency != "cls":
        raise MissingCueError(
            f"The method {method.name!r} reads the query of [CLS], and the vision tower of {model} has no [CLS]. Use a "
            "method that needs saliency only, such as 'fastervlm': attention received takes the place of [CLS] there."
        )
    if method.needs & _TEXT and family.relevance == CLIP_TEXT and not text.by_tower(family):
        raise MissingCueError(
            f"The method {method.name!r} compares the question with the image, and {model} holds "
            "only the vision half of CLIP. Give the text half: prune(..., clip='openai/clip-vit-large-patch14-336'), a "
            "folder with the CLIP your tower was taken from, or a side folder written once by `gridprune export-clip`. "
            "Methods that need no text, such as 'fastervlm', run without it."
        )
    if "sensitivity" in method.needs and type(family).project is Family.project:
        raise MissingCueError(
            f"The method {method.name!r} asks how the projector answers to each token, and that of {model} fuses "
            "neighbouring patches. Use another method without text, such as 'divprune'."
        )
    if "head_relevance" in method.needs:
        family.first_attention  # noqa: B018 - raises where there is none
    from_ids = method.needs & _FROM_IDS or (method.needs & _TEXT and not text.by_tower(family))
    if from_ids and text.tokenizer is None:
        raise MissingCueError(
            f"The method {method.name!r} compares visual tokens with the question's tokens as {model} embeds "
            f"them. Give processor=... (the model's processor or tokenizer), also if you give the question yourself."
        )


def collect(
    family: Family, needs: Needs, encoded: Encoded, images: Sequence[int], questions: Sequence[str], text: TextSide
) -> Cues:
    """The cues of some `images` of one geometry (same token map), batched in that order.

    Args:
        questions: one per entry of `images`; read only if they are needed.
    """
    if needs.uses_text and not all(question.strip() for question in questions):
        raise QuestionError(
            "The question is empty, and this method is guided by it. Give question='...', or use a method without text."
        )
    with deciding(encoded.embeddings[0].device):
        return _collect(needs, _Gather(family, encoded, images), questions, text)


def _collect(wanted: Needs, gather: _Gather, questions: Sequence[str], text: TextSide) -> Cues:
    family = gather.family
    needs, found = wanted_cues(family, wanted, text), dict[str, Tensor]()
    by_embedding = bool(needs & _TEXT) and not text.by_tower(family)
    if by_embedding or needs & {"features", "head_relevance"}:
        found["features"] = gather.features()
    if by_embedding or needs & _FROM_IDS:
        found |= _by_embedding(needs, found, questions, family, text)
    if needs & _TEXT and not by_embedding:
        found |= _by_tower(needs, gather, questions, text)
    if "tower_features" in needs:
        found["tower_features"] = gather.tower_features()
    if needs & _FROM_ATTENTION:
        found |= gather.attention(needs, family.tower.block(family.tower.saliency_block))
    if "sensitivity" in needs:
        found["sensitivity"] = gather.sensitivity()
    if "laplacian" in needs:
        found["laplacian"] = gather.laplacian()
    saliency_at = {depth: gather.saliency(family.tower.block_at(depth)) for depth in wanted.saliency_depths}
    reading, source = embeddings.READING, EMBEDDINGS
    if text.clip is not None and not by_embedding:
        reading, source = text.clip.reading, text.clip.source
    return Cues(
        **found,
        saliency_at=saliency_at,
        reading=reading,
        relevance_source=source if needs & _TEXT else "",
        heads=gather.heads,
        images=len(gather.images),
    )


def tower_features(family: Family, encoded: Encoded, image: int) -> Tensor:
    """Tower states of one image's candidates (N, C), as the projector reads them: with gradients, unlike the cue."""
    return _Gather(family, encoded, [image]).tower_features()[0]


class _Gather:
    """Tower values of some images, taken to their tokens."""

    def __init__(self, family: Family, encoded: Encoded, images: Sequence[int]) -> None:
        self.family, self.encoded, self.images = family, encoded, images
        self.map: TokenMap = encoded.maps[images[0]]
        self.source = self.map.candidates.source  # [N, m]
        self.heads = 1

    def features(self) -> Tensor:
        """(B, N, D)"""
        chosen = [self.encoded.embeddings[i] for i in self.images]
        return torch.stack([each[self.map.candidate_positions.to(each.device)] for each in chosen])

    def states(self) -> Tensor:
        """(B, P, C)"""
        return self._stack(self.encoded.parts.states(self.encoded.captured, self.family.feature_block))

    def tower_features(self) -> Tensor:
        """(B, N, C)"""
        return pick(self.states(), self.source)

    def saliency(self, block: int) -> Tensor:
        """(B, N) fp32"""
        per_patch = self.encoded.parts.saliency(self.encoded.captured, block, self.family.tower)
        return pick(self._stack(per_patch), self.source)

    def attention(self, needs: frozenset[str], block: int) -> dict[str, Tensor]:
        captured, found = self.encoded.captured, {}
        self.heads = captured.keys[block][0].shape[1]
        if "saliency" in needs:
            found["saliency"] = self.saliency(block)
        if "keys" in needs:
            found["keys"] = pick(self._stack(self.encoded.parts.keys(captured, block)), self.source)
        if "queries_cls" in needs:
            found["queries_cls"] = self._stack(self.encoded.parts.cls_queries(captured, block))
        return found

    def sensitivity(self) -> Tensor:
        """(B, N) fp32"""
        own = [sensitivity(self.family.project, states) for states in self.states()]
        return pick(torch.stack(own), self.source)

    def laplacian(self) -> Tensor:
        """(B, N, 2) fp32"""
        crops, side = self.family.crops(self.encoded.vision), self.family.vision_config.patch_size
        down, across = (side, side) if isinstance(side, int) else side
        moments = laplacian_moments(crops, crops.shape[-2] // down, crops.shape[-1] // across)  # [V, P, 2]
        return pick(self._stack(self.encoded.parts.of_crops(moments)), self.source)

    def _stack(self, per_image: list[Tensor]) -> Tensor:
        return torch.stack([per_image[i] for i in self.images])


def _by_embedding(
    needs: frozenset[str], found: dict[str, Tensor], questions: Sequence[str], family: Family, text: TextSide
) -> dict[str, Tensor]:
    words, mask = embeddings.question_embeds(questions, text.tokenizer, embedding_table(family.model))
    cues = {"question_embeds": words, "question_mask": mask} if "question_embeds" in needs else {}
    if "head_relevance" in needs:
        cues["head_relevance"] = head_relevance(family.first_attention, found["features"], words, mask)
    if needs & _TEXT and not text.by_tower(family):
        by_word = embeddings.word_relevance(found["features"], words)
        cues |= {"relevance": embeddings.relevance(by_word, mask), "word_relevance": by_word, "word_mask": mask}
    return cues


def _by_tower(needs: frozenset[str], gather: _Gather, questions: Sequence[str], text: TextSide) -> dict[str, Tensor]:
    assert text.clip is not None  # check_available ran before
    projected = text.clip.project_patches(gather.states(), gather.family.tower.post_norm)  # [B, P, E]
    cues = {}
    if "relevance" in needs:
        embedded = torch.stack([text.clip.embed(question) for question in questions]).to(projected.device)  # [B, E]
        cues["relevance"] = pick((projected @ embedded[:, :, None])[..., 0], gather.source)
    if "word_relevance" in needs:
        words = [text.clip.embed_words(question).to(projected.device) for question in questions]
        longest = max(len(w) for w in words)
        padded = torch.stack([torch.nn.functional.pad(w, (0, 0, 0, longest - len(w))) for w in words])  # [B, T, E]
        scores = padded @ projected.transpose(1, 2)  # [B, T, P]
        cues["word_relevance"] = pick(scores.transpose(1, 2), gather.source).transpose(1, 2)
        lengths = torch.tensor([len(w) for w in words], device="cpu")
        cues["word_mask"] = (torch.arange(longest, device="cpu") < lengths[:, None]).to(projected.device)
    return cues


def pick(values: Tensor, source: Tensor) -> Tensor:
    """Tower values (B, P, ...) to tokens (B, N, ...): the mean over the m patches of each; `source` is (N, m)."""
    source = source.to(values.device)
    return values[:, source[:, 0]] if source.shape[1] == 1 else values[:, source].mean(2)
