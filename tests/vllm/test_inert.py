"""Who asks for no pruning gets vLLM as it is, with the package installed and a pruned model in the same process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import torch
from kit import TOKENS, Reference, Request, ask, engine, tokens
from models import CASES, image, words

from gridprune.vllm.qwen import tell_runner


def test_a_stock_architecture_answers_as_in_transformers(checkpoint: Callable[[str], Path]) -> None:
    case, folder = CASES["qwen2-vl"], checkpoint("qwen2-vl")
    multimodal = SimpleNamespace()
    model_config = SimpleNamespace(get_multimodal_config=lambda: multimodal)
    tell_runner(SimpleNamespace(model_config=model_config, use_v2_model_runner=False))  # type: ignore[arg-type]
    reference = Reference(folder)
    requests = [Request([image(i, size)], [words(i)]) for i, size in enumerate(case.sizes)]
    prompts = [reference.prompt(request) for request in requests]
    with engine(folder, None, "v1") as llm:  # the runner whose class was given a property
        assert llm.apply_model(_class) == ["vllm.model_executor.models.qwen2_vl.Qwen2VLForConditionalGeneration"]
        found = tokens(ask(llm, prompts, requests))
    for prompt, request, answer in zip(prompts, requests, found):
        inputs = reference.processor(images=list(request.images), text=prompt, return_tensors="pt")
        with torch.no_grad():
            whole = reference.model.generate(**inputs, max_new_tokens=TOKENS, do_sample=False, eos_token_id=None)
        assert answer == whole[0, inputs["input_ids"].shape[1] :].tolist()


def _class(model: torch.nn.Module) -> str:
    return f"{type(model).__module__}.{type(model).__qualname__}"
