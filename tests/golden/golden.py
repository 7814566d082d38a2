"""Golden selections: which tokens every method keeps of a few made-up images, so that a change shows in review.

    python tests/golden/golden.py            # write the files of methods whose selections changed, and say which

Inputs are made by integer arithmetic, the same on every machine. A file's salt was chosen so that the selections stay
what they are when every cue is changed by a hundred-thousandth of itself: they do not hang on rounding.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gridprune.core.token_map import TokenMap
from gridprune.methods import Cues, Method, create, get
from gridprune.methods.registry import BUILT_IN

FOLDER = Path(__file__).parent / "selections"
NAMES = sorted(name for name in BUILT_IN if get(name).stage == "pre-llm" and name != "keep-all")
WIDTH, WORDS, HEADS = 24, 6, 4


def integers(count: int, salt: int, below: int) -> Tensor:
    """(count,) int64 in [0, below), scrambled by multiplications that fit into 63 bits."""
    x = torch.arange(count) + 1_000_003 * (salt + 1)
    for shift, factor in ((15, 0x2C1B3C6D), (12, 0x297A2D39)):
        x = ((x ^ (x >> shift)) * factor) & 0xFFFFFFFF
    return (x ^ (x >> 15)) % below


def ranks(count: int, salt: int) -> Tensor:
    """(1, count) fp32: 1 / count, ..., 1 in some order."""
    order = integers(count, salt, 1 << 32).argsort(stable=True)
    return (torch.empty(count).index_copy_(0, order, torch.arange(1.0, count + 1)) / count)[None]


def signed(salt: int, *shape: int) -> Tensor:
    """fp32 whole numbers from -50 to 50."""
    count = int(torch.tensor(shape).prod())
    return (integers(count, salt, 101) - 50).float().view(1, *shape)


def images() -> dict[str, tuple[TokenMap, tuple[int, ...]]]:
    """Maps, and how many of their tokens to keep: an image, one of three crops, a clip."""
    crops = TokenMap.from_grid(15, 6)
    view = crops.row // 5
    three = replace(crops, row=crops.row % 5, view=view, plane=view)
    return {
        "image": (TokenMap.from_grid(9, 10), (7, 30)),
        "crops": (three, (12,)),
        "clip": (TokenMap.from_grid(5, 6, frames=3), (12,)),
    }


def cues(n: int, salt: int) -> Cues:
    """One image's cues of every kind."""
    s = 100 * salt
    words = signed(s + 1, WORDS, n) / 500
    flat = ranks(n, s + 2) / 100
    return Cues(
        relevance=ranks(n, s + 3) / 4 - 0.1,
        saliency=ranks(n, s + 4).pow(2),
        saliency_at={depth: ranks(n, s + 5 + i) for i, depth in enumerate(depths())},
        features=signed(s + 20, n, WIDTH) + 10,
        tower_features=signed(s + 21, n, WIDTH) / 50 + 0.2,
        keys=signed(s + 22, n, WIDTH) / 50,
        queries_cls=signed(s + 23, WIDTH) / 10,
        heads=HEADS,
        word_relevance=words,
        word_mask=torch.ones(1, WORDS, dtype=torch.bool),
        question_embeds=signed(s + 24, WORDS, WIDTH),
        question_mask=torch.ones(1, WORDS, dtype=torch.bool),
        head_relevance=signed(s + 25, HEADS, n) / 50,
        laplacian=torch.stack([flat, flat.square() + ranks(n, s + 26)], -1),
        sensitivity=ranks(n, s + 27),
    )


def depths() -> list[float]:
    return sorted({depth for name in NAMES for depth in create(name).saliency_depths})


def jittered(given: Cues, number: int) -> Cues:
    """The same cues, every value changed by at most a hundred-thousandth of itself."""

    def shake(value: Tensor, salt: int) -> Tensor:
        if not value.is_floating_point():
            return value
        return value * (1 + 1e-5 * (integers(value.numel(), salt, 2001).view(value.shape) / 1000 - 1))

    shaken = {name: shake(value, 7 * number + i) for i, (name, value) in enumerate(given.tensors().items())}
    at = {depth: shake(value, 7 * number + 50 + i) for i, (depth, value) in enumerate(given.saliency_at.items())}
    return replace(given, saliency_at=at, **shaken)


def selections(method: Method, salt: int, jitter: int = 0) -> dict[str, list[int]]:
    """What `method` keeps of each image, by "image/k"."""
    found = {}
    for name, (token_map, counts) in images().items():
        if token_map.groups("frame").count < method.min_frames:
            continue
        given = cues(len(token_map), salt)
        given = jittered(given, jitter) if jitter else given
        for k in counts:
            found[f"{name}/{k}"] = method.select(given, token_map, k).indices[0].tolist()
    return found


def steady(method: Method, salt: int) -> bool:
    """Whether rounding cannot change the selections."""
    return all(selections(method, salt, jitter) == selections(method, salt) for jitter in range(1, 6))


def read(name: str) -> dict[str, Any]:
    return dict(json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8")))


def write(name: str) -> bool:
    """Write a method's file; whether it changed. The salt stays if it can."""
    path, method = FOLDER / f"{name}.json", create(name)
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    first = [json.loads(before)["salt"]] if before else []
    salt = next(salt for salt in [*first, *range(200)] if steady(method, salt))
    lines = [f'  "{case}": {json.dumps(kept)}' for case, kept in selections(method, salt).items()]
    text = f'{{"salt": {salt}, "kept": {{\n' + ",\n".join(lines) + "\n}}\n"
    path.write_text(text, encoding="utf-8")
    return text != before


if __name__ == "__main__":
    for stale in {path.stem for path in FOLDER.glob("*.json")} - set(NAMES):
        (FOLDER / f"{stale}.json").unlink()
        print(f"{stale}: gone")
    for each in NAMES:
        if write(each):
            print(f"{each}: changed")
