"""`gridprune doctor --serve` on the embedded model: the engine in this process, and one that cannot start."""

from __future__ import annotations

from pathlib import Path

import pytest

from gridprune.runtime import served
from gridprune.runtime.ask import load

OPTIONS = ["--enforce-eager", "--dtype", "float32", "--max-model-len", "1024"]


def test_runner_graphs_and_tokens_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.distributed import cleanup_dist_env_and_memory

    monkeypatch.setenv("VLLM_USE_V2_MODEL_RUNNER", "1")
    request = served.question_of("embedded", None, tmp_path)
    try:
        found = served.engine(request, OPTIONS)
    finally:
        cleanup_dist_env_and_memory()
    assert "V2" in found["runner"]
    assert "NONE" in found["graphs"]
    assert (found["torch_device"], found["dtype"]) == ("cpu", "float32")
    loaded = load()
    whole, pruned = [
        served.compared(loaded, request, keep, tokens) for keep, tokens in zip(("100%", served.KEEP), found["tokens"])
    ]
    assert [whole.name, pruned.name] == ["576 of 576", "64 of 576"]
    assert [whole.state, pruned.state] == ["ok", "ok"]
    wrong = served.compared(loaded, request, served.KEEP, found["tokens"][1][::-1])
    assert (wrong.state, bool(wrong.do)) == ("broken", True)


def test_an_engine_that_cannot_start_is_one_line_with_the_end_of_its_log() -> None:
    (check,) = served.served("embedded", None, ["--no-such-option"])
    assert check.state == "broken"
    assert "no-such-option" in check.do
