"""Greedy answers for many questions behind few images: the visual prefix of a prompt is read once and shared.

A job is a *prefix* (everything up to the last visual token) and a *suffix* (the question). Prefixes of one length form
a batch, suffixes of about one length behind them another. Every row sees what `model.generate` would see at the same
positions, and differs from it only by the rounding of another batch size.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from ..compat import CACHE
from ..cues.chat import conversation, prompt_text, special_tokens_of
from ..families.base import Encoded, Family

_TOKENS = 32_000  # positions in the cache of one batch
_STEP = 6  # suffixes are padded to no more than the next multiple of this: few calls, little waste


@dataclass(frozen=True, eq=False)
class Prefix:
    """Attributes:
    ids: (L,) int64, prompt up to the last visual token, with as many placeholders as there are features.
    features: (m, D) visual embeddings.
    """

    ids: Tensor
    features: Tensor


@dataclass(frozen=True)
class Job:
    """Attributes:
    prefix: index into the list of prefixes.
    suffix: token ids of the rest of the prompt.
    """

    prefix: int
    suffix: tuple[int, ...]


class Decoder:
    """Greedy decoding with one loaded model of a family that counts positions 0, 1, 2, ..."""

    def __init__(self, family: Family, max_new_tokens: int) -> None:
        self.family = family
        self.model = family.model
        self.max_new_tokens = max_new_tokens
        self._config = self.model.config.get_text_config()
        ends = getattr(self.model.generation_config, "eos_token_id", None)
        ends = self._config.eos_token_id if ends is None else ends
        ends = ends if isinstance(ends, list) else [ends] if ends is not None else []
        self._ends = torch.tensor(ends, device="cpu")

    @torch.no_grad()
    def answer(self, prefixes: Sequence[Prefix], jobs: Sequence[Job], encoded: Encoded) -> list[list[int]]:
        """New token ids of every job, without the end token."""
        out: list[list[int]] = [[] for _ in jobs]
        behind: dict[int, list[int]] = defaultdict(list)
        for number, job in enumerate(jobs):
            behind[job.prefix].append(number)
        for members in _batches(prefixes, jobs, behind):
            cache = self.read([prefixes[i] for i in members], encoded)
            row_of = {prefix: row for row, prefix in enumerate(members)}
            buckets: dict[int, list[int]] = defaultdict(list)
            for prefix in members:
                for number in behind[prefix]:
                    buckets[-(-len(jobs[number].suffix) // _STEP)].append(number)
            for bucket in buckets.values():
                rows = torch.tensor([row_of[jobs[number].prefix] for number in bucket], device="cpu")
                suffixes = [jobs[number].suffix for number in bucket]
                for number, ids in zip(bucket, self._continue(self._take(cache, rows), suffixes)):
                    out[number] = ids
        return out

    def read(self, prefixes: Sequence[Prefix], encoded: Encoded) -> DynamicCache:
        """The cache after the prefixes, one row each."""
        cache = DynamicCache(config=self._config)
        features = self.family.handed_on(encoded, [prefix.features for prefix in prefixes], [], range(len(prefixes)))
        self.model(
            input_ids=torch.stack([prefix.ids for prefix in prefixes]).to(self.model.device),
            mm_encoder_outputs={self.family.modality: self.family.packed(features)},
            **{CACHE: cache},
            use_cache=True,
            logits_to_keep=1,
        )
        return cache

    def _continue(self, cache: DynamicCache, suffixes: Sequence[tuple[int, ...]]) -> list[list[int]]:
        """Greedy continuations behind `suffixes`, one per row of the cache; rows that end are taken out of the batch.

        Shorter suffixes are padded between prefix and suffix; a mask hides the padding and positions skip it.
        """
        device = self.model.device
        start, width = cache.get_seq_length(), max(map(len, suffixes))
        ids = torch.tensor([[0] * (width - len(suffix)) + list(suffix) for suffix in suffixes], device=device)
        real = torch.tensor([[0] * (width - len(suffix)) + [1] * len(suffix) for suffix in suffixes], device=device)
        mask = torch.cat([real.new_ones(len(suffixes), start), real], 1)
        positions = start + (real.cumsum(1) - 1).clamp(min=0)
        out: list[list[int]] = [[] for _ in suffixes]
        rows = torch.arange(len(suffixes), device="cpu")
        for step in range(self.max_new_tokens):
            logits = self.model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                **{CACHE: cache},
                use_cache=True,
                logits_to_keep=1,
            ).logits
            best = logits[:, -1].argmax(-1).cpu()
            going = ~torch.isin(best, self._ends)
            for row, token in zip(rows[going].tolist(), best[going].tolist()):
                out[row].append(token)
            if not bool(going.any()) or step + 1 == self.max_new_tokens:
                break
            rows, left = rows[going], going.nonzero()[:, 0].to(device)
            ids, positions = best[going][:, None].to(device), positions[left, -1:] + 1
            mask = torch.cat([mask[left], mask.new_ones(len(left), 1)], 1)
            if not bool(going.all()):
                cache = self._take(cache, left)
        return out

    def _take(self, cache: DynamicCache, rows: Tensor) -> DynamicCache:
        """A cache of some rows of another, which stays as it is."""
        rows = rows.to(self.model.device)
        layers: list[Any] = cache.layers
        return DynamicCache(
            [(layer.keys.index_select(0, rows), layer.values.index_select(0, rows)) for layer in layers],
            config=self._config,
        )


def _batches(prefixes: Sequence[Prefix], jobs: Sequence[Job], behind: dict[int, list[int]]) -> Iterator[list[int]]:
    """Prefixes of one length, as many as fit into the cache together with the jobs behind them."""
    by_length: dict[int, list[int]] = defaultdict(list)
    for index, prefix in enumerate(prefixes):
        if behind[index]:
            by_length[len(prefix.ids)].append(index)
    for length, members in by_length.items():
        batch: list[int] = []
        used = 0
        for index in members:
            size = length + sum(length + len(jobs[number].suffix) for number in behind[index])
            if batch and used + size > _TOKENS:
                yield batch
                batch, used = [], 0
            batch.append(index)
            used += size
        yield batch


def prompt_parts(processor: Any, question: str, image_token_id: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Token ids before and behind the image in the checkpoint's own prompt for one image and one question."""
    text = prompt_text(processor, conversation(question))
    ids = processor.tokenizer(text, **special_tokens_of(processor, text))["input_ids"]
    place = ids.index(image_token_id)
    return tuple(ids[:place]), tuple(ids[place + 1 :])
