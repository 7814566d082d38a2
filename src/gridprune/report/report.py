"""What was kept of one image, where, and why."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from html import escape
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..core.reading import Reading
from ..core.token_map import TokenMap, Zones
from ..files import written
from ..methods.base import Cues, Method, Selection

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..families.base import Family


@dataclass(frozen=True, eq=False, repr=False)
class Report:
    """The decision about one image.

    Attributes:
        method: name of the method.
        settings: its fields.
        model: class of the model.
        family: name of the family.
        question: what guided the selection, or "".
        token_map: geometry of all visual tokens of the image, separators included.
        kept_indices: (k,) int64 ascending, among the candidates.
        kept_mask: (n,) bool among all visual tokens, separators included.
        zones: the partition that got budgets, or None.
        reading: which end of `relevance` means relevant on this tower (:func:`gridprune.core.reading.read`).
        relevance_source, saliency_source: where these come from, or "".
        merged: whether kept tokens absorbed others.
        encode_seconds: wall time of the model's vision encoder, this image's part of the call. None where nobody
            measured it: methods inside the language model act while the prompt is read.
        decision_seconds: wall time of cues, allocation and selection, this image's part; None likewise.
        layer_average: for methods inside the language model, visual tokens averaged over its layers, of all images of
            the prompt together; `kept_indices` are then those the last layer sees. None for methods before it.
    """

    method: str
    settings: dict[str, Any]
    model: str
    family: str
    question: str
    token_map: TokenMap
    kept_indices: Tensor
    kept_mask: Tensor
    zones: Zones | None
    reading: Reading
    relevance_source: str
    saliency_source: str
    merged: bool
    encode_seconds: float | None
    decision_seconds: float | None
    _scores: dict[str, Tensor | None]  # (B, N) each, where they were computed
    _row: int
    _image: Callable[[], Tensor]
    _processor: Any
    layer_average: float | None = None

    @classmethod
    def build(
        cls,
        *,
        method: Method,
        family: Family,
        token_map: TokenMap,
        selection: Selection,
        cues: Cues,
        row: int,
        kept: Tensor,
        question: str,
        image: Callable[[], Tensor],
        processor: Any,
        encode_seconds: float | None,
        decision_seconds: float | None,
        layer_average: float | None = None,
        mask: Tensor | None = None,
    ) -> Report:
        """One row of a batched selection and its cues; `mask` is `kept_mask`, where it is known."""
        return cls(
            method=method.name,
            settings=method.explain(),
            model=type(family.model).__name__,
            family=family.name,
            question=question,
            token_map=token_map,
            kept_indices=kept,
            kept_mask=token_map.keep_mask(kept) if mask is None else mask,
            zones=selection.zones,
            reading=cues.reading,
            relevance_source=cues.relevance_source if cues.relevance is not None else "",
            saliency_source=family.saliency_source() if cues.saliency is not None else "",
            merged=selection.merge is not None,
            encode_seconds=encode_seconds,
            decision_seconds=decision_seconds,
            _scores={"relevance": cues.relevance, "saliency": cues.saliency, "scores": selection.scores},
            _row=row,
            _image=image,
            _processor=processor,
            layer_average=layer_average,
        )

    @cached_property
    def zone_budgets(self) -> Tensor | None:
        """(Z,) int64: tokens kept of each zone; None without zones."""
        if self.zones is None:
            return None
        return torch.bincount(self.zones.index[self.kept_indices], minlength=self.zones.count)

    @cached_property
    def relevance(self) -> Tensor | None:
        """(N,) fp32 over the candidates, or None if the method did not ask."""
        return self._own("relevance")

    @cached_property
    def saliency(self) -> Tensor | None:
        """(N,) fp32 over the candidates, or None if the method did not ask."""
        return self._own("saliency")

    @cached_property
    def scores(self) -> Tensor | None:
        """(N,) fp32 over the candidates: what the method ranked them by, if it did."""
        return self._own("scores")

    def _own(self, name: str) -> Tensor | None:
        """Copied to the host when somebody looks, so that no call waits for it."""
        values = self._scores[name]
        return None if values is None else values[self._row].detach().cpu()

    @property
    def total(self) -> int:
        """N: visual tokens of the image, separators not counted."""
        return len(self.token_map.candidates)

    @property
    def kept(self) -> int:
        """k: visual tokens kept, separators not counted."""
        return len(self.kept_indices)

    @property
    def prompt_total(self) -> int:
        """Placeholders the image has in the unpruned prompt, separators included."""
        return len(self.token_map)

    @property
    def prompt_kept(self) -> int:
        """Placeholders left in the pruned prompt, separators included."""
        return int(self.kept_mask.sum())

    @property
    def kept_boxes(self) -> Tensor:
        """(k, 4) x0 y0 x1 y1 of the kept tokens in the image, or in their frame of a video, in [0, 1]."""
        return self.token_map.candidates.boxes[self.kept_indices]

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers, ready for JSON."""
        return {
            "method": self.method,
            "settings": {key: _plain(value) for key, value in self.settings.items()},
            "model": self.model,
            "family": self.family,
            "question": self.question,
            "grid": list(self.token_map.grid),
            "visual_tokens": {"total": self.total, "kept": self.kept},
            "prompt_tokens": {"total": self.prompt_total, "kept": self.prompt_kept},
            "kept_indices": self.kept_indices.tolist(),
            "zones": None if self.zones is None else self.zones.index.tolist(),
            "zone_budgets": None if self.zone_budgets is None else self.zone_budgets.tolist(),
            "relevance": _rounded(self.relevance),
            "reading": self.reading,
            "relevance_source": self.relevance_source,
            "saliency": _rounded(self.saliency),
            "saliency_source": self.saliency_source,
            "scores": _rounded(self.scores),
            "merged": self.merged,
            "layer_average": self.layer_average,
            "seconds": {"encode": self.encode_seconds, "decision": self.decision_seconds},
        }

    def __repr__(self) -> str:
        asked = f", question={self.question[:60]!r}" if self.question else ""
        return f"Report({self.method}: {self.kept} of {self.total} visual tokens{asked})"

    def _repr_png_(self) -> bytes:
        """:meth:`overlay`, shown by notebooks."""
        file = BytesIO()
        self.overlay().save(file, "PNG")
        return file.getvalue()

    def _repr_html_(self) -> str:
        """:meth:`overlay` with its caption, shown by notebooks that know HTML."""
        data = b64encode(self._repr_png_()).decode()
        return f'<figure><img src="data:image/png;base64,{data}"><figcaption>{escape(repr(self))}</figcaption></figure>'

    def image(self) -> Image:
        """The image as the vision tower saw it, normalisation undone; a video's frames as one sheet."""
        from .overlay import to_image

        return to_image(self._image(), self._processor)

    def overlay(self, image: Image | None = None) -> Image:
        """The image, or each frame of a video, with kept patches clear and the rest dimmed."""
        from .overlay import overlay

        return overlay(self, image if image is not None else self.image())

    def save(self, path: str | Path, image: Image | None = None) -> Path:
        """Write :meth:`overlay` to `path` (its ending decides the format). `image` replaces what the tower saw."""
        with written(path) as partial:
            self.overlay(image).save(partial)
        return Path(path)

    def figure(self, path: str | Path, image: Image | None = None) -> Path:
        """Write the whole explanation: kept patches, zone budgets, relevance and saliency side by side."""
        from .figure import save_figure

        return save_figure(self, Path(path), image if image is not None else self.image())


def _rounded(values: Tensor | None) -> list[float] | None:
    return None if values is None else [round(v, 6) for v in values.double().tolist()]


def _plain(value: Any) -> Any:
    if isinstance(value, (str, int, float, bool, type(None))):
        return value
    return value.item() if isinstance(value, torch.Tensor) else str(value)
