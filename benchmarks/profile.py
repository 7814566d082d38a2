"""Where a decision's time goes: kernels counted and timed by kind, beside the cheapest kernel there is."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from gridprune.core.token_map import TokenMap
from gridprune.methods.base import Cues
from gridprune.methods.gridprune import GridPrune
from gridprune.methods.registry import create

from .clock import seconds
from .decisions import PUBLISHED, SHARE, random_cues

KINDS = ("products", "sorts", "other kernels")
_KIND = {
    **dict.fromkeys(("mm", "bmm", "addmm", "baddbmm", "mv", "addmv", "dot"), "products"),
    **dict.fromkeys(("sort", "argsort", "topk"), "sorts"),
}
_ROUNDS = 5
_STEADY = 0.2  # seconds in which a core finds its pace


class Kernels(TorchDispatchMode):
    """Counts the kernels that run inside, and adds up the seconds of this thread that each kind takes.

    Views are not counted: they compute nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls = dict.fromkeys(KINDS, 0)
        self.seconds = dict.fromkeys(KINDS, 0.0)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        began = time.thread_time()
        result = function(*args, **(kwargs or {}))
        took = time.thread_time() - began
        if not function.is_view:
            kind = _KIND.get(function.overloadpacket.__name__.strip("_"), KINDS[-1])
            self.calls[kind] += 1
            self.seconds[kind] += took
        return result


def profiles(sizes: tuple[int, ...], progress: Callable[[str], None]) -> dict[str, Any]:
    """GridPrune's decision, and DivPrune's and CDPruner's as published and as here, at the width of a 7B model.

    Returns:
        ``cheapest_us``: microseconds of the cheapest kernel, an addition to one number; ``rows``: for each procedure
        and N, milliseconds by the clock, without any instrument; the number of kernels; and ``kinds``: milliseconds in
        kernels of each kind, from calls where each was timed, the median of some. What is missing to the whole is spent
        between kernels.
    """
    one = torch.zeros(1)
    rows: dict[str, Any] = {}
    for n in sizes:
        cues, token_map = random_cues(n)
        k = max(1, round(n * SHARE))
        for name, call in _procedures(cues, token_map, k).items():
            progress(f"profile of {name} at {n}")
            rows[f"{name}/{n}"] = _profile(call)
    return {"cheapest_us": round(1e6 * seconds(lambda: one.add_(1), 20_000), 3), "rows": rows}


def _procedures(cues: Cues, token_map: TokenMap, k: int) -> dict[str, Callable[[], Any]]:
    procedures: dict[str, Callable[[], Any]] = {"gridprune": partial(GridPrune().select, cues, token_map, k)}
    for name, published in PUBLISHED.items():
        procedures[f"{name}, published"] = partial(published, cues, k)
        procedures[f"{name}, here"] = partial(create(name).select, cues, token_map, k)
    return procedures


def _profile(call: Callable[[], Any]) -> dict[str, Any]:
    call()
    repeats = max(1, int(_STEADY / seconds(call)))
    plain = sorted(seconds(call, repeats) for _ in range(_ROUNDS))[_ROUNDS // 2]
    timed: list[Kernels] = []
    for _ in range(_ROUNDS):
        with Kernels() as kernels:
            call()
        timed.append(kernels)
    middle = sorted(timed, key=lambda kernels: sum(kernels.seconds.values()))[_ROUNDS // 2]
    return {
        "ms": round(1e3 * plain, 4),
        "kernels": sum(middle.calls.values()),
        "kinds": {kind: round(1e3 * middle.seconds[kind], 4) for kind in KINDS},
    }
