"""A tiny Video-LLaVA that takes images and videos, and a short video, for tests of the page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL.Image import Image
from transformers import BatchFeature

from gridprune.runtime import Loaded
from hf import chats
from hf.kit import IMAGE, VIDEO, model
from hf.models import VIDEO_LLAVA_VIDEOS
from hf.test_cues import clip_text
from hf.words import tokenizer

COUNT, SIZE, PER_FRAME = 20, 48, 36


class Processor:
    """What the stock processor does, without torchvision: resize, scale, expand the placeholders."""

    video_processor = image_processor = SimpleNamespace(image_mean=[0.0] * 3, image_std=[1.0] * 3)
    chat_template, image_token, video_token = chats.HUMAN, "<image>", "<video>"
    apply_chat_template = staticmethod(chats.processor("human").apply_chat_template)

    def __init__(self) -> None:
        self.tokenizer = tokenizer()

    @staticmethod
    def batch_decode(rows: torch.Tensor, **_: object) -> list[str]:
        return [" ".join(str(int(i)) for i in row) for row in rows]

    def __call__(self, text: str, images: Any = None, videos: Any = None, **_: object) -> BatchFeature:
        if videos is not None:
            (frames,) = videos
            given = {"pixel_values_videos": _pixels(frames)[None]}
            mark, place, count = "<video>", VIDEO, len(frames) * (PER_FRAME + 1)
        else:
            given, mark, place, count = {"pixel_values": _pixels(images)}, "<image>", IMAGE, PER_FRAME
        ids: list[int] = []
        for number, part in enumerate(text.split(mark)):
            ids += [place] * (count if number else 0) + [10 + ord(letter) % 80 for letter in part]
        row = torch.tensor([ids])
        return BatchFeature({"input_ids": row, "attention_mask": torch.ones_like(row), **given})


def _pixels(images: Sequence[Image]) -> torch.Tensor:
    return torch.stack([torch.tensor(np.array(i.resize((24, 24)))).permute(2, 0, 1) / 255 for i in images])


def video_loaded() -> Loaded:
    return Loaded("tiny-video", model(VIDEO_LLAVA_VIDEOS), Processor(), clip_text())


def write_video(path: Path, codec: str = "mpeg4", count: int = COUNT, side: int = SIZE) -> Path:
    """A square video in which frame i is grey, 10 i bright; 10 frames a second."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width = stream.height = side
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for number in range(count):
            pixels = np.full((side, side, 3), 10 * number % 256, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path
