"""The embedded model answers in vLLM what it answers in transformers, question by question."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from kit import TOKENS, engine

from gridprune import GridPrune, prune
from gridprune.runtime import Loaded, load, prepare
from gridprune.tiny.data import Example, iter_examples
from gridprune.tiny.loading import weights_folder

QUESTIONS, KEEP = 120, 64
NEAR = 2e-3  # logits: two tokens nearer than this may change places between two implementations of one sum


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    return list(iter_examples("dev", QUESTIONS))


@pytest.fixture(scope="module")
def answers(examples: list[Example]) -> Iterator[list[list[int]]]:
    from vllm import SamplingParams

    with engine(weights_folder() / "llava", {"keep": KEEP}, max_num_batched_tokens=2048) as llm:
        inputs = [{"prompt": f"<image>{e.question}<ans>", "multi_modal_data": {"image": e.image}} for e in examples]
        outputs = llm.generate(inputs, SamplingParams(temperature=0, max_tokens=TOKENS), use_tqdm=False)
        yield [list(output.outputs[0].token_ids) for output in outputs]


@torch.no_grad()
def in_transformers(loaded: Loaded, example: Example) -> tuple[list[int], list[float]]:
    """Greedy tokens, and by how much each led over the second."""
    inputs = prepare(loaded, example.image, example.question)
    options: dict[str, Any] = {"return_dict_in_generate": True, "output_logits": True, "do_sample": False}
    with prune(loaded.model, GridPrune(keep=KEEP), processor=loaded.processor, clip=loaded.clip):
        output = loaded.model.generate(**inputs, max_new_tokens=TOKENS, **options)
    best = [step[0].topk(2).values for step in output.logits]
    return output.sequences[0, inputs["input_ids"].shape[1] :].tolist(), [float(two[0] - two[1]) for two in best]


def test_answers_question_by_question(examples: list[Example], answers: list[list[int]]) -> None:
    loaded = load("embedded")
    for example, found in zip(examples, answers, strict=True):
        expected, leads = in_transformers(loaded, example)
        if found != expected:  # only where transformers itself was undecided, at the first token that differs
            first = next(i for i, (a, b) in enumerate(zip(found, expected)) if a != b)
            assert leads[first] < NEAR, (example.question, found, expected, leads[first])
