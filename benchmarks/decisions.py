"""Every method's decision by itself, over the number of tokens: time, memory, and how fast both grow."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from gridprune.bench.clock import Ratio, Timing, measured
from gridprune.core.token_map import TokenMap
from gridprune.methods.base import Cues, Method
from gridprune.methods.gridprune import GridPrune
from gridprune.methods.registry import available, create

from .clock import LONG, interleave, seconds
from .memory import peak_bytes
from .published import cdpruner, divprune

SIZES = (576, 2880, 16384, 65536)
SHARE = 1 / 9
WIDTH = 4096  # of the embeddings of a 7B model
_TOWER = 1024  # of CLIP-L's states and keys
_WORDS = 8
_MEMORY_UP_TO = 16384


def every_method(
    sizes: Sequence[int],
    rounds: int,
    cap: float,
    progress: Callable[[str], None],
    names: Sequence[str] | None = None,
    *,
    held: dict[str, Any] | None = None,
    save: Callable[[], None] = lambda: None,
    device: str = "cpu",
) -> dict[str, Any]:
    """Milliseconds and peak bytes of `select` at 11 % by method and number of tokens, with fitted exponents.

    On a GPU wall time from the call until the device has finished: the host may be what takes long. The first calls,
    which lay zones out and compile kernels, do not count.

    Args:
        cap: seconds; a method whose next size would take longer, by its growth so far, stops there and says so.
        held: rows of an earlier run; what they lack is measured and added in place.
        save: called after every method.
    """
    found: dict[str, Any] = {} if held is None else held
    for name in names or available():
        method = create(name)
        reason = _no_decision(method)
        if reason:
            found[name] = {"skipped": reason}
            continue
        if name not in found or _worth_it(found[name], cap):
            found[name] = _over_sizes(method, sizes, rounds, cap, found.get(name, {}), progress, torch.device(device))
            save()
    return found


def unfinished(rows: dict[str, Any], cap: float) -> bool:
    """Whether a method is missing, or was stopped by a smaller cap than `cap`."""
    return any(name not in rows or _worth_it(rows[name], cap) for name in available())


def _worth_it(row: dict[str, Any], cap: float) -> bool:
    return "stopped" in row and row.get("expected", 0.0) <= cap


def _no_decision(method: Method) -> str:
    if method.stage != "pre-llm":
        return f"acts at the stage {method.stage!r}: nothing is decided between encoder and language model"
    return "compares the frames of videos" if method.min_frames > 1 else ""


def _over_sizes(
    method: Method,
    sizes: Sequence[int],
    rounds: int,
    cap: float,
    held: dict[str, Any],
    progress: Callable[[str], None],
    device: torch.device,
) -> dict[str, Any]:
    milliseconds: dict[str, list[float]] = dict(held.get("ms", {}))
    memory: dict[str, int] = dict(held.get("bytes", {}))
    row: dict[str, Any] = {"ms": milliseconds, "bytes": memory}
    before = [(int(n), values[0] / 1e3) for n, values in milliseconds.items()]
    for n in sizes:
        if str(n) not in milliseconds:
            growth = _slope(before) if len(before) > 1 else 1.0
            expected = before[-1][1] * (n / before[-1][0]) ** max(growth, 1.0) if before else 0.0
            if expected > cap:
                row["stopped"] = f"at N = {n}: about {expected:.0f} s by its growth, more than {cap:g} s"
                row["expected"] = float(f"{expected:.4g}")
                break
        cues, token_map = random_cues(n, device=device)

        def select(cues: Cues = cues, token_map: TokenMap = token_map) -> Any:
            return method.select(cues, token_map, method.count(cues, token_map))

        if str(n) not in milliseconds:
            progress(f"decision: {method.name}, {n} tokens")
            timing = _timed(select, rounds, device)
            milliseconds[str(n)] = [1e3 * v for v in timing.to_list()]
            before.append((n, timing.median))
        if str(n) not in memory and n <= _MEMORY_UP_TO and milliseconds[str(n)][0] < 1e3 * min(cap / 10, LONG):
            memory[str(n)] = (measured(select, device).peak_bytes or 0) if device.type == "cuda" else peak_bytes(select)
    row["time_exponent"] = _rounded(_slope(before))
    row["memory_exponent"] = _rounded(_slope([(int(n), float(b)) for n, b in memory.items() if b]))
    return row


def _timed(select: Callable[[], Any], rounds: int, device: torch.device) -> Timing:
    if device.type == "cuda":
        for _ in range(2):
            measured(select, device)
        return Timing(tuple(measured(select, device).seconds for _ in range(rounds)))
    once = seconds(select)  # lays the zones out as well
    if once >= LONG:
        return Timing((once,))
    repeats = max(1, min(400, int(0.2 / max(once, 1e-6))))  # long enough for the core to find its pace
    return interleave({"select": select}, rounds, repeats={"select": repeats})["select"]


def _slope(points: Sequence[tuple[int, float]]) -> float:
    """Least-squares slope of log y over log x over the last three points: below, fixed costs hide the growth."""
    points = [(x, y) for x, y in points if y > 0][-3:]
    if len(points) < 2:
        return math.nan
    logs = [(math.log(x), math.log(y)) for x, y in points]
    mx, my = (sum(values) / len(logs) for values in zip(*logs))
    return sum((x - mx) * (y - my) for x, y in logs) / sum((x - mx) ** 2 for x, _ in logs)


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 2)


def against_published(sizes: Sequence[int], rounds: int) -> dict[str, Any]:
    """Ours and GridPrune against DivPrune's and CDPruner's published procedures, interleaved; choices must be equal."""
    found: dict[str, Any] = {}
    for n in sizes:
        cues, token_map = random_cues(n)
        for name in PUBLISHED:
            found[f"{name}/{n}"] = _against(name, cues, token_map, max(1, round(n * SHARE)), rounds)
    return found


PUBLISHED: dict[str, Callable[[Cues, int], torch.Tensor]] = {
    "divprune": lambda cues, k: divprune(cues.require("features")[0], k),
    "cdpruner": lambda cues, k: cdpruner(cues.require("features")[0], cues.require("relevance")[0], k),
}


def _against(name: str, cues: Cues, token_map: TokenMap, k: int, rounds: int) -> dict[str, Any]:
    ours, grid = create(name), GridPrune()
    variants: dict[str, Callable[[], Any]] = {
        "published": lambda: PUBLISHED[name](cues, k),
        "ours": lambda: ours.select(cues, token_map, k).indices[0],
        "gridprune": lambda: grid.select(cues, token_map, k),
    }
    same = torch.equal(variants["ours"](), variants["published"]())
    timing = interleave(variants, rounds, repeats={"gridprune": 200})
    return {
        "equal": same,
        "published_ms": round(1e3 * timing["published"].median, 2),
        "ours": Ratio.of(timing["published"], timing["ours"]).to_list(),
        "gridprune": Ratio.of(timing["published"], timing["gridprune"]).to_list(),
    }


def random_cues(tokens: int, width: int = WIDTH, device: torch.device | str = "cpu") -> tuple[Cues, TokenMap]:
    """Random cues of every kind for a near-square image of `tokens` tokens, the same on every device; embeddings are of
    this width."""
    rows = int(tokens**0.5)
    while tokens % rows:
        rows -= 1
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    saliency = torch.rand(1, tokens, generator=generator)
    depths = {depth for name in available() for depth in create(name).saliency_depths}
    features, states, edges = normal(1, tokens, width), normal(1, tokens, min(width, _TOWER)), saliency * 0.01
    cues = Cues(
        relevance=normal(1, tokens) * 0.05,
        saliency=saliency,
        saliency_at=dict.fromkeys(sorted(depths), saliency),
        features=features,
        tower_features=states,
        keys=states,
        queries_cls=states[:, 0],
        heads=16,
        word_relevance=normal(1, _WORDS, tokens) * 0.05,
        word_mask=torch.ones(1, _WORDS, dtype=torch.bool),
        question_embeds=normal(1, _WORDS, width),
        question_mask=torch.ones(1, _WORDS, dtype=torch.bool),
        head_relevance=normal(1, 32, tokens),
        sensitivity=saliency,
        laplacian=torch.stack([edges, edges.square() + saliency], -1),
    )
    moved: dict[str, Any] = {name: value.to(device) for name, value in cues.tensors().items()}
    at = {depth: value.to(device) for depth, value in cues.saliency_at.items()}
    return replace(cues, **moved, saliency_at=at), TokenMap.from_grid(rows, tokens // rows)
