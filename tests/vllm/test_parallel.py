"""Tensor parallelism: two ranks choose the same tokens as one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from kit import Reference, Request, Runner, ask, engine, tokens
from models import CASES, image, words


@pytest.mark.parametrize(("name", "runner"), [("llava", "v1"), ("qwen2.5-vl", "v2")])
def test_two_ranks(checkpoint: Callable[[str], Path], name: str, runner: Runner) -> None:
    case, folder = CASES[name], checkpoint(name)
    reference = Reference(folder, keep=case.keeps[0])
    requests = [
        Request([image(i, case.sizes[i % 2])], [words(i % 3)], keep)
        for i, keep in enumerate([None, *case.keeps[1:], None, "100%"])
    ]
    two = {"tensor_parallel_size": 2, "distributed_executor_backend": "mp"}
    with engine(folder, {"keep": case.keeps[0]}, runner, **two) as llm:
        found = tokens(ask(llm, [reference.prompt(request) for request in requests], requests))
    assert found == [reference.tokens(request) for request in requests]
