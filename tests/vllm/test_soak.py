"""What benchmarks/vllm_soak.py calls wrong; the run itself needs a server and minutes."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.vllm_soak import HELD, malformed, shown, verdict


def run(**changed: Any) -> dict[str, Any]:
    """A run in which all was well."""
    counts = {"right": 30, "new": 5, "refused": 3, "left": 2}
    memory = [(float(i), i, 700.0 if i > 10 else 500.0, 2000.0) for i in range(40)]
    held = dict.fromkeys(HELD, 0.0)
    return {"counts": counts, "afterwards": {"right": 4}, "held": held, "memory": memory, **changed}


def test_nothing_is_wrong() -> None:
    assert verdict(run()) == []


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"counts": {"right": 30, "wrong": 1}}, "1 x wrong"),
        ({"counts": {"right": 30, "malformed 500": 2}}, "2 x malformed 500"),
        ({"afterwards": {"right": 3, "wrong": 1}}, "afterwards 1 x wrong"),
        ({"held": {**dict.fromkeys(HELD, 0.0), "kv_cache_usage_perc": 0.1}}, "kv_cache_usage_perc 0.1"),
        ({"memory": [(float(i), i, 700.0 + i, 2000.0) for i in range(40)]}, "the engine grew from 714 to 734 MB"),
    ],
)
def test_what_is_wrong_is_named(changed: dict[str, Any], named: str) -> None:
    (found,) = verdict(run(**changed))
    assert named in found


def test_images_and_malformed_requests_differ() -> None:
    assert len({shown(number, 24).tobytes() for number in range(20)}) == 20
    assert len({str(each) for each in malformed(shown(0, 24), "w1")}) == 5
