"""A loaded model that looks at each image once and answers about it as often as it is asked.

Everything goes through `prune` and `model.generate`, as in an application. Only the vision encoder is shared: its
output is kept for the last few images, with all that any of the offered methods reads.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
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
from ..families.base import Family
from ..methods import available, create
from ..methods.base import Cues, Method, Needs
from ..report.overlay import to_image
from ..runtime.ask import EMBEDDED_FORMS, Answer, Loaded, looked_at, prepare, respond
from ..runtime.ladder import FoundKeep, find_keep
from ..selection.collect import TextSide
from ..selection.encoder_cache import EncoderCache
from ..selection.selector import Selector

ALL = "keep-all"
_IMAGES = 6  # whose encoder outputs are kept
_PROMPTS = 12  # whose inputs are kept
MAX_NEW_TOKENS = 64

History = Sequence[tuple[str, str]]


@dataclass(frozen=True, eq=False)
class Seen:
    """What the model sees of an image, whatever is kept of it.

    Attributes:
        token_map: geometry of its N candidates.
        image: the image as the vision tower sees it.
        relevance, saliency: (N,) fp32, larger means more relevant or salient; None if the model cannot give it.
    """

    token_map: TokenMap
    image: Image
    relevance: Tensor | None
    saliency: Tensor | None


class Engine:
    """One model behind the page. Not thread-safe: the page's queue hands it one visitor at a time."""

    def __init__(self, loaded: Loaded) -> None:
        self.clip = None if isinstance(loaded.clip, ClipText) else loaded.clip
        self.loaded = replace(loaded, clip=loaded.text_tower())
        self.family: Family = families.find(loaded.model).streams[0]
        self._text = TextSide(self.loaded.text_tower(), loaded.processor.tokenizer)
        self.methods = self._offered()
        self._looks = EncoderCache(_IMAGES)
        offered = [create(name) for name in self.methods]
        self._selector = Selector.of(self.family, self._text, *offered, cache=self._looks)
        self._prompts: OrderedDict[object, tuple[Image, Any]] = OrderedDict()

    @property
    def name(self) -> str:
        """What the model is called on the page."""
        return public_name(self.loaded.name)

    @property
    def embedded(self) -> bool:
        """Whether this is the small model inside the package."""
        return self.loaded.name in EMBEDDED_FORMS

    def tokens(self, image: Image) -> int:
        """N: visual tokens the image has before pruning."""
        _, token_map = looked_at(self.family, self._inputs(image, "?", ()))
        return len(token_map.candidates)

    @torch.no_grad()
    def see(self, image: Image, question: str) -> Seen:
        """The maps of an image for a question."""
        inputs = self._inputs(image, question, ())
        vision, token_map = looked_at(self.family, inputs)
        cues = self._cues(vision, token_map, question)
        relevance = None if cues.relevance is None else cues.read()[0].cpu()
        saliency = None if cues.saliency is None else cues.saliency[0].cpu()
        shown = to_image(self.family.image(vision, [token_map], 0), self.loaded.processor)
        return Seen(token_map.candidates, shown, relevance, saliency)

    @torch.no_grad()
    def answer(self, image: Image, question: str, method: Method, history: History = ()) -> Answer:
        """The answer with what `method` keeps, `history` before it; `seconds` is without the shared look."""
        inputs = self._inputs(image, question, history)
        vision, token_map = looked_at(self.family, inputs)
        shared = method.stage == "pre-llm"
        if shared:  # one look at each image, which reads what any of the offered methods may ask for
            self._selector.encode(vision, [token_map])
        pruning = self.loaded.pruning(method, question, cache=self._looks if shared else None)
        return respond(self.loaded, inputs, pruning, MAX_NEW_TOKENS)

    def everything(self, image: Image, question: str, history: History = ()) -> Answer:
        """The answer with all visual tokens, measured the same way."""
        return self.answer(image, question, create(ALL), history)

    def smallest(self, image: Image, question: str, spec: str, history: History = ()) -> FoundKeep:
        """The smallest k of a method that gives the answer of all tokens; see :func:`gridprune.find_keep`."""
        return find_keep(self.loaded, image, question, spec, history=history, max_new_tokens=MAX_NEW_TOKENS)

    def forget(self) -> None:
        """Drop what is remembered of images; those still in use are looked at again."""
        self._looks.clear()
        self._prompts.clear()

    # -- what is looked at once ----------------------------------------------------------------------------------

    def _inputs(self, image: Image, question: str, history: History) -> Any:
        key = (id(image), question, tuple(history))
        kept = self._prompts.pop(key, None)
        if kept is None:  # the image is kept with its inputs, so that its id stays its own
            kept = (image, prepare(self.loaded, image, question, history))
        self._prompts[key] = kept
        while len(self._prompts) > _PROMPTS:
            self._prompts.popitem(last=False)
        return kept[1]

    def _cues(self, vision: dict[str, Any], token_map: TokenMap, question: str) -> Cues:
        """Relevance and saliency, or what this model can give of them."""
        for name in ("gridprune", "relevance", "fastervlm"):
            if name in self.methods:
                encoded = self._selector.encode(vision, [token_map])
                return self._selector.cues(encoded, [0], [clean(question)], Needs.of(create(name)))
        return Cues()

    def _offered(self) -> list[str]:
        """Names of the methods that this model can give what they need, GridPrune first."""
        names = [name for name in available() if name != ALL and self._works(name)]
        return sorted(names, key=lambda name: (not name.startswith("gridprune"), name))

    def _works(self, name: str) -> bool:
        try:
            method = create(name)
            self.loaded.pruning(method)
        except GridPruneError:
            return False
        return method.min_frames <= 1


def public_name(name: str) -> str:
    """A hub id as it is; of a folder on this machine only its last part."""
    return Path(name).resolve().name if Path(name).exists() else name
