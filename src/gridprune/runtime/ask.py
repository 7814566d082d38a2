"""One question about images or a video, from a checkpoint to an answer with its costs: what `gridprune ask` runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image

from .. import families
from ..compat import CACHE, device_of, pretrained
from ..core.token_map import TokenMap
from ..cues.chat import conversation, prompt_text, special_tokens_of
from ..cues.clip_text import DEFAULT_READING, ClipText
from ..cues.load_text import text_tower
from ..cues.text_tower import TextTower, stored_reading
from ..errors import (
    CheckpointError,
    GridPruneError,
    ImageError,
    QuestionError,
    SettingError,
    UnsupportedModelError,
    first_line,
)
from ..families.base import Family
from ..hf.prompt_pruner import Positions, Question
from ..hf.pruning import Pruning, prune
from ..methods.base import Method
from ..report.report import Report
from ..selection.encoder_cache import EncoderCache, processed_once
from .devices import check_dtype, find_device
from .images import check_shape
from .packages import check_torchvision, missing_package
from .video import Video

EMBEDDED = "embedded"
EMBEDDED_NEXT = "embedded-next"
EMBEDDED_FORMS = {EMBEDDED: "llava", EMBEDDED_NEXT: "next"}  # forms of `gridprune.tiny.forms`
Media = Image | Sequence[Image] | Video  # what one question is about


@dataclass(eq=False)
class Loaded:
    """A model ready to be asked.

    Attributes:
        name: what a person called it.
        clip: the text half of the vision tower, or None to look for one beside the checkpoint.
        check: raises a QuestionError for a question that the model cannot understand.
    """

    name: str
    model: Any
    processor: Any
    clip: TextTower | str | Path | None = None
    check: Callable[[str], None] | None = None

    def text_tower(self) -> TextTower | None:
        """The text half of the vision tower, given or found beside a local checkpoint; read from disk once."""
        found = text_tower(self.clip, self.model)
        if found is not None and found is not self.clip:
            self.clip = found.to(device_of(self.model))
        return found

    def pruning(self, method: Method, question: Question = None, **settings: Any) -> Pruning:
        """A :func:`gridprune.prune` of this model, with its processor and the text half of its vision tower.

        The text half is read from disk for the first method that wants it, and kept in `clip`.

        Args:
            settings: further arguments of :func:`gridprune.prune`.
        """
        made = prune(
            self.model, method, processor=self.processor, question=question or None, clip=self.clip, **settings
        )
        self.clip = made.text.clip or self.clip
        return made


@dataclass(frozen=True, eq=False)
class Answer:
    """Attributes:
    text: the generated words.
    seconds: wall time of `generate`, image and question already prepared.
    visual_tokens: visual tokens the language model read, of all images together (separators not counted).
    kv_bytes: keys and values of the whole sequence, as held by the cache; 0 for a model that keeps none.
    reports: what was kept, of each image or of the video; empty if nothing was pruned.
    """

    text: str
    seconds: float
    visual_tokens: int
    kv_bytes: int
    reports: Sequence[Report]

    @property
    def report(self) -> Report | None:
        """What was kept of the first image, or None if nothing was pruned."""
        return self.reports[0] if self.reports else None

    def smaller_cache(self, full: Answer) -> str:
        """How many times smaller than that of `full` the cache is, in words; empty for models that keep none."""
        return f"{full.kv_bytes / self.kv_bytes:.1f}x smaller" if self.kv_bytes else ""


def load(
    name: str = EMBEDDED,
    *,
    clip: str | Path | None = None,
    device: str = "cpu",
    dtype: str = "auto",
    device_map: str | None = None,
) -> Loaded:
    """Load a checkpoint: the embedded model in either form, a local folder, or a hub id.

    Args:
        name: "embedded", "embedded-next" (LLaVA-NeXT), a folder, or a hub id such as "llava-hf/llava-1.5-7b-hf".
        clip: where the text half of CLIP is; see :func:`gridprune.prune`.
        device: a torch device, or "auto" for this machine's accelerator.
        dtype: "auto" for the checkpoint's own, or "float32", "bfloat16", "float16".
        device_map: instead of `device`, how accelerate spreads a checkpoint: "auto", "balanced", ...

    Raises:
        CheckpointError: nothing loadable there, some of its weights are missing, or the hub cannot be reached.
        SettingError: there is no such device or dtype.
        InstallationError: its processor needs a package that is missing, or torchvision does not fit torch.
    """
    check_torchvision()
    check_dtype(dtype)
    where = find_device(device)
    if device_map is not None and (name in EMBEDDED_FORMS or device not in ("auto", "cpu")):
        raise SettingError("A device map spreads a checkpoint by itself: give no device, and no embedded model.")
    if name in EMBEDDED_FORMS:
        return _load_embedded(name, clip, where, None if dtype == "auto" else getattr(torch, dtype))
    from transformers import AutoProcessor

    kind = "folder" if Path(name).is_dir() else "hub id"
    try:
        processor = AutoProcessor.from_pretrained(name)  # before the weights: it may want a package
        return Loaded(name, _load_model(name, where, dtype, device_map), processor, clip)
    except ImportError as error:
        raise missing_package(name, error) from error
    except Exception as error:  # hub, network, file, format and memory errors come in many classes
        raise CheckpointError(
            f"Could not load the {kind} {name!r}: {_reason(error)}\nCheck the name, give a checkpoint folder, or "
            "leave --model out: the embedded model needs no download."
        ) from error


def _load_model(name: str, device: torch.device, dtype: str, device_map: str | None) -> Any:
    """The model, moved to its device; a quantised one is put there by transformers, since it cannot be moved."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    options: dict[str, Any] = {"dtype": dtype}
    if device_map is None and getattr(AutoConfig.from_pretrained(name), "quantization_config", None):
        device_map = str(device)
    if device_map is not None:
        options["device_map"] = device_map
    model = pretrained(AutoModelForImageTextToText, name, **options)
    return (model if device_map is not None else model.to(device)).eval()


def _load_embedded(name: str, clip: str | Path | None, device: torch.device, dtype: torch.dtype | None) -> Loaded:
    from ..tiny import load as load_tiny
    from ..tiny.loading import weights_folder
    from ..tiny.vocabulary import check_known

    tiny = load_tiny(form=EMBEDDED_FORMS[name])
    model: Any = tiny.model
    reading = stored_reading(weights_folder() / "clip", DEFAULT_READING)
    own = ClipText.from_model(tiny.clip, tiny.clip_tokenizer, reading)
    return Loaded(name, model.to(device, dtype), tiny.processor, clip or own.to(device), check_known)


def prepare(
    loaded: Loaded, images: Media, question: str, history: Sequence[tuple[str, str]] = (), **settings: Any
) -> Any:
    """Model inputs for one question about an image, several, or a video, by the checkpoint's own chat template.

    Args:
        history: earlier turns about them, each a question and its answer.
        settings: of the processor, other than the checkpoint's own, such as `do_resize`.

    Raises:
        QuestionError: the question is empty, or the model cannot understand it.
        CheckpointError: the checkpoint has no chat template to write the prompt with.
        ImageError: there is no image, or one is so narrow that resizing would blow it up.
        UnsupportedModelError: a video, and the model takes none.
    """
    _check_question(loaded, question)
    media: dict[str, Any]
    if isinstance(images, Video):
        check_takes_videos(loaded.model)
        text = prompt_text(loaded.processor, conversation(question, history, "video"))
        media = {"videos": [list(images.frames)], "video_metadata": [images.metadata], "do_sample_frames": False}
    else:
        listed = [images] if isinstance(images, Image) else list(images)
        if not listed:
            raise ImageError("There is no image to ask about: give one or more.")
        for image in listed:
            check_shape(*image.size)
        text = prompt_text(loaded.processor, conversation(question, history, count=len(listed)))
        media = {"images": listed}
    return _processed(loaded, text, **media, **settings)


def prepare_batch(loaded: Loaded, images: Sequence[Image], questions: Sequence[str]) -> Any:
    """Model inputs of several images, each with its own question; see :func:`prepare`. Padded on the left."""
    for image, question in zip(images, questions, strict=True):
        _check_question(loaded, question)
        check_shape(*image.size)
    tokenizer = getattr(loaded.processor, "tokenizer", loaded.processor)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token  # what it is does not matter: the mask hides it
    texts = [prompt_text(loaded.processor, conversation(question)) for question in questions]
    return _processed(loaded, texts, images=[[image] for image in images], padding=True, padding_side="left")


def _check_question(loaded: Loaded, question: str) -> None:
    if not question.strip():
        raise QuestionError("The question is empty.")
    if loaded.check is not None:
        loaded.check(question)


def _processed(loaded: Loaded, text: str | list[str], **arguments: Any) -> Any:
    first = text if isinstance(text, str) else text[0]
    tokens = special_tokens_of(loaded.processor, first)
    inputs = loaded.processor(text=text, return_tensors="pt", **arguments, **tokens)
    return inputs.to(device_of(loaded.model), dtype=loaded.model.dtype)


def check_takes_videos(model: Any) -> None:
    """Raises UnsupportedModelError for a model that takes images alone; the message names models that take videos."""
    if not families.find(model).video:
        others = ", ".join(sorted(name for family in families.available() if family.video for name in family.classes))
        raise UnsupportedModelError(f"{type(model).__name__} takes images, not videos. Models that do: {others}.")


def looked_at(family: Family, inputs: Any) -> tuple[dict[str, Any], list[TokenMap]]:
    """The vision arguments of :func:`prepare`'s inputs, and the geometry of all tokens of each image or video.

    Raises:
        UnsupportedModelError: the processor returned no pixels.
        UnsupportedCallError: the prompt does not hold exactly the placeholders that the images need.
    """
    vision = family.vision(dict(inputs))
    if vision is None:
        raise UnsupportedModelError("The processor returned no pixels for this image. Choose another model.")
    return vision, [place.token_map for place in family.places(inputs["input_ids"].cpu(), vision)]


def answer(
    loaded: Loaded,
    images: Media,
    question: str,
    method: Method | None = None,
    *,
    history: Sequence[tuple[str, str]] = (),
    max_new_tokens: int = 64,
    positions: Positions = "contiguous",
) -> Answer:
    """Ask one question, with all visual tokens or with those that `method` keeps. Greedy decoding.

    Args:
        images: an image, several, or the frames of a video (:func:`gridprune.runtime.video.read_video`). A budget is
            that of each image, or of the whole video.
        history: earlier turns about them, each a question and its answer. `question` alone guides the method.
    """
    inputs = prepare(loaded, images, question, history)
    if method is None:
        return respond(loaded, inputs, None, max_new_tokens)
    pruning = loaded.pruning(method, question, positions=positions)
    return respond(loaded, inputs, pruning, max_new_tokens)


def ask_many(
    loaded: Loaded,
    images: Media,
    questions: Sequence[str],
    method: Method,
    *,
    max_new_tokens: int = 64,
    positions: Positions = "contiguous",
) -> list[Answer]:
    """Ask several questions about the same images, each by itself, with one vision pass. Greedy decoding.

    The answers are those of :func:`answer`. The images are processed and encoded once; they are selected from and
    read by the language model once for each question.

    Args:
        images: an image, several, or the frames of a video (:func:`gridprune.runtime.video.read_video`).

    Returns:
        One answer per question, in their order.

    Raises:
        QuestionError: a question is empty.
        SettingError: `method` acts inside the language model, where no encoder output can be shared.
    """
    cache, once = EncoderCache(1), replace(loaded, processor=processed_once(loaded.processor))
    prompts = [prepare(once, images, question) for question in questions]
    prunings = [loaded.pruning(method, question, positions=positions, cache=cache) for question in questions]
    return [respond(loaded, inputs, pruning, max_new_tokens) for inputs, pruning in zip(prompts, prunings)]


def respond(loaded: Loaded, inputs: Any, pruning: Pruning | None, max_new_tokens: int = 64) -> Answer:
    """Generate from :func:`prepare`'s inputs of one question, pruned if `pruning` is given. Greedy decoding."""
    return respond_all(loaded, inputs, pruning, max_new_tokens)[0]


@torch.no_grad()
def respond_all(loaded: Loaded, inputs: Any, pruning: Pruning | None, max_new_tokens: int = 64) -> list[Answer]:
    """The same from inputs with one question a row; seconds and bytes of an answer are its part of the batch."""
    with pruning or nullcontext():
        started = time.perf_counter()
        output = loaded.model.generate(
            **inputs, max_new_tokens=max_new_tokens, do_sample=False, return_dict_in_generate=True
        )
        seconds = time.perf_counter() - started
    prompt = inputs["input_ids"]
    rows = len(prompt)
    texts = loaded.processor.batch_decode(output.sequences[:, prompt.shape[1] :], skip_special_tokens=True)
    streams = families.find(loaded.model).streams
    reports = [[] for _ in range(rows)] if pruning is None else _by_row(streams, inputs, list(pruning.reports))
    placeholders = [sum(int((row == stream.placeholder).sum()) for stream in streams) for row in prompt]
    return [
        Answer(
            text=text.strip(),
            seconds=seconds / rows,
            visual_tokens=sum(report.kept for report in own) if own else count,
            kv_bytes=cache_bytes(getattr(output, CACHE)) // rows,
            reports=own,
        )
        for text, count, own in zip(texts, placeholders, reports, strict=True)
    ]


def _by_row(streams: Sequence[Family], inputs: Any, reports: list[Report]) -> list[list[Report]]:
    """The newest reports, those of each row of the inputs."""
    ids = inputs["input_ids"].cpu()
    seen = [(stream, stream.vision(dict(inputs))) for stream in streams]
    rows = [place.row for stream, vision in seen if vision is not None for place in stream.places(ids, vision)]
    found: list[list[Report]] = [[] for _ in range(len(ids))]
    for row, report in zip(rows, reports[len(reports) - len(rows) :], strict=True):
        found[row].append(report)
    return found


def cache_bytes(cache: Any) -> int:
    """Bytes of the keys and values a cache holds."""
    layers = [layer for layer in getattr(cache, "layers", []) if getattr(layer, "keys", None) is not None]
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in layers)


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, GridPruneError) else first_line(error)
