"""From encoded images to cues: only what the method asks for, images of one geometry stacked in one batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..compat import is_compiled
from ..core.graphs import each_tensor
from ..cues import embeddings
from ..cues.first_layer import head_relevance
from ..cues.sensitivity import sensitivity
from ..cues.structure import laplacian_moments
from ..cues.text_tower import TextTower
from ..cues.tower import Captured
from ..errors import MissingCueError, QuestionError, UnsupportedModelError
from ..families.base import CLIP_TEXT, EMBEDDINGS, Blocks, Encoded, Family, embedding_table
from ..families.parts import TowerLayout
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
        family.head_weights  # noqa: B018 - raises where there is no such layer, or weights of another
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
    with deciding(encoded.embeddings[0].device):
        look = Look.at(family, needs, encoded, images, questions, text)
        return cues_of(family, needs, look, encoded.maps[images[0]], images, text)


@dataclass(frozen=True, eq=False)
class Look:
    """The tensors that cues are made of, all on the tower's device.

    Attributes:
        captured: what was read of the tower, for all images of the call.
        parts: how that is cut into images.
        features: (B, N, D) projected embeddings of the candidates, if they are needed.
        crops: (V, 3, H, W) what the tower saw of all images, if it is needed.
        asked: what became of the questions. By the text tower: (B, E) "embedded", (B, T, E) "words" and (B, T)
            "word_mask"; by the language model's table: (B, M, D) "question_embeds" and (B, M) "question_mask".
    """

    captured: Captured
    parts: TowerLayout
    features: Tensor | None
    crops: Tensor | None
    asked: dict[str, Tensor]

    @classmethod
    def at(
        cls,
        family: Family,
        needs: Needs,
        encoded: Encoded,
        images: Sequence[int],
        questions: Sequence[str],
        text: TextSide,
    ) -> Look:
        """What the cues of some `images` of one geometry take.

        Raises:
            QuestionError: a question that guides the method is empty.
        """
        if needs.uses_text and not all(question.strip() for question in questions):
            raise QuestionError(
                "The question is empty, and this method is guided by it. Give question='...', or use a method without "
                "text."
            )
        read, wanted, features = wanted_blocks(family, needs, text), wanted_cues(family, needs, text), None
        token_map, device = encoded.maps[images[0]], encoded.embeddings[0].device
        if (wanted & _TEXT and not text.by_tower(family)) or wanted & {"features", "head_relevance"}:
            chosen = [encoded.embeddings[i] for i in images]
            if token_map.candidates is not token_map:
                chosen = [each[token_map.places_on(each.device)] for each in chosen]
            features = torch.stack(chosen)
        return cls(
            captured=encoded.captured.of(read.states, read.attention),
            parts=each_tensor(encoded.parts, lambda order: order.to(device)) if read != Blocks() else encoded.parts,
            features=features,
            crops=family.crops(encoded.vision) if "laplacian" in wanted else None,
            asked=_asked(wanted, family, questions, text, device),
        )


def _asked(
    needs: frozenset[str], family: Family, questions: Sequence[str], text: TextSide, device: torch.device
) -> dict[str, Tensor]:
    """See :attr:`Look.asked`."""
    asked: dict[str, Tensor] = {}
    by_tower = bool(needs & _TEXT) and text.by_tower(family)
    if needs & _FROM_IDS or (needs & _TEXT and not by_tower):
        words, mask = embeddings.question_embeds(questions, text.tokenizer, embedding_table(family.model))
        asked |= {"question_embeds": words, "question_mask": mask}
    if not by_tower:
        return asked
    assert text.clip is not None
    if "relevance" in needs:
        asked["embedded"] = torch.stack([text.clip.embed(question) for question in questions]).to(device)
    if "word_relevance" in needs:
        own = [text.clip.embed_words(question) for question in questions]
        longest = max(len(words) for words in own)
        padded = [torch.nn.functional.pad(words, (0, 0, 0, longest - len(words))) for words in own]
        lengths = torch.tensor([len(words) for words in own], device="cpu")
        asked["words"] = torch.stack(padded).to(device)
        asked["word_mask"] = (torch.arange(longest, device="cpu") < lengths[:, None]).to(device)
    return asked


def cues_of(
    family: Family, wanted: Needs, look: Look, token_map: TokenMap, images: Sequence[int], text: TextSide
) -> Cues:
    """The cues, by kernels alone: no value is read, and nothing copied to the device that is not there already.

    Args:
        token_map: the geometry of each of the `images`.
    """
    gather = _Gather(family, look, token_map, images)
    needs, found = wanted_cues(family, wanted, text), dict[str, Tensor]()
    by_embedding = bool(needs & _TEXT) and not text.by_tower(family)
    if "features" in needs or by_embedding or "head_relevance" in needs:
        assert look.features is not None
        found["features"] = look.features
    found |= _by_embedding(needs, look, family, by_embedding)
    if needs & _TEXT and not by_embedding:
        found |= _by_tower(needs, gather, text)
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
        head_weights=family.head_weights if "head_relevance" in needs else None,
        heads=gather.heads,
        images=len(images),
    )


def may_be_recorded(method: Method) -> bool:
    """Whether cues and decision are kernels alone; the sensitivity of the projector draws its directions on the CPU."""
    return method.graph_safe and "sensitivity" not in method.needs


def read_modules(family: Family, needs: Needs, text: TextSide) -> list[nn.Module | Tensor]:
    """Whose weights :func:`cues_of` reads."""
    found: list[nn.Module | Tensor] = []
    if needs.cues & _TEXT and text.by_tower(family):
        norm = family.tower.post_norm
        found += [*([] if norm is None else [norm]), *text.clip.patch_weights]  # type: ignore[union-attr]
    if "head_relevance" in needs.cues:
        found += [family.first_attention.norm, family.first_attention.attention]
    return found


def tower_features(family: Family, encoded: Encoded, image: int) -> Tensor:
    """Tower states of one image's candidates (N, C), as the projector reads them: with gradients, unlike the cue."""
    states = encoded.parts.states(encoded.captured, family.feature_block)[image]
    return pick(states[None], encoded.maps[image])[0]


class _Gather:
    """Tower values of some images, taken to their tokens."""

    def __init__(self, family: Family, look: Look, token_map: TokenMap, images: Sequence[int]) -> None:
        self.family, self.look, self.images, self.map = family, look, images, token_map
        self.heads = 1

    def states(self) -> Tensor:
        """(B, P, C)"""
        return self._stack(self.look.parts.states(self.look.captured, self.family.feature_block))

    def tower_features(self) -> Tensor:
        """(B, N, C)"""
        return pick(self.states(), self.map)

    def saliency(self, block: int) -> Tensor:
        """(B, N) fp32"""
        return pick(self._stack(self.look.parts.saliency(self.look.captured, block, self.family.tower)), self.map)

    def attention(self, needs: frozenset[str], block: int) -> dict[str, Tensor]:
        captured, parts, found = self.look.captured, self.look.parts, {}
        self.heads = captured.keys[block][0].shape[1]
        if "saliency" in needs:
            found["saliency"] = self.saliency(block)
        if "keys" in needs:
            found["keys"] = pick(self._stack(parts.keys(captured, block)), self.map)
        if "queries_cls" in needs:
            found["queries_cls"] = self._stack(parts.cls_queries(captured, block))
        return found

    def sensitivity(self) -> Tensor:
        """(B, N) fp32"""
        own = [sensitivity(self.family.project, states) for states in self.states()]
        return pick(torch.stack(own), self.map)

    def laplacian(self) -> Tensor:
        """(B, N, 2) fp32"""
        crops, side = self.look.crops, self.family.vision_config.patch_size
        assert crops is not None
        down, across = (side, side) if isinstance(side, int) else side
        moments = laplacian_moments(crops, crops.shape[-2] // down, crops.shape[-1] // across)  # [V, P, 2]
        return pick(self._stack(self.look.parts.of_crops(moments)), self.map)

    def _stack(self, per_image: list[Tensor]) -> Tensor:
        return torch.stack([per_image[i] for i in self.images])


def _by_embedding(needs: frozenset[str], look: Look, family: Family, relevance: bool) -> dict[str, Tensor]:
    """Cues by the language model's embeddings of the question; `relevance` as well if no text tower gives it."""
    if "question_embeds" not in look.asked:
        return {}
    words, mask = look.asked["question_embeds"], look.asked["question_mask"]
    cues = {"question_embeds": words, "question_mask": mask} if "question_embeds" in needs else {}
    if "head_relevance" in needs:
        assert look.features is not None
        cues["head_relevance"] = head_relevance(family.first_attention, look.features, words, mask)
    if relevance:
        assert look.features is not None
        by_word = embeddings.word_relevance(look.features, words)
        cues |= {"relevance": embeddings.relevance(by_word, mask), "word_relevance": by_word, "word_mask": mask}
    return cues


def _by_tower(needs: frozenset[str], gather: _Gather, text: TextSide) -> dict[str, Tensor]:
    assert text.clip is not None  # check_available ran before
    asked, cues = gather.look.asked, {}
    projected = text.clip.project_patches(gather.states(), gather.family.tower.post_norm)  # [B, P, E]
    if "relevance" in needs:
        cues["relevance"] = pick((projected @ asked["embedded"][:, :, None])[..., 0], gather.map)
    if "word_relevance" in needs:
        scores = asked["words"] @ projected.transpose(1, 2)  # [B, T, P]
        cues["word_relevance"] = pick(scores.transpose(1, 2), gather.map).transpose(1, 2)
        cues["word_mask"] = asked["word_mask"]
    return cues


def pick(values: Tensor, token_map: TokenMap) -> Tensor:
    """Tower values (B, P, ...) to candidate tokens (B, N, ...): the mean over the m patches of each."""
    source = token_map.candidates.once_on(values.device, "source", lambda: token_map.candidates.source)  # [N, m]
    return values[:, source[:, 0]] if source.shape[1] == 1 else values[:, source].mean(2)
