"""Gates of the model card: exact match by family, with all tokens or a chosen subset per question.

Teacher forcing: an answer counts when every one of its tokens and </s> is the arg-max, which is the same
as greedy exact match. This judges the model; ``gridprune eval`` judges pruning methods.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache

from gridprune.compat import CACHE
from gridprune.tiny.data import Example, iter_examples
from gridprune.tiny.forms import LLAVA, NEXT
from gridprune.tiny.loading import TinyModel
from gridprune.tiny.questions import KINDS
from gridprune.tiny.vocabulary import ANSWER, BOS, EOS, PAD, encode

from . import views

LADDERS: Mapping[str, tuple[int, ...]] = {LLAVA.name: (192, 128, 64, 32, 16, 8), NEXT.name: (640, 320, 160, 80)}


@dataclass(frozen=True)
class Cues:
    """What a selector may look at for one question, all [N]; ``noise`` is uniform and seeded."""

    evidence: Tensor
    relevance: Tensor
    saliency: Tensor
    noise: Tensor


Selector = Callable[[Cues], Tensor]  # a score per patch; the largest are kept
SELECTORS: Mapping[str, Selector] = {
    "oracle": lambda cues: cues.evidence.float() * 2 + cues.noise,
    "random": lambda cues: cues.noise,
    "cls": lambda cues: cues.saliency,
    "relevance": lambda cues: cues.relevance,
    "anti_oracle": lambda cues: cues.noise - cues.evidence.float() * 2,
}


@dataclass(frozen=True)
class Question:
    """One example prepared for scoring: projected visual tokens [N, D] shared by a scene, and cues."""

    example: Example
    tokens: Tensor
    cues: Cues


@torch.no_grad()
def prepare(tiny: TinyModel, examples: Sequence[Example], *, seed: int = 0) -> list[Question]:
    """Vision pass (one per scene), relevance and saliency of every example."""
    out: list[Question] = []
    generator = torch.Generator().manual_seed(seed)
    usual = tiny.clip.config._attn_implementation
    tiny.clip.set_attn_implementation("eager")  # the only one that returns attention weights
    scene, tokens, states, saliency = -1, torch.empty(0), torch.empty(0), torch.empty(0)
    for example in examples:
        if example.scene != scene:
            scene = example.scene
            pixels = tiny.processor.image_processor(images=example.image, return_tensors="pt")["pixel_values"]
            pixels = pixels.flatten(0, -4)  # [V, 3, 192, 192]
            seen = tiny.clip.vision_model(pixel_values=pixels, output_hidden_states=True, output_attentions=True)
            hidden = views.in_order(seen.hidden_states[-2][:, 1:], tiny.form)
            states = tiny.clip.visual_projection(tiny.clip.vision_model.post_layernorm(hidden))
            saliency = views.in_order(seen.attentions[-2][:, :, 0, 1:].mean(1), tiny.form)
            tokens = tiny.model.model.multi_modal_projector(hidden)
        ids = tiny.clip_tokenizer(example.question, return_tensors="pt")
        pooled = tiny.clip.text_model(**ids).pooler_output
        text = tiny.clip.text_projection(pooled)[0]
        relevance = F.cosine_similarity(states, text[None], dim=-1)
        evidence = torch.from_numpy(views.evidence(example.boxes, tiny.form))
        noise = torch.rand(len(tokens), generator=generator)
        out.append(Question(example, tokens, Cues(evidence, relevance, saliency, noise)))
    tiny.clip.set_attn_implementation(usual)
    return out


def kept(question: Question, selector: Selector, keep: int) -> Tensor:
    """Ascending patch numbers."""
    return selector(question.cues).topk(keep).indices.sort().values


def recall(question: Question, index: Tensor) -> float | None:
    """Share of the evidence patches that are kept; None when the question has no evidence."""
    evidence = question.cues.evidence
    return (evidence[index].sum() / evidence.sum()).item() if evidence.any() else None


def _rows(questions: Sequence[Question]) -> tuple[Tensor, list[tuple[int, list[int]]]]:
    """Right-padded ids of question and answer, and for each where its answer starts and what it is."""
    texts = [[*encode(q.example.question), ANSWER] for q in questions]
    answers = [[*encode(q.example.answer), EOS] for q in questions]
    rows = [text + answer[:-1] for text, answer in zip(texts, answers, strict=True)]
    width = max(map(len, rows))
    ids = torch.tensor([row + [PAD] * (width - len(row)) for row in rows])
    return ids, [(len(text) - 1, answer) for text, answer in zip(texts, answers, strict=True)]


def _hits(guess: Tensor, wanted: Sequence[tuple[int, list[int]]]) -> list[bool]:
    return [
        row[first : first + len(answer)].tolist() == answer for row, (first, answer) in zip(guess, wanted, strict=True)
    ]


@torch.no_grad()
def score(
    tiny: TinyModel, questions: Sequence[Question], chosen: Sequence[Tensor] | None, *, batch: int = 32
) -> list[bool]:
    """Exact match of every question on its chosen tokens (None: all of them)."""
    if chosen is None:
        return _score_full(tiny, questions)
    language, head = tiny.model.model.language_model, tiny.model.lm_head
    embed = language.get_input_embeddings()
    out: list[bool] = []
    for start in range(0, len(questions), batch):
        part = questions[start : start + batch]
        ids, wanted = _rows(part)
        seen = [prefix(tiny, q, index) for q, index in zip(part, chosen[start : start + batch], strict=True)]
        rows = [torch.cat([visual, embed(row)]) for visual, row in zip(seen, ids, strict=True)]
        inputs = pad_sequence(rows, batch_first=True)  # right padding needs no mask under causal attention
        hidden = language(inputs_embeds=inputs, use_cache=False).last_hidden_state
        text = [states[len(visual) :][: ids.shape[1]] for states, visual in zip(hidden, seen, strict=True)]
        out += _hits(head(torch.stack(text)).argmax(-1), wanted)
    return out


def prefix(tiny: TinyModel, question: Question, index: Tensor) -> Tensor:
    """Embeddings of <s> and of the chosen visual tokens, with LLaVA-NeXT's newlines between them, [P, D]."""
    bos = tiny.model.model.language_model.get_input_embeddings().weight[BOS][None]
    number = torch.from_numpy(views.with_newlines(index.numpy(), tiny.form))
    tokens = question.tokens[number.clamp(min=0)]
    if tiny.form.tiles:
        tokens = torch.where(number[:, None] < 0, tiny.model.model.image_newline, tokens)
    return torch.cat([bos, tokens])


def _score_full(tiny: TinyModel, questions: Sequence[Question]) -> list[bool]:
    """All tokens: one prefill of the image for the questions of a scene."""
    language, head = tiny.model.model.language_model, tiny.model.lm_head
    embed = language.get_input_embeddings()
    out: list[bool] = []
    for _, group in groupby(questions, key=lambda q: q.example.scene):
        part = list(group)
        ids, wanted = _rows(part)
        everything = prefix(tiny, part[0], torch.arange(len(part[0].tokens)))
        cache = DynamicCache()
        language(inputs_embeds=everything[None], **{CACHE: cache}, use_cache=True)
        cache.batch_repeat_interleave(len(part))
        hidden = language(inputs_embeds=embed(ids), **{CACHE: cache}, use_cache=True).last_hidden_state
        out += _hits(head(hidden).argmax(-1), wanted)
    return out


def by_kind(questions: Sequence[Question], hits: Sequence[bool]) -> dict[str, float]:
    """Accuracy by family; ``mean`` is the mean over the gated families (all but the description)."""
    table: dict[str, list[bool]] = {}
    for question, hit in zip(questions, hits, strict=True):
        table.setdefault(question.example.kind, []).append(hit)
    out = {family: sum(table[family]) / len(table[family]) for family in KINDS if family in table}
    gated = [value for family, value in out.items() if family != "describe"]
    return {**out, "mean": sum(gated) / len(gated)}


def evaluate(
    tiny: TinyModel,
    split: str,
    n_questions: int,
    *,
    scene_seed: int = 0,
    keeps: Sequence[int] | None = None,
    selectors: Sequence[str] = ("oracle", "random", "cls", "relevance"),
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, object]:
    """Accuracy with all tokens, then by selector and number of kept tokens, with evidence recall.

    ``scene_seed`` gives another set of scenes of the split: one that nothing was chosen on is left for final numbers.
    ``keeps`` is by default the ladder of the model's form.
    """
    keeps = keeps or LADDERS[tiny.form.name]
    questions = prepare(tiny, list(iter_examples(split, n_questions, seed=scene_seed, form=tiny.form.name)))
    full = by_kind(questions, score(tiny, questions, None))
    report(f"full {full}")
    rows = []
    for name in selectors:
        for keep in keeps:
            index = [kept(q, SELECTORS[name], keep) for q in questions]
            recalls = [r for q, i in zip(questions, index, strict=True) if (r := recall(q, i)) is not None]
            families = by_kind(questions, score(tiny, questions, index, batch=64 if keep <= 192 else 16))
            row = {"method": name, "keep": keep, "evidence_recall": sum(recalls) / len(recalls), "families": families}
            rows.append(row)
            report(f"{name} {keep}: mean {families['mean']:.3f} recall {row['evidence_recall']:.3f}")
    return {"split": split, "scene_seed": scene_seed, "n": n_questions, "full": full, "rows": rows}
