"""`python -m benchmarks.first_token`: time to the first token of 7B shapes, all layers built, on one GPU.

What `gridprune bench` measures of a user's checkpoint, of random weights in bfloat16: the stock model, the pruned one by
an asked and by a new question, the same accelerated, the limit that is a prompt of k tokens, and the vision tower, every
one in turn. Written after every batch size, so that a run that is cut off goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from gridprune import families, prune
from gridprune.bench.calls import Call, pruned, repeated, unpruned
from gridprune.bench.clock import Sample, Timing
from gridprune.bench.run import timed
from gridprune.cues.clip_text import ClipText
from gridprune.eval.store import machine
from gridprune.hf.pruning import Pruning
from gridprune.methods import create
from gridprune.tiny.loading import weights_folder

from .shapes import IMAGE_TOKEN, Shape, build_text, get_shape

QUESTION = "what is this"
TEXT_TOKENS = 60


@dataclass(frozen=True)
class Plan:
    """What is measured of a shape."""

    keeps: tuple[int, ...]
    batches: tuple[int, ...]


PLANS = {
    "tiny": Plan((64,), (1, 2)),
    "llava-1.5-7b": Plan((192, 128, 64), (1, 8, 32)),
    "llava-next-7b": Plan((640, 320), (1, 8)),
    "qwen2.5-vl-7b": Plan((144,), (1, 8)),
}


def whole(shape: Shape, device: str) -> Any:
    """The model with all of its layers and random bfloat16 weights."""
    before = torch.get_default_dtype()
    torch.manual_seed(0)
    try:
        torch.set_default_dtype(torch.bfloat16)
        with torch.device(device):
            return shape.make(shape.layers, shape.tower_layers).eval()
    finally:
        torch.set_default_dtype(before)


def text_side(model: Any, device: str) -> ClipText:
    """A random CLIP text tower that fits the model's vision tower."""
    vision = families.find(model).vision_config
    tower = build_text(vision).to(device, torch.bfloat16)
    projection = torch.randn(vision.projection_dim, vision.hidden_size, device=device) * vision.hidden_size**-0.5
    return ClipText(tower, AutoTokenizer.from_pretrained(str(weights_folder() / "clip")), projection, "plus")


def prompt(shape: Shape, model: Any, device: str) -> dict[str, Any]:
    """The arguments of a call with one random image in the middle of some text."""
    vision = {name: value.to(device) for name, value in shape.vision().items()}
    vision = {name: v.to(torch.bfloat16) if v.is_floating_point() else v for name, v in vision.items()}
    count, half = len(families.find(model).token_maps(vision)[0]), TEXT_TOKENS // 2
    row = [1, *[10] * (half - 1), *[IMAGE_TOKEN] * count, *[11] * (TEXT_TOKENS - half)]
    ids = torch.tensor([row], device=device)
    types = {} if shape.clip else {"mm_token_type_ids": (ids == IMAGE_TOKEN).int()}  # for M-RoPE
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **vision, **types}


def calls_of(model: Any, text: ClipText | None, given: dict[str, Any], keeps: Sequence[int]) -> Iterator[Call]:
    """Every call of one batch size; accelerated ones where the family can be."""
    yield from unpruned(model, families.find(model), given)
    asked = [f"{QUESTION} {row}" for row in range(len(given["input_ids"]))]

    def pruning(keep: int, **settings: Any) -> Pruning:
        # Without a text tower there is nothing to read a question by: the published choice of that family.
        method = create("gridprune" if text is not None else "divprune", keep=keep)
        return prune(model, method, question=asked, clip=text, max_reports=len(asked), **settings)

    for keep in keeps:
        yield from pruned({"pruned": pruning(keep)}, pruning(keep), given, keep)


def row_of(samples: dict[Call, list[Sample]]) -> dict[str, Any]:
    """Milliseconds (median and middle half) and the most memory, by what was called and how many tokens stay."""
    found: dict[str, Any] = {"peak_mib": {}, "launch_share": {}}
    for call, taken in samples.items():
        if not taken:
            continue
        values = [round(1e3 * value, 2) for value in Timing(tuple(each.seconds for each in taken)).quartiles]
        name = call.method or call.what
        if call.question == "new":
            name += " new question"
        label = name if call.keep is None else f"{name} {call.keep}"
        found["launch_share"][label] = taken[0].launch_share
        found["peak_mib"][label] = None if taken[0].peak_bytes is None else taken[0].peak_bytes >> 20
        if call.keep is None:
            found[name] = values
        else:
            found.setdefault(name, {})[str(call.keep)] = values
    return found


@torch.no_grad()
def measure(
    name: str, device: str, rounds: int, held: dict[str, Any], save: Callable[[], None], tell: Callable[[str], None]
) -> None:
    """Fill `held` with a row per batch size that it lacks."""
    plan, shape = PLANS[name], get_shape(name)
    left = [batch for batch in plan.batches if str(batch) not in held]
    if not left:
        return
    model = whole(shape, device)
    text = text_side(model, device) if shape.clip else None
    one = prompt(shape, model, device)
    for batch in left:
        calls = [*calls_of(model, text, repeated(one, batch), plan.keeps)]
        for call in calls:
            call.run()  # graphs are captured after a few calls
        samples = timed(calls, rounds if batch == 1 else max(4, rounds // 2), torch.device(device), lambda words: None)
        held[str(batch)] = row_of(samples)
        save()
        tell(f"{name} batch {batch}: {json.dumps(held[str(batch)])}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.first_token", description=__doc__)
    parser.add_argument("--shapes", default="llava-1.5-7b,llava-next-7b,qwen2.5-vl-7b", help="by commas; tiny is for a CPU")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, required=True, help="JSON file; what it holds is not measured again")
    args = parser.parse_args()
    result = json.loads(args.out.read_text()) if args.out.exists() else {"shapes": {}}
    result["machine"] = machine() | {"gpu": torch.cuda.get_device_name() if args.device != "cpu" else None}

    def save() -> None:
        args.out.write_text(json.dumps(result, indent=1) + "\n")

    for name in args.shapes.split(","):
        measure(name, args.device, args.rounds, result["shapes"].setdefault(name, {}), save, lambda s: print(s, flush=True))


if __name__ == "__main__":
    main()
