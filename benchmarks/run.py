"""`python -m benchmarks`: parts that are measured one after the other, kept as they are finished, and summed up."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from gridprune.errors import SettingError, UnknownNameError
from gridprune.runtime.devices import find_device

from . import capture, decisions, long, profile, stages
from .clock import Journal, machine
from .shapes import SHAPES, get_shape

SHAPE_PARTS = tuple(SHAPES)
PARTS = ("decisions", "published", "profile", "capture", *SHAPE_PARTS, "long")
QUICK = ("decisions", "published", "profile", "capture", "tiny")
Progress = Callable[[str], None]


@torch.no_grad()
def bench(
    parts: Sequence[str] = PARTS,
    *,
    rounds: int = 3,
    cap: float = 20.0,
    quick: bool = False,
    out: Path | None = None,
    fresh: bool = False,
    device: str = "cpu",
    progress: Progress = lambda message: None,
) -> dict[str, Any]:
    """Measure with one thread; a part that `out` holds already is not measured again.

    Args:
        parts: of :data:`PARTS`.
        rounds: interleaved rounds; the large shapes take one less, at least one. Pruned and native calls, whose ratio
            is near one, are made more often, by shape.
        cap: seconds a single decision may take before a method's larger sizes are skipped. Decisions that `out` left
            out for a smaller cap are measured.
        quick: small sizes only, for a look in a minute or two.
        out: JSON file to continue, and to write after every measurement: what a part that was cut off measured
            stands under ``unfinished`` and is not measured again.
        fresh: measure `parts` again.
        device: where the decisions of the part "decisions" are made.

    Returns:
        ``decision_ms``: scores, budgets and selection, per N at 11.1 %; ``decisions_ms``: those of every method;
        ``device``: where;
        ``decision_share_of_prefill``: cues, text tower, allocation and selection over the unpruned prefill, tower
        included, of the whole model (extrapolated from the layers built); ``capture_overhead``: tower with
        capture over tower without, minus one; ``ratio_to_native``:
        ``"N/k"`` -> pruned end to end over the same tower and k native tokens; ``speedup``: ``"N/k"`` -> unpruned over
        pruned time to first token of the whole model, extrapolated; ``machine``; and ``parts`` with all the rest.

    Raises:
        UnknownNameError: no such part. SettingError: `out` is of another kind of run, or there is no such device.
    """
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        raise UnknownNameError(f"There is no part called {unknown[0]!r}. Known parts: {', '.join(PARTS)}.")
    find_device(device)
    file = _File(out, rounds, quick, fresh=parts if fresh else (), device=device)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for part in parts:
            if part not in file.parts or (part == "decisions" and decisions.unfinished(file.parts[part], cap)):
                file.parts[part] = _measure(part, rounds, cap, quick, progress, file)
                file.done(part)
        return file.result()
    finally:
        torch.set_num_threads(threads)


class _File:
    """The result as it grows, and the file it is kept in, if any."""

    def __init__(self, out: Path | None, rounds: int, quick: bool, fresh: Sequence[str], device: str) -> None:
        held = _read(out, quick, bool(fresh), device) if out is not None else {}
        self.out, self.rounds, self.quick, self.device = out, rounds, quick, device
        self.parts: dict[str, Any] = held.get("parts", {})
        self.unfinished: dict[str, dict[str, list[float]]] = held.get("unfinished", {})
        for part in fresh:
            self.parts.pop(part, None)
            self.unfinished.pop(part, None)

    def journal(self, part: str) -> Journal:
        """Where the single measurements of a part are kept until it is done."""
        return Journal(self.unfinished.setdefault(part, {}), self.save)

    def done(self, part: str) -> None:
        self.unfinished.pop(part, None)
        self.save()

    def result(self) -> dict[str, Any]:
        unfinished = {"unfinished": self.unfinished} if self.unfinished else {}
        return summary(self.parts, self.rounds, self.quick) | {"device": self.device} | unfinished

    def save(self) -> None:
        if self.out is None:
            return
        self.out.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.result(), indent=1) + "\n"
        beside = self.out.with_name(self.out.name + ".part")
        beside.write_text(text, encoding="utf-8")
        beside.replace(self.out)


def summary(parts: dict[str, Any], rounds: int, quick: bool) -> dict[str, Any]:
    """The figures that are quoted, gathered from the parts there are."""
    shapes = {name: parts[name] for name in SHAPE_PARTS if name in parts}
    real = {name: part for name, part in shapes.items() if name != "tiny"} or shapes

    long_prompts = [parts["long"]] if "long" in parts else []

    def merged(key: str) -> dict[str, Any]:
        return {pair: value for part in real.values() for pair, value in part[key].items()}

    grid = parts.get("decisions", {}).get("gridprune", {})
    return {
        "machine": machine(),
        "rounds": rounds,
        "quick": quick,
        "decision_ms": {n: round(values[0], 4) for n, values in grid.get("ms", {}).items()},
        "decisions_ms": {
            name: {n: round(values[0], 4) for n, values in row["ms"].items()}
            for name, row in parts.get("decisions", {}).items()
            if "ms" in row
        },
        "decision_share_of_prefill": {
            str(part["shape"]["visual_tokens"]): part["decision_share_of_prefill"]
            for part in [*real.values(), *long_prompts]
        },
        "capture_overhead": {tower: row["capture"] for tower, row in parts.get("capture", {}).items()},
        "ratio_to_native": merged("ratio_to_native"),
        "speedup": merged("speedup"),
        "parts": parts,
    }


def _measure(part: str, rounds: int, cap: float, quick: bool, progress: Progress, file: _File) -> dict[str, Any]:
    if part == "decisions":
        sizes = decisions.SIZES[:2] if quick else decisions.SIZES
        held = file.parts.setdefault(part, {})
        cap = 1.0 if quick else cap
        return decisions.every_method(sizes, rounds, cap, progress, held=held, save=file.save, device=file.device)
    if part == "published":
        progress("published procedures")
        return decisions.against_published((576,) if quick else (576, 2880), rounds)
    if part == "profile":
        return profile.profiles((576,) if quick else (576, 2880), progress)
    if part == "capture":
        return capture.overheads(2 * rounds, progress, large=not quick)
    if part == "long":
        return long.measure(rounds, progress, file.journal(part))
    small = part in ("tiny", "llava-1.5-7b")
    return stages.measure(get_shape(part), rounds if small else max(1, rounds - 1), progress, file.journal(part))


def _read(out: Path, quick: bool, fresh: bool, device: str) -> dict[str, Any]:
    """What a file holds; nothing if it is of another kind of run and `fresh`."""
    if not out.is_file():
        return {}
    held: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    if held.get("quick") != quick or held.get("device", "cpu") != device or "parts" not in held:
        if fresh:
            return {}
        raise SettingError(f"{out} holds another kind of run. Choose another file, or start over with --fresh.")
    return held
