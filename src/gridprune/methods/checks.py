"""What guards every decision: whole cues, full precision, and exactly the tokens that were asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch

from ..core.token_map import TokenMap
from ..errors import MissingCueError, SelectionError, UnsupportedCallError
from .base import PER_TOKEN, Cues, Method, Selection


@contextmanager
def deciding(device: torch.device) -> Iterator[None]:
    """Where cues and selections are computed: without gradients, and in fp32 whatever `torch.autocast` is in force."""
    with torch.no_grad(), ExitStack() as plain:
        for kind in {device.type, "cpu"}:
            if torch.amp.is_autocast_available(kind):
                plain.enter_context(torch.autocast(kind, enabled=False))
        yield


def checked_select(method: Method, cues: Cues, token_map: TokenMap, k: int | None = None) -> Selection:
    """Run `method.select` behind the guards every method shares, and check what came out.

    Args:
        k: how many tokens to keep; None: as many as the method counts.

    Raises:
        BudgetError: k is not in [1, N].
        MissingCueError: a cue in `needs` is absent, or has NaN or infinite values.
        UnsupportedCallError: the method compares frames and there are too few.
        SelectionError: the method did not choose k different tokens.
    """
    with deciding(cues.device):
        if k is not None:
            method.check_count(token_map, k)
        check_finite = _check_cues(method, cues, len(token_map))
        if method.min_frames > 1 and (frames := token_map.groups("frame").count) < method.min_frames:
            raise UnsupportedCallError(
                f"{method.name} compares frames: it needs a video of at least {method.min_frames}, got {frames}. "
                "Choose another method for single images."
            )
        try:
            if k is None:
                k = method.count(cues, token_map)
                method.check_count(token_map, k)
            selection = method.select(cues, token_map, k)
        finally:  # read when everything is under way; broken cues are the better reason
            check_finite()
        _check_selection(method, selection, (cues.batch, k), len(token_map))
        return selection


def _check_cues(method: Method, cues: Cues, n: int) -> Callable[[], None]:
    """Raise a :class:`MissingCueError` if a cue that `method` reads is absent or of another size; what is returned
    raises one if a cue is not finite, and waits for the device to know."""
    missing = [depth for depth in method.saliency_depths if depth not in cues.saliency_at]
    if missing:
        raise MissingCueError(f"{method.name} needs saliency at tower depths {missing}, which were not computed.")
    found = {name: cues.require(name) for name in sorted(method.needs)}
    for name, value in found.items():
        if name in PER_TOKEN and value.shape[1] != n:
            raise MissingCueError(f"The cue {name!r} covers {value.shape[1]} visual tokens, but the map has {n}.")
    found |= {f"saliency_at[{depth}]": cues.saliency_at[depth] for depth in method.saliency_depths}
    numbers = {name: value for name, value in found.items() if value.is_floating_point()}
    zeros = [(value - value).sum(dtype=torch.float32).to(cues.device) for value in numbers.values()]  # or NaN
    packed = torch.stack(zeros) if zeros else None

    def check_finite() -> None:
        broken = [] if packed is None else [name for name, zero in zip(numbers, packed.tolist()) if zero != 0]
        if broken:
            raise MissingCueError(
                f"The cue {broken[0]!r} holds NaN or infinite values: the vision tower overflowed or the image is "
                "broken. Check the pixel values, or run the tower in float32 or bfloat16."
            )

    return check_finite


def _check_selection(method: Method, selection: Selection, shape: tuple[int, int], n: int) -> None:
    """Raise a :class:`SelectionError` unless `selection` holds ascending, different tokens of N, k for each image."""
    kept, finite = selection.on_host
    right = tuple(kept.shape) == shape and kept.dtype == torch.int64
    if not right or not (np.diff(kept.numpy(), axis=1, prepend=-1, append=n) > 0).all():
        raise SelectionError(
            f"{method.name} was to choose {shape[1]} different ones of {n} visual tokens, in ascending order, for each "
            f"of {shape[0]} images; what it gave is something else. Settings or cues may be beyond what float32 can "
            f"hold: {method.explain()}. If they are ordinary, the method is wrong."
        )
    if not finite:
        raise SelectionError(
            f"{method.name} merges with weights that are NaN or infinite: its settings or cues are beyond what float32 "
            "can hold. Choose a method that only drops tokens, or run the tower in float32."
        )
