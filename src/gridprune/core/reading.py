"""Which end of a cosine with the question means relevant: measured for a tower, or decided image by image.

A text tower is trained to tell whole images apart, and nothing in that says where in an image the evidence must lie: at
the upper end of the patches' cosines, at the lower, or at both. Towers differ, and so do questions and single nouns.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

Reading = Literal["plus", "minus", "both", "agree"]
READINGS: tuple[Reading, ...] = get_args(Reading)


def read(values: Tensor, reading: Reading, saliency: Tensor | None = None) -> Tensor:
    """Cosines (..., N) brought to where larger means more relevant, in the same unit, without a host synchronisation.

    "plus" and "minus" are v and -v. "both" is \\|v - mean v\\|, the distance from what is ordinary in this image, which
    ranks tokens as the size of their z-score does. "agree" is v or -v, whichever rises with `saliency` over the image;
    v if neither does.

    Args:
        saliency: broadcastable to `values`; read by "agree" only.
    """
    if reading == "plus":
        return values
    if reading == "minus":
        return -values
    centred = values - values.mean(-1, keepdim=True)
    if reading == "both":
        return centred.abs_()
    assert saliency is not None
    together = (centred.double() * (saliency - saliency.mean(-1, keepdim=True))).sum(-1, keepdim=True)
    return torch.where(together < 0, -values, values)
