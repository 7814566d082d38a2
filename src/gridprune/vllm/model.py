"""In front of vLLM's models: images go through the stock encoder, and the kept tokens come out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from vllm.config import VllmConfig
from vllm.distributed import get_tensor_model_parallel_rank
from vllm.logger import init_logger
from vllm.tokenizers import cached_tokenizer_from_config
from vllm.utils.gpu_sync_debug import gpu_sync_allowed

from ..core.token_map import TokenMap
from ..cues.clip_text import ClipText
from ..cues.load_text import find_beside
from ..cues.text_tower import CLIP_TEXT
from ..errors import UnsupportedCallError
from ..families.base import Encoded
from ..methods.base import Method, Needs
from ..methods.uniform import Uniform
from ..selection.collect import TextSide
from ..selection.selector import Choice, Selector
from .architectures import of_config
from .families import OnVllm, images_in
from .metrics import Watch
from .settings import FIELD, ResolvedRequest, Settings, build

logger = init_logger(__name__)


class Pruned:
    """A mixin in front of one of vLLM's model classes."""

    family_class: ClassVar[type[OnVllm]]
    supports_tower_connector_lora: ClassVar[bool] = False  # its token counts do not know of pruning

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        check_engine(vllm_config)
        config = vllm_config.model_config.hf_config
        self.family_class.refuse(config)
        settings = Settings.read(getattr(config, FIELD, {}))
        methods = settings.allowed()
        for method in methods:
            of_config(config).check(method)
        super().__init__(vllm_config=vllm_config, prefix=prefix)  # type: ignore[call-arg]
        self._add_modules(config)
        self.family: OnVllm = self.family_class(self)
        self.tower_tokens: int = settings.tower_tokens or vllm_config.scheduler_config.max_num_batched_tokens
        text = _text_side(self.family, methods, settings, vllm_config)
        self.selector = Selector.of(self.family, text, *methods)
        self.watch = Watch(vllm_config.model_config.served_model_name, get_tensor_model_parallel_rank() == 0)

    def _add_modules(self, config: Any) -> None:
        """Add what the stock model leaves out."""

    def get_input_embeddings(self) -> nn.Module:
        """The table of the language model's input embeddings, which visual tokens are compared with."""
        return self.language_model.model.embed_tokens  # type: ignore[attr-defined, no-any-return]

    def encode_unpruned(self, **vision: Any) -> Any:
        """What the stock model makes of images: (n, D) each."""
        return super().embed_multimodal(**vision)  # type: ignore[misc]

    def embed_multimodal(self, **kwargs: Any) -> Any:
        """The kept tokens of every image, (k, D); embeddings and videos as the stock model has them."""
        packed = kwargs.pop(FIELD, None)
        vision = images_in(self.family, kwargs)
        if packed is None or vision is None:
            return self.untouched(self.encode_unpruned(**kwargs))
        asked = [ResolvedRequest.unpack(each) for each in packed]
        maps = self.family.token_maps(vision)
        kept: list[Tensor] = []
        for part in batches([len(token_map) for token_map in maps], self.tower_tokens):
            with gpu_sync_allowed():  # a choice is read back from the device, which vLLM's sync check would report
                kept += self._prune(self.family.take_images(vision, part), [asked[i] for i in part])
        return kept

    def untouched(self, embeddings: Any) -> Any:
        """Embeddings that are not pruned, in the form of those that are."""
        return embeddings

    def placed(self, values: Tensor, token_map: TokenMap, mask: Tensor) -> Tensor:
        """The kept values (k, D) of an image, with what the runner needs to know about their places."""
        return values

    @torch.no_grad()
    def _prune(self, vision: dict[str, Any], asked: Sequence[ResolvedRequest]) -> list[Tensor]:
        maps = self.family.token_maps(vision)
        encoded = self.selector.encode(vision, maps)
        kept = []
        for i, choice in enumerate(self._choose(encoded, asked)):
            mask = self.family.kept_mask(maps[i], choice.kept)
            values = self.selector.gather(encoded, i, choice, mask)
            extra = self.family.extra(encoded.output, i)
            where = mask.nonzero()[:, 0].to(extra.device)
            kept.append(self.placed(torch.cat([values, extra[where]], dim=1), maps[i], mask))
        return kept

    def _choose(self, encoded: Encoded, asked: Sequence[ResolvedRequest]) -> list[Choice]:
        """What to keep of each image; one batch of the tower may hold requests for several methods."""
        chosen: dict[int, Choice] = {}
        for label in dict.fromkeys(ask.method for ask in asked):
            images = [i for i, ask in enumerate(asked) if ask.method == label]
            with self.watch.deciding(label, encoded.embeddings[0].device):
                chosen.update(zip(images, self._choose_by(build(label), encoded, asked, images)))
        return [chosen[i] for i in range(len(asked))]

    def _choose_by(
        self, method: Method, encoded: Encoded, asked: Sequence[ResolvedRequest], images: Sequence[int]
    ) -> list[Choice]:
        """Nothing can be refused any more: where a choice fails, each image is tried alone, and what is broken falls
        back to evenly spread tokens."""
        counts, questions = [ask.keep for ask in asked], [ask.question for ask in asked]
        try:
            return self.selector.choose(method, encoded, questions, counts, images)
        except Exception as error:  # whatever the reason: an engine must not die of one image
            if len(images) > 1:
                return [choice for i in images for choice in self._choose_by(method, encoded, asked, [i])]
            logger.warning("gridprune keeps evenly spread tokens of an image, since %s failed: %s", method.label, error)
            self.watch.fell_back(method.name)
            return self.selector.choose(Uniform(), encoded, questions, counts, images)


def batches(sizes: Sequence[int], most: int) -> Iterator[list[int]]:
    """Runs of neighbours whose sizes add up to at most `most`; one that is larger goes alone."""
    part: list[int] = []
    for i, size in enumerate(sizes):
        if part and sum(sizes[j] for j in part) + size > most:
            yield part
            part = []
        part.append(i)
    if part:
        yield part


def check_engine(vllm_config: VllmConfig) -> None:
    """Refuse engine options that cannot go together with pruning.

    Raises:
        UnsupportedCallError: the message names the option.
    """
    multimodal = vllm_config.model_config.get_multimodal_config()
    compilation, lora = vllm_config.compilation_config, vllm_config.lora_config
    chosen = {
        "--enable-tower-connector-lora: its token counts do not know of pruning": lora is not None
        and lora.enable_tower_connector_lora,
        "compile_mm_encoder: a compiled tower cannot be read": compilation.compile_mm_encoder,
        "cudagraph_mm_encoder: a tower in a CUDA graph cannot be read": compilation.cudagraph_mm_encoder,
        "--mm-encoder-tp-mode data: a rank must see every image": multimodal.mm_encoder_tp_mode == "data",
        "--video-pruning-rate: only one of the two can place tokens": bool(multimodal.video_pruning_rate),
    }
    for option, given in chosen.items():
        if given:
            raise UnsupportedCallError(f"gridprune does not go together with {option}. Leave the option out.")


def _text_side(family: OnVllm, methods: Sequence[Method], settings: Settings, vllm_config: VllmConfig) -> TextSide:
    """CLIP's text half, or the tokenizer, if one of the methods compares with the question."""
    needs = Needs.of(*methods)
    if not needs.uses_text:
        return TextSide()
    tokenizer = cached_tokenizer_from_config(vllm_config.model_config)
    needs_clip = family.relevance == CLIP_TEXT and needs.cues & {"relevance", "word_relevance"}
    folder = Path(vllm_config.model_config.model)
    source = settings.clip or (find_beside(folder) if folder.is_dir() else None)
    if not needs_clip or source is None:
        return TextSide(tokenizer=tokenizer)
    with torch.device("cpu"):
        clip = ClipText.load(source)
    return TextSide(clip.to(vllm_config.device_config.device or "cpu"), tokenizer)
