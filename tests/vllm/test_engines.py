"""What vLLM answers is what transformers answers with the same kept tokens: on every architecture and both of vLLM's
runners, however scheduled.

The engines batch at most 128 tokens, so prompts are computed in chunks and images go through the tower in batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from kit import TOKENS, Reference, Request, ask, engine, tokens
from models import CASES, TEXT, Case, image, words

from gridprune.vllm.settings import PruneRequest


class Side(NamedTuple):
    """An engine, and what transformers says."""

    case: Case
    llm: Any
    reference: Reference

    def ask(self, requests: list[Request]) -> list[Any]:
        return ask(self.llm, [self.reference.prompt(request) for request in requests], requests)

    def expected(self, requests: list[Request]) -> list[list[int]]:
        return [self.reference.tokens(request) for request in requests]


@pytest.fixture(scope="module", params=[f"{case.name} {runner}" for case in CASES.values() for runner in case.runners])
def side(request: pytest.FixtureRequest, checkpoint: Callable[[str], Path]) -> Iterator[Side]:
    name, runner = request.param.split()
    case = CASES[name]
    folder = checkpoint(case.name)
    with engine(folder, {"keep": case.keeps[0]}, runner, max_num_batched_tokens=128, enable_mm_embeds=True) as llm:
        yield Side(case, llm, Reference(folder, keep=case.keeps[0]))


def test_mixed_budgets_in_one_batch_cold_and_warm(side: Side) -> None:
    requests = [
        Request([image(i, size)], [words(question)], keep)
        for i, size in enumerate(side.case.sizes)
        for question in (0, 1)
        for keep in (None, *side.case.keeps[1:])
    ]
    expected = side.expected(requests)
    assert len({tuple(each) for each in expected}) > len(expected) // 2  # the answers depend on what is asked
    assert tokens(side.ask(requests)) == expected
    assert tokens(side.ask(requests[::-1])) == expected[::-1]


def test_several_images_and_turns_with_prefix_hits(side: Side) -> None:
    """A later turn is guided by its own question; if it names the earlier one, it finds all before it in the cache."""
    images = [image(7, side.case.sizes[0]), image(8, side.case.sizes[-1])]
    first = Request(images, [words(2, 140)])
    later = Request(images, [*first.turns, words(3, 20), words(4)])
    same = Request(images, later.turns, question=first.turns[0])
    cold, again, warm = (side.ask([request])[0] for request in (first, later, same))
    assert tokens([cold, again, warm]) == side.expected([first, later, same])
    assert again.num_cached_tokens < 128 <= warm.num_cached_tokens


def test_question_of_the_request_and_images_kept_whole(side: Side) -> None:
    shown = [image(9, side.case.sizes[0])]
    requests = [Request(shown, [words(5)], question=words(6)), Request(shown, [words(5)], keep="100%")]
    assert tokens(side.ask(requests)) == side.expected(requests)


def test_embeddings_of_the_client_pass_unpruned(side: Side) -> None:
    """What transformers makes of an image, given in its place beside a pruned one: as if it were kept whole."""
    if not side.case.embeddings:
        pytest.skip("vLLM takes none for this architecture")
    from vllm import SamplingParams

    shown, sent = image(14, side.case.sizes[0]), Request([image(15, side.case.sizes[0])], [words(15)], "100%")
    pruned = Request([shown], [words(14)])
    vision = side.reference.processor.image_processor(images=list(sent.images), return_tensors="pt")
    with torch.no_grad():
        encoded = side.reference.model.model.get_image_features(**vision, return_dict=True)
    deeper = getattr(encoded, "deepstack_features", None) or ()  # by level, then by image
    levels = [torch.cat([part.flatten(0, -2) for part in level]) for level in (encoded.pooler_output, *deeper)]
    values = torch.cat(levels, dim=-1)
    grid = vision.get("image_grid_thw")
    given = [
        {"prompt": side.reference.prompt(pruned), "multi_modal_data": {"image": shown}},
        {
            "prompt": side.reference.prompt(sent),
            "multi_modal_data": {
                "image": values[None] if grid is None else {"image_embeds": values, "image_grid_thw": grid}
            },
        },
    ]
    sampling = SamplingParams(temperature=0, max_tokens=TOKENS, ignore_eos=True)
    assert tokens(side.llm.generate(given, sampling, use_tqdm=False)) == side.expected([pruned, sent])


def test_kept_tokens_may_stand_further_apart_than_they_are_many(side: Side) -> None:
    """Positions of a pruned prompt grow faster than its length: the tables of rotary positions are as long as vLLM
    makes them for its own sampling of videos, four times what the checkpoint was trained with."""
    (lengths,) = side.llm.apply_model(_lengths)
    assert lengths == ([4 * TEXT["max_position_embeddings"]] if side.case.name.startswith("qwen") else [])


def _lengths(model: torch.nn.Module) -> list[int]:
    return sorted({m.cache_max_position_num for m in model.modules() if hasattr(m, "cache_max_position_num")})


def test_hash_without_the_question_gives_wrong_answers(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: were the question left out of the hash, the caches would serve the wrong tokens."""
    shown = [image(10, side.case.sizes[0])]
    requests = [Request(shown, [words(question)]) for question in (11, 12, 13)]
    expected = side.expected(requests)
    with monkeypatch.context() as patch:
        patch.setattr(PruneRequest, "identity", lambda self: str(self.budget))
        wrong = [tokens(side.ask([request]))[0] for request in requests]
    assert wrong[0] == expected[0]
    assert wrong[1:] != expected[1:]
    assert tokens(side.ask(requests)) == expected
