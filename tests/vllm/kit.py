"""Engines, and what transformers says to the same requests."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from models import chat
from PIL.Image import Image

from gridprune import prune
from gridprune.methods import create
from gridprune.vllm import overrides

TOKENS = 12
Runner = Literal["v1", "v2"]


@dataclass(frozen=True, eq=False)
class Request:
    """One request.

    Attributes:
        images: shown in front of the first turn.
        turns: what user and assistant said, in turns.
        keep: the request's own budget, or None for the server's.
        question: the request's own question, or None.
        method: the request's own method, or None.
    """

    images: Sequence[Image]
    turns: Sequence[str]
    keep: int | str | None = None
    question: str | None = None
    method: str | None = None

    def options(self) -> dict[str, Any]:
        """`mm_processor_kwargs`."""
        given = {"gridprune_keep": self.keep, "gridprune_question": self.question, "gridprune_method": self.method}
        return {name: value for name, value in given.items() if value is not None}


@contextmanager
def engine(folder: Path, settings: dict[str, Any] | None, runner: Runner = "v2", **options: Any) -> Iterator[Any]:
    """An engine of vLLM's in this process; without settings, that of the stock architecture."""
    from vllm.distributed import cleanup_dist_env_and_memory

    from vllm import LLM

    os.environ["VLLM_USE_V2_MODEL_RUNNER"] = str(int(runner == "v2"))  # read anew by every engine
    defaults = {
        "dtype": "float32", "max_model_len": 1024, "enforce_eager": True, "max_num_seqs": 8,
        "limit_mm_per_prompt": {"image": 4, "video": 0},
    }  # fmt: skip
    overriding = overrides(str(folder), **(settings or {}))
    if overriding["architectures"][0].startswith("GridPruneLlava"):
        defaults["limit_mm_per_prompt"] = {"image": 4}
    llm = LLM(str(folder), hf_overrides=None if settings is None else overriding, **{**defaults, **options})
    try:
        assert set(llm.collective_rpc(runner_of)) == {runner}
        yield llm
    finally:
        llm.llm_engine.engine_core.shutdown()
        del llm
        cleanup_dist_env_and_memory()


def runner_of(worker: Any) -> Runner:
    """Which of vLLM's runners a worker has, by where its class comes from."""
    sources = [cls.__module__ for cls in type(worker.model_runner).__mro__]
    return "v2" if "vllm.v1.worker.gpu.model_runner" in sources else "v1"


def ask(llm: Any, prompts: Sequence[str], requests: Sequence[Request]) -> list[Any]:
    """Greedy answers of vLLM, all requests at once."""
    from vllm import SamplingParams

    inputs = [
        {
            "prompt": prompt,
            "multi_modal_data": {"image": list(request.images)},
            "mm_processor_kwargs": request.options(),
        }
        for prompt, request in zip(prompts, requests)
    ]
    sampling = SamplingParams(temperature=0, max_tokens=TOKENS, ignore_eos=True)
    return llm.generate(inputs, sampling, use_tqdm=False)  # type: ignore[no-any-return]


def tokens(answers: Sequence[Any]) -> list[list[int]]:
    """The generated tokens."""
    return [list(answer.outputs[0].token_ids) for answer in answers]


@dataclass(eq=False)
class Reference:
    """The same checkpoint in transformers, pruned by gridprune's own context manager.

    Attributes:
        method, keep: what the server is told.
    """

    folder: Path
    method: str = "gridprune"
    keep: int | str = 64
    _known: dict[Request, list[int]] = field(default_factory=dict)

    @cached_property
    def model(self) -> Any:
        from transformers import AutoModelForImageTextToText

        return AutoModelForImageTextToText.from_pretrained(self.folder, dtype=torch.float32).eval()

    @cached_property
    def processor(self) -> Any:
        from transformers import AutoProcessor

        return AutoProcessor.from_pretrained(self.folder)

    def prompt(self, request: Request) -> str:
        conversation = chat(*request.turns, images=len(request.images))
        return str(self.processor.apply_chat_template(conversation, add_generation_prompt=True, tokenize=False))

    def tokens(self, request: Request) -> list[int]:
        """Greedy tokens; remembered per request object."""
        if request not in self._known:
            self._known[request] = self._generate(request)
        return self._known[request]

    @torch.no_grad()
    def _generate(self, request: Request) -> list[int]:
        inputs = self.processor(images=list(request.images), text=self.prompt(request), return_tensors="pt")
        inputs.pop("token_type_ids", None)  # by which Gemma's images see both ways; vLLM's attention on CPUs cannot
        method = create(request.method or self.method, keep=self.keep if request.keep is None else request.keep)
        greedy = {"max_new_tokens": TOKENS, "do_sample": False, "eos_token_id": None}
        clip = self.folder / "clip" if (self.folder / "clip").is_dir() else None
        options = {"processor": self.processor, "question": request.question, "clip": clip}
        with prune(self.model, method, **options) as pruning:
            output = self.model.generate(**inputs, **greedy)
        if not any(bool(report.token_map.separator.any()) for report in pruning.reports):
            return output[0, inputs["input_ids"].shape[1] :].tolist()  # type: ignore[no-any-return]
        return self._without_separators(inputs, list(pruning.reports), greedy)

    def _without_separators(self, inputs: Any, reports: Sequence[Any], greedy: dict[str, Any]) -> list[int]:
        """By hand: the prompt with the kept tokens alone, as vLLM has it for LLaVA-NeXT."""
        images = {key: inputs[key] for key in ("pixel_values", "image_sizes")}
        features = self.model.model.get_image_features(**images, return_dict=True).pooler_output
        ids = inputs["input_ids"][0]
        text = self.model.get_input_embeddings()(ids)
        parts, start = [], 0
        places = (ids == self.model.config.image_token_id).nonzero()[:, 0].split([r.prompt_total for r in reports])
        for own, report, place in zip(features, reports, places):
            kept = report.token_map.candidate_positions[report.kept_indices]
            parts += [text[start : int(place[0])], own if report.kept == report.total else own[kept]]
            start = int(place[-1]) + 1
        embedded = torch.cat([*parts, text[start:]])[None]
        mask = torch.ones(embedded.shape[:2], dtype=torch.long)
        return self.model.generate(inputs_embeds=embedded, attention_mask=mask, **greedy)[0].tolist()  # type: ignore[no-any-return]
