"""A loaded model that looks at each picture once and answers about it as often as it is asked.

Everything goes through `prune` and `model.generate`, as in an application. Only the vision encoder is shared: its
output is kept for the last few pictures, with all that any of the offered methods reads.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from .. import families
from ..core.token_map import TokenMap
from ..cues.clip_text import ClipText
from ..cues.question import clean
from ..errors import GridPruneError
from ..eval.shared import clip_of
from ..families.base import Blocks, Encoded, Family
from ..hf.pruning import prune
from ..methods import available, create
from ..methods.base import Cues, Method
from ..report.overlay import to_image
from ..runtime.ask import Answer, Loaded, looked_at, prepare, respond
from ..selection.collect import TextSide, check_available, collect, wanted_blocks
from ..selection.encoder_cache import EncoderCache

ALL = "keep-all"
_PICTURES = 6  # whose encoder outputs are kept
_PROMPTS = 12  # whose inputs are kept
MAX_NEW_TOKENS = 64

History = Sequence[tuple[str, str]]


@dataclass(frozen=True, eq=False)
class Seen:
    """What the model sees of a picture, whatever is kept of it.

    Attributes:
        token_map: geometry of its N candidates.
        image: the picture as the vision tower sees it.
        relevance, saliency: (N,) fp32, larger means more relevant or salient; None if the model cannot give it.
    """

    token_map: TokenMap
    image: Image
    relevance: Tensor | None
    saliency: Tensor | None


class Engine:
    """One model behind the page. Not thread-safe: the page's queue hands it one visitor at a time."""

    def __init__(self, loaded: Loaded) -> None:
        self.loaded = replace(loaded, clip=clip_of(loaded))
        self.clip = None if isinstance(loaded.clip, ClipText) else loaded.clip
        self.family: Family = families.find(loaded.model).streams[0]
        self._text = TextSide(clip_of(self.loaded), loaded.processor.tokenizer)
        self.methods = self._offered()
        self._read = _union(wanted_blocks(self.family, create(name)) for name in self.methods)
        self._looks = EncoderCache(_PICTURES)
        self._prompts: OrderedDict[object, tuple[Image, Any]] = OrderedDict()

    @property
    def name(self) -> str:
        """What the model is called on the page."""
        return public_name(self.loaded.name)

    def tokens(self, image: Image) -> int:
        """N: visual tokens the picture has before pruning."""
        _, token_map = looked_at(self.family, self._inputs(image, "?", ()))
        return len(token_map.candidates)

    @torch.no_grad()
    def see(self, image: Image, question: str) -> Seen:
        """The maps of a picture for a question."""
        inputs = self._inputs(image, question, ())
        vision, token_map = looked_at(self.family, inputs)
        cues = self._cues(vision, token_map, question)
        relevance = None if cues.relevance is None else cues.relevance[0].cpu() * cues.relevance_sign
        saliency = None if cues.saliency is None else cues.saliency[0].cpu()
        picture = to_image(self.family.picture(vision, [token_map], 0), self.loaded.processor)
        return Seen(token_map.candidates, picture, relevance, saliency)

    def answer(self, image: Image, question: str, method: Method, history: History = ()) -> Answer:
        """The answer with what `method` keeps, `history` before it; `seconds` is without the shared look."""
        pruning = prune(
            self.loaded.model, method, processor=self.loaded.processor, question=question, clip=self.loaded.clip
        )
        # The one place where the page differs from an application. `prune(..., cache=...)` would look once per set of
        # tower blocks that methods read; here every look reads what any of them may ask for.
        for stream in pruning.family.streams:
            stream.__dict__["encode"] = partial(self._encode, stream, stream.encode)
        return respond(self.loaded, self._inputs(image, question, history), pruning, MAX_NEW_TOKENS)

    def everything(self, image: Image, question: str, history: History = ()) -> Answer:
        """The answer with all visual tokens, measured the same way."""
        return self.answer(image, question, create(ALL), history)

    def forget(self) -> None:
        """Drop what is remembered of pictures; those still in use are looked at again."""
        self._looks.clear()
        self._prompts.clear()

    # -- what is looked at once ----------------------------------------------------------------------------------

    def _encode(
        self,
        family: Family,
        encode: Callable[[dict[str, Any], list[TokenMap], Blocks], Encoded],
        vision: dict[str, Any],
        maps: list[TokenMap],
        read: Blocks,
    ) -> Encoded:
        """In place of `family.encode`: the output for these pixels, from memory if they were seen before."""
        return self._looks.encoded(family, vision, self._read, lambda: encode(vision, maps, self._read))

    def _inputs(self, image: Image, question: str, history: History) -> Any:
        key = (id(image), question, tuple(history))
        kept = self._prompts.pop(key, None)
        if kept is None:  # the picture is kept with its inputs, so that its id stays its own
            kept = (image, prepare(self.loaded, image, question, history))
        self._prompts[key] = kept
        while len(self._prompts) > _PROMPTS:
            self._prompts.popitem(last=False)
        return kept[1]

    def _cues(self, vision: dict[str, Any], token_map: TokenMap, question: str) -> Cues:
        """Relevance and saliency, or what this model can give of them."""
        for name in ("gridprune", "relevance", "fastervlm"):
            if name in self.methods:
                encoded = self._encode(self.family, self.family.encode, vision, [token_map], Blocks())
                return collect(self.family, create(name), encoded, [0], [clean(question)], self._text)
        return Cues()

    def _offered(self) -> list[str]:
        """Names of the methods that this model can give what they need, GridPrune first."""
        names = [name for name in available() if name != ALL and self._works(name)]
        return sorted(names, key=lambda name: (not name.startswith("gridprune"), name))

    def _works(self, name: str) -> bool:
        try:
            method = create(name)
            check_available(self.family, method, self._text)
            prune(self.loaded.model, method, processor=self.loaded.processor, clip=self.loaded.clip)
        except GridPruneError:
            return False
        return method.min_frames <= 1


def public_name(name: str) -> str:
    """A hub id as it is; of a folder on this machine only its last part."""
    return Path(name).resolve().name if Path(name).exists() else name


def _union(blocks: Any) -> Blocks:
    found = list(blocks)
    return Blocks(
        frozenset().union(*(each.states for each in found)), frozenset().union(*(each.attention for each in found))
    )
