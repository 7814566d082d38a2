"""`gridprune bench`: time and memory of one loaded model, pruned and not, from one interleaved run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from statistics import median_low
from typing import Any

import torch
from PIL.Image import Image

from .. import families
from ..core.budget import Budget, Keep
from ..core.graphs import FIRST_CALLS
from ..errors import SettingError
from ..eval.store import machine
from ..hf.pruning import Pruning
from ..methods.spec import MethodSpec, parse, split
from ..runtime.ask import Loaded, looked_at, prepare
from ..runtime.devices import find_device
from . import calls
from .calls import Call
from .clock import Ratio, Sample, Timing, measured, turns

HOST_BOUND = 0.9  # launches take this much of the device's time: it waited for the host
_MOST = 4096  # rows of a batch: larger ones are not looked for
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Bench:
    """What is measured.

    Attributes:
        methods: the first one hands the native call its prompt, and is the one that answers are generated with.
        keeps, batches: budgets, and numbers of rows.
        image, question: of every row. What guides a row has the row's number behind it, so a batch of new questions
            costs as many passes of the text tower as it has rows.
        rounds: how often every call is made.
        tokens: length of an answer, at least 2.
        static: whether answers are generated with a static cache as well.
        largest: whether the largest batch that fits is looked for.
    """

    methods: Sequence[MethodSpec]
    keeps: Sequence[Keep]
    batches: Sequence[int]
    image: Image
    question: str
    rounds: int = 3
    tokens: int = 16
    static: bool = False
    largest: bool = False


def parse_methods(text: str) -> list[MethodSpec]:
    """Read `gridprune,fastervlm(...)`.

    Raises:
        SettingError: not readable, none or one twice, or a method that compares the frames of a video.
        UnknownNameError: no such method.
    """
    found = [parse(part) for part in split(text)]
    if not found or len({spec.label for spec in found}) < len(found):
        raise SettingError(f"--methods needs one or more different methods such as gridprune,random, got {text!r}.")
    for spec in found:
        if spec.method("50%").min_frames > 1:
            raise SettingError(f"{spec.label} compares frames of a video; `gridprune bench` measures single images.")
    return found


def parse_batches(text: str) -> list[int]:
    """Read `1,8,32`.

    Raises:
        SettingError: not positive whole numbers, none, or one twice.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or len(set(parts)) < len(parts) or not all(part.isdecimal() and int(part) for part in parts):
        raise SettingError(f"--batch needs one or more different numbers of images such as 1,8,32, got {text!r}.")
    return [int(part) for part in parts]


def check_device(name: str, largest: bool = False) -> torch.device:
    """The device called `name` ("auto": this machine's accelerator), if calls can be timed on it.

    Args:
        largest: the largest batch is looked for, which ends when a GPU's memory does.

    Raises:
        SettingError: another kind of device, or one that is not there.
    """
    device = find_device(name)
    if device.type not in ("cpu", "cuda"):
        raise SettingError(
            f"gridprune bench measures on cpu, cuda or cuda:N, not on {device.type!r}: name one by --device."
        )
    if largest and device.type == "cpu":
        raise SettingError("--largest looks for the batch that fills a GPU's memory: give --device cuda with it.")
    return device


def check_one_device(model: Any) -> None:
    """Raises SettingError for a model whose weights are spread: peak memory is read off one device."""
    found = sorted({str(each.device) for each in model.parameters()})
    if len(found) > 1:
        raise SettingError(
            f"gridprune bench measures memory on one device, and this model lies on {', '.join(found)}. Leave "
            "--device-map out, or give one that holds all of it."
        )


@torch.no_grad()
def bench(loaded: Loaded, plan: Bench, progress: Progress = lambda message: None) -> dict[str, Any]:
    """Measure everything in turn; docs/howto/bench.md says what the keys mean.

    Raises:
        GridPruneError: a budget, a method or an image that does not fit the model. Nothing was timed then.
    """
    check_one_device(loaded.model)
    family = families.find(loaded.model)
    inputs = prepare(loaded, plan.image, plan.question)
    _, (token_map,) = looked_at(family, inputs)
    total = len(token_map.candidates)
    for keep in plan.keeps:
        Budget.parse(keep).resolve(total)
    found: dict[str, Any] = {
        "model": loaded.name,
        "visual_tokens": total,
        "separators": len(token_map) - total,
        "text_tokens": inputs["input_ids"].shape[1] - len(token_map),
        "dtype": str(loaded.model.dtype).removeprefix("torch."),
        "attention": _attention(loaded.model),
        "weights_bytes": sum(each.nbytes for each in loaded.model.parameters()),
        "device": str(loaded.model.device),
        "machine": machine() | {name: version(name) for name in ("torch", "transformers", "gridprune")},
        "rounds": plan.rounds,
        "answer_tokens": plan.tokens,
        "calls": [],
    }
    for batch in plan.batches:
        told = partial(_told, progress, batch)
        samples = timed([*_calls(loaded, plan, inputs, batch)], plan.rounds, loaded.model.device, told)
        found["calls"] += [{"batch": batch, **row} for row in rows(samples, total)]
    if plan.largest:
        found["largest_batch"] = {
            "all" if keep is None else str(keep): largest(partial(_fits, loaded, plan, inputs, keep, progress))
            for keep in (None, *plan.keeps)
        }
    return found


def _told(progress: Progress, batch: int, words: str) -> None:
    progress(f"batch {batch}: {words}")


def _attention(model: Any) -> dict[str, str]:
    """The attention implementations that run, by part of the model."""
    parts = {"language": model.config.get_text_config(), "vision": getattr(model.config, "vision_config", None)}
    return {name: str(part._attn_implementation) for name, part in parts.items() if part is not None}


def _calls(loaded: Loaded, plan: Bench, inputs: Any, batch: int) -> Iterator[Call]:
    """All calls of one batch size."""
    model, given = loaded.model, calls.repeated(inputs, batch)
    caches = (False, True) if plan.static else (False,)
    yield from calls.unpruned(model, families.find(model), given)
    for static in caches:
        yield from calls.answers(model, given, plan.tokens, static)
    for keep in plan.keeps:
        prunings = {spec.label: _pruning(loaded, plan, spec, keep, batch) for spec in plan.methods}
        before = [pruning for pruning in prunings.values() if pruning.method.stage == "pre-llm"]
        limit = before[0] if before else _pruning(loaded, plan, parse("uniform"), keep, batch)
        yield from calls.pruned(prunings, limit, given, keep)
        first = plan.methods[0].label
        for static in caches:
            yield from calls.answers(
                model, given, plan.tokens, static, keep=keep, method=first, pruning=prunings[first]
            )


def _pruning(loaded: Loaded, plan: Bench, spec: MethodSpec, keep: Keep, batch: int) -> Pruning:
    """With a question for every row and a report of every row."""
    questions = [f"{plan.question} {row}" for row in range(batch)]
    return loaded.pruning(spec.method(keep), questions, max_reports=batch)


def timed(calls: Sequence[Call], rounds: int, device: torch.device, progress: Progress) -> dict[Call, list[Sample]]:
    """Every call in turn, after one to warm up or, on a GPU, until graphs are recorded; no samples of those that its
    memory cannot hold."""
    samples: dict[Call, list[Sample]] = {call: [] for call in calls}
    fitting = []
    for call in calls:
        progress(f"{call.label}, warming up")
        if all(fits(call.run) for _ in range(FIRST_CALLS + 1 if device.type == "cuda" else 1)):
            fitting.append(call)
    for number, call in turns(fitting, rounds):
        progress(f"{call.label}, {number + 1} of {rounds}")
        samples[call].append(measured(call.run, device))
    return samples


def fits(run: Callable[[], Any]) -> bool:
    """Whether the GPU's memory is enough for a call."""
    try:
        run()
        return True
    except torch.OutOfMemoryError:
        pass  # what the error holds is let go first
    torch.cuda.empty_cache()
    return False


# -- what the samples say --------------------------------------------------------------------------------------------


def rows(samples: dict[Call, list[Sample]], total: int) -> list[dict[str, Any]]:
    """One row per call to the first token, with what the answers of the same method and budget took.

    Args:
        total: visual tokens of one image.
    """
    timing = {call: Timing(tuple(each.seconds for each in found)) for call, found in samples.items() if found}
    stock = next((timing.get(call) for call in samples if call.what == "unpruned"), None)
    limits = {call.keep: timing.get(call) for call in samples if call.what == "native"}
    return [
        {
            "call": call.what,
            "method": call.method,
            "keep": call.keep,
            "question": call.question,
            "visual_tokens": total if call.pruning is None else _kept(call.pruning),
            "fits": bool(found),
            "seconds": timing[call].to_list() if found else None,
            "faster": _ratio(stock, timing.get(call)) if call.keep else None,
            "over_native": _ratio(timing.get(call), limits[call.keep]) if call.method else None,
            "launch_share": _median([each.launch_share for each in found]),
            "peak_bytes": _median([each.peak_bytes for each in found]),
            **_decoding(call, timing),
        }
        for call, found in samples.items()
        if call.what != "answer"
    ]


def _kept(pruning: Pruning) -> int | None:
    """Visual tokens of one image, as the last call left them."""
    return pruning.reports[-1].kept if pruning.reports else None


def _ratio(over: Timing | None, under: Timing | None) -> list[float] | None:
    return None if over is None or under is None else Ratio.of(over, under).to_list()


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median_low(known) if known else None


def _decoding(call: Call, timing: dict[Call, Timing]) -> dict[str, list[float]]:
    """Seconds of an answer and of one of its later tokens, by kind of cache, where answers were generated."""
    found: dict[str, list[float]] = {}
    if call.what not in ("unpruned", "pruned") or call.question == "new":
        return found
    for static, kind in ((False, ""), (True, "static_")):
        same = {
            each.tokens: answer
            for each, answer in timing.items()
            if (each.what, each.method, each.keep, each.static) == ("answer", call.method, call.keep, static)
        }
        if len(same) == 2:
            once, longest = min(same), max(same)
            pairs = zip(same[longest].seconds, same[once].seconds)
            token = Timing(tuple((whole - first) / (longest - once) for whole, first in pairs))
            found |= {f"{kind}answer_seconds": same[longest].to_list(), f"{kind}token_seconds": token.to_list()}
    return found


def waits(row: dict[str, Any]) -> bool:
    """Whether the GPU waited for the host in a row's call."""
    return row["launch_share"] is not None and row["launch_share"] >= HOST_BOUND


# -- the largest batch -----------------------------------------------------------------------------------------------


def largest(fits: Callable[[int], bool]) -> int:
    """The largest number that fits, to an eighth of it: doubled until it does not, then halved in between."""
    good, bad = 0, 1
    while fits(bad):
        good, bad = bad, 2 * bad
        if good >= _MOST:
            return good
    while bad - good > max(1, good // 8):
        middle = (good + bad) // 2
        good, bad = (middle, bad) if fits(middle) else (good, middle)
    return good


def _fits(loaded: Loaded, plan: Bench, inputs: Any, keep: Keep | None, progress: Progress, batch: int) -> bool:
    """Whether so many prompts can be read at once, their keys and values kept."""
    progress(f"do {batch} images with {keep or 'all'} visual tokens fit?")
    pruning = None if keep is None else _pruning(loaded, plan, plan.methods[0], keep, batch)
    return fits(lambda: calls.first_token(loaded.model, calls.repeated(inputs, batch), pruning))
