"""Several questions on one image: one vision pass, and the answers of asking each by itself."""

from __future__ import annotations

import pytest
import torch

from gridprune import GridPrune, ask_many
from gridprune.errors import QuestionError, SettingError
from gridprune.families import find
from gridprune.methods.registry import create
from gridprune.runtime import answer, load
from gridprune.tiny import iter_examples

QUESTIONS = ["What is left?", "What is red?", "How many are there?"]


def test_one_vision_pass_and_the_same_answers(monkeypatch):
    loaded, image, method = load(), next(iter(iter_examples("dev", 1))).image, GridPrune(keep=32)
    single = [answer(loaded, image, question, method, max_new_tokens=6) for question in QUESTIONS]
    passes, processed = [], []
    processor = type(loaded.processor.image_processor)
    process = processor.__call__
    monkeypatch.setattr(processor, "__call__", lambda *args, **kwargs: processed.append(1) or process(*args, **kwargs))
    with find(loaded.model).tower.module.register_forward_hook(lambda *args: passes.append(1)):
        together = ask_many(loaded, image, QUESTIONS, method, max_new_tokens=6)
    assert len(passes) == len(processed) == 1
    for one, other in zip(single, together, strict=True):
        assert (one.text, one.visual_tokens, one.kv_bytes) == (other.text, other.visual_tokens, other.kv_bytes)
        assert one.report.question == other.report.question
        assert torch.equal(one.report.kept_indices, other.report.kept_indices)
    assert ask_many(loaded, image, [], method) == []
    with pytest.raises(QuestionError):
        ask_many(loaded, image, ["What?", " "], method)
    with pytest.raises(SettingError, match="encoder call"):
        ask_many(loaded, image, QUESTIONS, create("fastv"))
