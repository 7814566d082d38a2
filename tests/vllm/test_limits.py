"""What happens at the edges: a full KV cache, a restart, many images at once, options that are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kit import Reference, Request, ask, engine, tokens
from models import image, words

from gridprune.vllm import Kept, listening

KEEP = 40


@pytest.fixture(scope="module")
def folder(checkpoint: Callable[[str], Path]) -> Path:
    return checkpoint("llava")


@pytest.fixture(scope="module")
def reference(folder: Path) -> Reference:
    return Reference(folder, keep=KEEP)


@pytest.fixture(scope="module")
def requests() -> list[Request]:
    return [Request([image(i)], [words(i)], (None, 17, "100%")[i % 3]) for i in range(9)]


def test_restart_and_full_kv_cache(folder: Path, reference: Reference, requests: list[Request]) -> None:
    """Two blocks hold one request at a time: the others wait. A second engine answers like the first."""
    prompts = [reference.prompt(request) for request in requests]
    expected = [reference.tokens(request) for request in requests]
    with engine(folder, {"keep": KEEP}) as llm:
        assert tokens(ask(llm, prompts, requests)) == expected
    with engine(folder, {"keep": KEEP}, num_gpu_blocks_override=3, max_model_len=256) as llm:
        assert tokens(ask(llm, prompts, requests)) == expected
        scheduler = llm.llm_engine.engine_core.engine_core.scheduler
        assert scheduler.kv_cache_manager.block_pool.get_num_free_blocks() == 2  # one is vLLM's null block
        cache = scheduler.encoder_cache_manager
        assert cache.num_freeable_slots == cache.cache_size


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"enable_lora": True, "enable_tower_connector_lora": True}, "tower-connector-lora"),
        ({"compilation_config": {"compile_mm_encoder": True}}, "compile_mm_encoder"),
        ({"video_pruning_rate": 0.5}, "video-pruning-rate"),
    ],
)
def test_options_that_are_refused(folder: Path, options: dict[str, Any], named: str) -> None:
    with pytest.raises(Exception, match=named), engine(folder, {"keep": KEEP}, **options):
        pass


def test_the_tower_runs_in_batches(folder: Path, reference: Reference) -> None:
    """Nine images at 17 tokens fit into one step of the scheduler; the tower takes at most two at once."""
    asked = [Request([image(i)], [words(i)], 17) for i in range(9)]
    with engine(folder, {"keep": KEEP, "tower_tokens": 300}, max_num_seqs=16, max_num_batched_tokens=2048) as llm:
        llm.apply_model(_watch)
        found = tokens(ask(llm, [reference.prompt(request) for request in asked], asked))
        batches = llm.apply_model(_seen)[0]
    assert found == [reference.tokens(request) for request in asked]
    assert sum(batches) == 9
    assert max(batches) == 2


def test_without_text_an_image_is_encoded_once(folder: Path) -> None:
    """Three questions, one after the other, about one image; a method that reads no text keeps the same tokens."""
    reference = Reference(folder, "fastervlm", KEEP)
    asked = [Request([image(40)], [words(i)]) for i in range(3)]
    with engine(folder, {"method": "fastervlm", "keep": KEEP}) as llm:
        llm.apply_model(_watch)
        with listening() as prompts:
            found = [tokens(ask(llm, [reference.prompt(request)], [request]))[0] for request in asked]
        assert llm.apply_model(_seen)[0] == [1]
    assert prompts == [[Kept(KEEP, 144, "fastervlm")]] * 3  # also where a cache had the image
    assert found == [reference.tokens(request) for request in asked]


def _watch(model: Any) -> None:
    model.seen = []
    model.vision_tower.register_forward_pre_hook(lambda module, args: model.seen.append(len(args[0])))


def _seen(model: Any) -> list[int]:
    return list(model.seen)
