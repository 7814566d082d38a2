"""What guards every decision: whole cues, full precision, and exactly the tokens that were asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

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
        return decide(method, cues, token_map, k).checked(method, cues.batch, len(token_map))


@dataclass(frozen=True, eq=False)
class Decision:
    """What a method chose, before the host has seen it.

    Attributes:
        k: how many tokens it was to choose.
        names: the cues that it read, as far as they can be NaN.
        row: int64, everything that has to be checked: `Selection.packed`, and 1 for each of `names` that is not finite.
    """

    selection: Selection
    k: int
    names: tuple[str, ...]
    row: Tensor

    def checked(self, method: Method, batch: int, n: int) -> Selection:
        """The selection, once the host has waited for it and found `k` ascending, different ones of `n` tokens.

        Raises:
            MissingCueError, SelectionError: as :func:`checked_select` says.
        """
        (kept, finite), broken = self.selection.unpacked(self.row.cpu())
        _check_finite(self.names, broken)
        shape, dtype = self.selection.indices.shape, self.selection.indices.dtype
        right = tuple(shape) == (batch, self.k) and dtype == torch.int64
        if not right or not (np.diff(kept.numpy(), axis=1, prepend=-1, append=n) > 0).all():
            raise SelectionError(
                f"{method.name} was to choose {self.k} different ones of {n} visual tokens, in ascending order, for "
                f"each of {batch} images; what it gave is something else. Settings or cues may be beyond what float32 "
                f"can hold: {method.explain()}. If they are ordinary, the method is wrong."
            )
        if not finite:
            raise SelectionError(
                f"{method.name} merges with weights that are NaN or infinite: its settings or cues are beyond what "
                "float32 can hold. Choose a method that only drops tokens, or run the tower in float32."
            )
        return self.selection


def decide(method: Method, cues: Cues, token_map: TokenMap, k: int | None) -> Decision:
    """Run `method.select`. Nothing waits for the device if `k` is given, the method does not, and nothing is wrong."""
    _check_cues(method, cues, token_map)
    found = {name: cues.require(name) for name in sorted(method.needs)}
    found |= {f"saliency_at[{depth}]": cues.saliency_at[depth] for depth in method.saliency_depths}
    numbers = {name: value for name, value in found.items() if value.is_floating_point()}
    zeros = [(value - value).sum(dtype=torch.float32).to(cues.device) for value in numbers.values()]  # or NaN
    broken = (torch.stack(zeros) != 0).long() if zeros else None
    try:
        if k is None:
            k = method.count(cues, token_map)
            method.check_count(token_map, k)
        selection = method.select(cues, token_map, k)
    except Exception:  # broken cues are the better reason
        _check_finite(tuple(numbers), [] if broken is None else broken.tolist())
        raise
    return Decision(selection, k, tuple(numbers), selection.packed(broken))


def _check_cues(method: Method, cues: Cues, token_map: TokenMap) -> None:
    """Raise if a cue that `method` reads is absent or of another size, or if there are too few frames."""
    missing = [depth for depth in method.saliency_depths if depth not in cues.saliency_at]
    if missing:
        raise MissingCueError(f"{method.name} needs saliency at tower depths {missing}, which were not computed.")
    n = len(token_map)
    for name in sorted(method.needs):
        value = cues.require(name)
        if name in PER_TOKEN and value.shape[1] != n:
            raise MissingCueError(f"The cue {name!r} covers {value.shape[1]} visual tokens, but the map has {n}.")
    if method.min_frames > 1 and (frames := token_map.groups("frame").count) < method.min_frames:
        raise UnsupportedCallError(
            f"{method.name} compares frames: it needs a video of at least {method.min_frames}, got {frames}. "
            "Choose another method for single images."
        )


def _check_finite(names: Sequence[str], broken: Sequence[int]) -> None:
    for name, flag in zip(names, broken):
        if flag:
            raise MissingCueError(
                f"The cue {name!r} holds NaN or infinite values: the vision tower overflowed or the image is "
                "broken. Check the pixel values, or run the tower in float32 or bfloat16."
            )
