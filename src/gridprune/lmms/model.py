"""The model that lmms-eval calls: any checkpoint and method of gridprune, in batches, one process per device.

`--model_args` (everything that is not listed is a setting of the method, such as `zone=3`):

    pretrained              "embedded", a checkpoint folder or a hub id
    method, keep            see `gridprune methods`; `keep=all` is the unpruned model, without any interception.
                            `method=downsample` gives smaller images instead; on Qwen-VL their shape stays, so
                            the count is the nearest that the processor makes of it
    clip, positions         see :func:`gridprune.prune`
    dtype                   auto, float32, bfloat16, float16
    resize                  672x672: every image is stretched to this size first, so that all have the same N
    min_pixels, max_pixels  for processors that choose an image's size from such a range (Qwen-VL)

Decoding follows the task; its stops count behind a thinking model's `</think>`, and lmms-eval takes the block off.
Methods are guided by the text of a task's last user message, less instructions about the form of the answer.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import astuple, dataclass
from functools import partial
from typing import Any, NoReturn

import torch
from accelerate import Accelerator
from lmms_eval import utils
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from lmms_eval.models.model_utils.gen_metrics import log_metrics
from lmms_eval.protocol import ChatMessages
from torch import distributed
from tqdm import tqdm

from .. import families
from ..core.budget import Budget
from ..cues.chat import prompt_text, question_in, special_tokens_of
from ..errors import ImageError, UnsupportedCallError
from ..eval.downsample import Patches, shrinks_image
from ..hf.pruning import Pruning, prune
from ..runtime.ask import EMBEDDED, load
from ..runtime.failures import Failures
from ..runtime.images import check_shape, to_rgb
from ..runtime.plan import parse_size
from .arguments import build_method, pixels_of_a_token, set_pixel_range, shrunk, whole_number

_log = logging.getLogger(__name__)
LONGEST = 1024  # new tokens, if a task does not say; as in lmms-eval's own LLaVA classes
_REPORTS = 1 << 16  # more than a batch can have; they are dropped after it
_PARAGRAPH = "\n\n"  # lmms-eval adds it to every task as a stop; its own chat models let it pass, and so do we
_PADDING = "__padding_only__"  # lmms-eval's mark of requests that make the processes' shares equally long
_THOUGHT = "</think>"


@dataclass
class Tally:
    """What was read and written, for lmms-eval's throughput record; rates are per image.

    Attributes:
        seconds: spent in `generate`, summed over processes; reading and preparing images is no part of it.
        failed: rows without an answer. The answer that lmms-eval scores is empty.
    """

    seconds: float = 0.0
    new_tokens: int = 0
    images: int = 0
    total: int = 0
    kept: int = 0
    failed: int = 0

    def add(self, images: int, total: int, kept: int) -> None:
        """Count the visual tokens of a batch."""
        self.images, self.total, self.kept = self.images + images, self.total + total, self.kept + kept

    def of_all_processes(self) -> Tally:
        """The sums over processes, in each of them; lmms-eval itself records those of the first one alone."""
        if not distributed.is_initialized():
            return self
        every: list[Any] = [None] * distributed.get_world_size()
        distributed.all_gather_object(every, astuple(self))
        return Tally(*map(sum, zip(*every)))

    def log(self) -> None:
        """Hand the sums to lmms-eval, which writes them into its results file."""
        images = max(self.images, 1)
        log_metrics(
            total_elapsed_time=self.seconds,
            total_gen_tokens=self.new_tokens,
            avg_speed=self.new_tokens / self.seconds if self.seconds else 0.0,
            additional_metrics={
                "images": self.images,
                "visual_tokens": self.total / images,
                "visual_tokens_kept": self.kept / images,
                "failed_rows": self.failed,
            },
        )


class GridPruneModel(lmms):  # type: ignore[misc]
    """See the head of this file."""

    is_simple = False

    def __init__(
        self,
        pretrained: str = EMBEDDED,
        method: str = "gridprune",
        keep: str | int | float = "11.1%",
        clip: str | None = None,
        positions: str = "contiguous",
        dtype: str = "auto",
        resize: str | None = None,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        device: str | None = None,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        **settings: Any,
    ) -> None:
        """Args are described at the head of this file; `device` and `batch_size` come from lmms-eval's own flags.

        Raises:
            GridPruneError: a bad budget, method or setting (found before the weights are read), a bad checkpoint, or a
                pair of model and method that cannot run.
        """
        super().__init__()
        chosen = build_method(method, keep, settings)
        self.batch_size = whole_number("batch_size", batch_size)
        self._size = None if resize is None else parse_size(str(resize))
        self.accelerator = Accelerator()
        self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes
        self.device = self.accelerator.device if self._world_size > 1 else torch.device(device or _default_device())
        self.loaded = load(pretrained, clip=clip, device=str(self.device), dtype=dtype)
        self.processor = self.loaded.processor
        self.tokenizer = self.processor.tokenizer
        self.tokenizer.padding_side = "left"
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        set_pixel_range(self.processor, min_pixels, max_pixels)
        self.family = families.find(self.loaded.model)
        self._failures, self._tally = Failures(), Tally()
        self._shrink: Callable[[Any], Any] | None = None
        self._patches: Patches | None = None
        if chosen is not None and shrinks_image(chosen):
            self._make_smaller(chosen.budget, max_pixels)
            chosen = None
        self._prune: partial[Pruning] | None = None
        if chosen is not None:
            self._prune = partial(
                prune,
                self.loaded.model,
                chosen,
                processor=self.processor,
                clip=self.loaded.text_tower(),
                positions=positions,  # type: ignore[arg-type]
                max_reports=_REPORTS,
            )
            self._prune()  # raises now what it cannot do

    def _make_smaller(self, budget: Budget, max_pixels: int | None) -> None:
        """Give smaller images from now on, as `gridprune eval` does for `downsample`."""
        per_token = pixels_of_a_token(self.processor)
        if per_token is None:
            self._patches = Patches.of(self.loaded, self.family, budget)
            self._shrink = partial(self._patches.cut, processor=self.processor)
        else:
            self._shrink = partial(shrunk, budget=budget, per_token=per_token)
            set_pixel_range(self.processor, per_token, max_pixels)  # what was shrunk is not enlarged again

    def generate_until(self, requests: Sequence[Instance]) -> list[GenerationResult]:
        """Answer requests in their order; those with equal decoding settings share batches.

        Raises:
            Exception: none of them could be answered; that of the first one.
        """
        asked = [request for request in requests if not (request.metadata or {}).get(_PADDING)]
        collator = utils.Collator(
            [request.args for request in asked],
            sort_fn=lambda arguments: (arguments[4], arguments[5], arguments[3]),  # task, split, document
            group_fn=lambda arguments: arguments[2],
            grouping=True,
        )
        failed: list[Exception] = []
        answers: list[GenerationResult] = []
        with tqdm(total=len(asked), disable=self._rank != 0, desc="answering") as bar:
            for chunk in collator.get_batched(n=self.batch_size):
                answers += self._chunk(list(chunk), failed)
                bar.update(len(answers) - bar.n)
        if asked and len(failed) == len(asked):
            raise failed[0]
        self._tally.failed += len(failed)
        answers = collator.get_original(answers)
        return answers + answers[-1:] * (len(requests) - len(asked))  # padding repeats the last request

    def _chunk(self, chunk: list[tuple[Any, ...]], failed: list[Exception]) -> list[GenerationResult]:
        """One batch: render, generate, cut at stops."""
        contexts, messages_of, settings, documents, tasks, splits = zip(*chunk)
        asked = [
            ChatMessages(messages=build(self.task_dict[task][split][document]))
            for build, task, split, document in zip(messages_of, tasks, splits, documents)
        ]
        answers = []
        for number, (context, ids) in enumerate(zip(contexts, self._each(asked, settings[0]))):
            if isinstance(ids, Exception):
                failed.append(ids)
                _log.error("%s, document %s has no answer: %s", tasks[number], documents[number], ids)
                answers.append(GenerationResult("", TokenCounts(output_tokens=0)))
                continue
            text = _until(self.tokenizer.decode(ids, skip_special_tokens=True), settings[0]).strip()
            self.cache_hook.add_partial("generate_until", (context, settings[0]), text)
            answers.append(GenerationResult(text, TokenCounts(output_tokens=len(ids))))
        return answers

    def _each(self, asked: Sequence[ChatMessages], settings: dict[str, Any]) -> list[list[int] | Exception]:
        """New token ids of every row, or why it has none; a batch that fails is asked row by row."""
        try:
            return list(self._generate(asked, settings))
        except Exception as error:  # of a row, whatever it is: the others are answered
            if len(asked) == 1:
                self._failures.reason(error)  # logs what may be a fault of the code
                return [error]
        return [found for one in asked for found in self._each([one], settings)]

    @torch.no_grad()
    def _generate(self, asked: Sequence[ChatMessages], settings: dict[str, Any]) -> list[list[int]]:
        """New token ids of every row, padding behind the end taken off."""
        model = self.loaded.model
        images = [self._images(messages) for messages in asked]
        conversations = [messages.to_hf_messages() for messages in asked]
        texts = [prompt_text(self.processor, messages) for messages in conversations]
        inputs = self.processor(
            text=texts,
            images=images if any(images) else None,
            padding=True,
            return_tensors="pt",
            **special_tokens_of(self.processor, texts[0]),
            **(Patches.AS_IT_IS if self._patches else {}),
        ).to(self.device, dtype=model.dtype)
        questions = [question_in(turns) for turns, shown in zip(conversations, images) for _ in shown]
        pruning = None if self._prune is None else self._prune(question=questions)
        pad = self.tokenizer.pad_token_id
        started = time.perf_counter()
        with pruning or nullcontext():
            small = self._patches.prompt(self.family, inputs) if self._patches is not None and any(images) else None
            call = inputs if small is None else small.call(self.family)
            output = model.generate(**call, **decoding(settings), pad_token_id=pad)
        new = output[:, inputs["input_ids"].shape[1] :].tolist()  # a GPU is done when its ids are here
        self._tally.seconds += time.perf_counter() - started
        ends = self._ends()
        rows = [list(itertools.takewhile(lambda token: token not in ends, row)) for row in new]
        self._tally.new_tokens += sum(map(len, rows))
        if small is None:
            self._count(dict(inputs), pruning)
        else:
            self._tally.add(sum(map(len, images)), small.tokens, small.tokens)
        return rows

    def _count(self, inputs: dict[str, Any], pruning: Pruning | None) -> None:
        """Visual tokens without separators: from the reports, or, unpruned, from the geometry."""
        if pruning is not None:
            totals, kept = (sum(getattr(report, name) for report in pruning.reports) for name in ("total", "kept"))
            self._tally.add(len(pruning.reports), totals, kept)
            return
        vision = self.family.vision(inputs)
        places = [] if vision is None else self.family.locate(inputs["input_ids"].cpu(), vision) or []
        total = sum(len(place.token_map.candidates) for place in places)
        self._tally.add(len(places), total, total)

    def _ends(self) -> set[int]:
        """Ids that end an answer, or fill up a row behind its end."""
        ends = getattr(self.loaded.model.generation_config, "eos_token_id", None)
        return {self.tokenizer.pad_token_id, *(ends if isinstance(ends, list) else [ends])}

    def _images(self, messages: ChatMessages) -> list[Any]:
        images, videos, audios = messages.extract_media()
        if videos or audios:
            raise UnsupportedCallError(
                "This task has video or audio. The lmms-eval model of gridprune answers questions about images; "
                "videos can be pruned with `gridprune.prune` in your own code."
            )
        images = [_rgb(image) for image in images]
        if self._size is not None:
            images = [image.resize(self._size) for image in images]
        return images if self._shrink is None else [self._shrink(image) for image in images]

    def loglikelihood(self, requests: Sequence[Instance]) -> NoReturn:
        raise UnsupportedCallError(
            "This task ranks given answers by likelihood, which the gridprune model does not offer. Choose the "
            "generating form of the task (output_type: generate_until)."
        )

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> NoReturn:
        raise UnsupportedCallError("This task asks in several rounds, which the gridprune model does not offer.")

    def clean(self) -> None:
        """Record what was read and written, and let go of the model, as lmms-eval asks of every process at the end."""
        tally = self._tally.of_all_processes()
        if self._rank == 0:
            tally.log()
        del self.loaded, self._prune, self.family
        super().clean()


def decoding(settings: dict[str, Any]) -> dict[str, Any]:
    """A task's generation settings as arguments of `generate`; greedy unless it asks for a temperature."""
    temperature = settings.get("temperature") or 0.0
    sampling = {"temperature": temperature, "top_p": settings.get("top_p")} if temperature > 0 else {}
    return {
        "max_new_tokens": settings.get("max_new_tokens") or LONGEST,
        "num_beams": settings.get("num_beams") or 1,
        "do_sample": temperature > 0,
        **sampling,
    }


def _until(text: str, settings: dict[str, Any]) -> str:
    """The text up to the first of the task's stops; those inside a block of thoughts do not end the answer."""
    thoughts, end, said = text.rpartition(_THOUGHT)
    stops = settings.get("until") or []
    said = said.lstrip() if end else said
    for stop in [stops] if isinstance(stops, str) else stops:
        said = said.split(stop)[0] if stop and stop != _PARAGRAPH else said
    return thoughts + end + said


def _rgb(image: Any) -> Any:
    if not hasattr(image, "convert"):
        raise ImageError(f"The task gives an image as {type(image).__name__}; a PIL image is expected.")
    check_shape(*image.size)
    return to_rgb(image)


def _default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
