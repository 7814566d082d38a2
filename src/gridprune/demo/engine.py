"""A loaded model that looks at images once and answers about them as often as it is asked.

Everything goes through `prune` and `model.generate`, as in an application. Only the vision encoder is shared: its
output is kept for the last few questions' images, with all that any of the offered methods reads.
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
from ..errors import GridPruneError, UnsupportedModelError
from ..methods import available, create
from ..methods.base import Cues, Method, Needs
from ..report.overlay import to_image
from ..runtime.ask import EMBEDDED_FORMS, Answer, Loaded, check_takes_videos, looked_at, prepare, respond
from ..runtime.ladder import FoundKeep, find_keep
from ..selection.collect import TextSide
from ..selection.encoder_cache import EncoderCache
from ..selection.selector import Selector
from .limits import Images

ALL = "keep-all"
_LOOKS = 6  # encoder outputs that are kept
_PROMPTS = 12  # whose inputs are kept
MAX_NEW_TOKENS = 64

History = Sequence[tuple[str, str]]


@dataclass(frozen=True, eq=False)
class Seen:
    """What the model sees of an image or of one frame of a video, whatever is kept of it.

    Attributes:
        number: which of the question's images it is, or 0 for a video: its report among those of an answer.
        frame: which of the video's frames, as the model counts them; 0 for an image.
        token_map: geometry of the N candidates, of the whole video.
        image: the image or frame as the vision tower sees it.
        relevance, saliency: (N,) fp32, larger means more relevant or salient; None if the model cannot give it.
    """

    number: int
    frame: int
    token_map: TokenMap
    image: Image
    relevance: Tensor | None
    saliency: Tensor | None


class Engine:
    """One model behind the page. Not thread-safe: the page's queue hands it one visitor at a time."""

    def __init__(self, loaded: Loaded) -> None:
        self.clip = None if isinstance(loaded.clip, ClipText) else loaded.clip
        self.loaded = replace(loaded, clip=loaded.text_tower())
        self.streams = families.find(loaded.model).streams
        self._text = TextSide(self.loaded.text_tower(), loaded.processor.tokenizer)
        self.methods = self._offered()
        self._looks = EncoderCache(_LOOKS)
        offered = [create(name) for name in self.methods]
        self._selectors = [Selector.of(stream, self._text, *offered, cache=self._looks) for stream in self.streams]
        self._prompts: OrderedDict[object, tuple[Images, Any]] = OrderedDict()

    @property
    def name(self) -> str:
        """What the model is called on the page."""
        return public_name(self.loaded.name)

    @property
    def embedded(self) -> bool:
        """Whether this is the small model inside the package."""
        return self.loaded.name in EMBEDDED_FORMS

    @property
    def no_video(self) -> str:
        """Why it takes no videos; "" if it does."""
        if self.embedded:
            return "The embedded model takes images only. For a video, start the page with --model and one that does."
        try:
            check_takes_videos(self.loaded.model)
        except UnsupportedModelError as error:
            return str(error)
        return ""

    def tokens(self, images: Images) -> list[int]:
        """N of each image, or of the video: visual tokens before pruning."""
        _, _, maps = self._look(self._inputs(images, "?", ()))
        return [len(token_map.candidates) for token_map in maps]

    @torch.no_grad()
    def see(self, images: Images, question: str) -> list[Seen]:
        """The maps of each image, or of each frame of a video, for a question."""
        selector, vision, maps = self._look(self._inputs(images, question, ()))
        found = []
        for number, token_map in enumerate(maps):
            cues = self._cues(selector, vision, maps, number, question)
            relevance = None if cues.relevance is None else cues.read()[0].cpu()
            saliency = None if cues.saliency is None else cues.saliency[0].cpu()
            pixels = selector.family.image(vision, maps, number)
            for frame, own in enumerate(pixels.split(1) if pixels.dim() == 4 else [pixels]):
                shown = to_image(own, self.loaded.processor)
                found.append(Seen(number, frame, token_map.candidates, shown, relevance, saliency))
        return found

    @torch.no_grad()
    def answer(self, images: Images, question: str, method: Method, history: History = ()) -> Answer:
        """The answer with what `method` keeps, `history` before it; `seconds` is without the shared look."""
        inputs = self._inputs(images, question, history)
        shared = method.stage == "pre-llm"
        if shared:  # one look at each image, which reads what any of the offered methods may ask for
            selector, vision, maps = self._look(inputs)
            selector.encode(vision, maps)
        pruning = self.loaded.pruning(method, question, cache=self._looks if shared else None)
        return respond(self.loaded, inputs, pruning, MAX_NEW_TOKENS)

    def everything(self, images: Images, question: str, history: History = ()) -> Answer:
        """The answer with all visual tokens, measured the same way."""
        return self.answer(images, question, create(ALL), history)

    def smallest(self, images: Images, question: str, spec: str, history: History = ()) -> FoundKeep:
        """The smallest k of a method that gives the answer of all tokens; see :func:`gridprune.find_keep`."""
        return find_keep(self.loaded, images, question, spec, history=history, max_new_tokens=MAX_NEW_TOKENS)

    def forget(self) -> None:
        """Drop what is remembered of images; those still in use are looked at again."""
        self._looks.clear()
        self._prompts.clear()

    # -- what is looked at once ----------------------------------------------------------------------------------

    def _inputs(self, images: Images, question: str, history: History) -> Any:
        key = (id(images), question, tuple(history))
        kept = self._prompts.pop(key, None)
        if kept is None:  # the images are kept with their inputs, so that their id stays their own
            kept = (images, prepare(self.loaded, images, question, history))
        self._prompts[key] = kept
        while len(self._prompts) > _PROMPTS:
            self._prompts.popitem(last=False)
        return kept[1]

    def _look(self, inputs: Any) -> tuple[Selector, dict[str, Any], list[TokenMap]]:
        """The selector of what the inputs hold, images or a video; their vision arguments and geometry."""
        given = dict(inputs)
        chosen = next((each for each in self._selectors if each.family.vision(given) is not None), self._selectors[0])
        return chosen, *looked_at(chosen.family, inputs)

    def _cues(
        self, selector: Selector, vision: dict[str, Any], maps: list[TokenMap], number: int, question: str
    ) -> Cues:
        """Relevance and saliency, or what this model can give of them."""
        for name in ("gridprune", "relevance", "fastervlm"):
            if name in self.methods:
                encoded = selector.encode(vision, maps)
                return selector.cues(encoded, [number], [clean(question)], Needs.of(create(name)))
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
