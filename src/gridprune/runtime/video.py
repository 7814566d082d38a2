"""Reading videos that people hand over: frames spread evenly over the file, as images, with their place in it."""

from __future__ import annotations

import mimetypes
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ..errors import ImageError

FRAMES = 8  # what Video-LLaVA was trained with; frames are the price of a video
MAX_BYTES = 2_000_000_000


@dataclass(frozen=True, eq=False)
class Video:
    """Frames of a video.

    Attributes:
        frames: upright RGB images, in order.
        indices: which frame of the file each is, from 0.
        total: frames in the file.
        rate: frames a second of the file.
    """

    frames: Sequence[Image.Image]
    indices: Sequence[int]
    total: int
    rate: float

    @property
    def metadata(self) -> dict[str, Any]:
        """What transformers' video processors want to know of frames that were sampled before."""
        return {"total_num_frames": self.total, "fps": self.rate, "frames_indices": list(self.indices)}


def is_video(path: str | Path) -> bool:
    """Whether a file is a video, by its ending. Animated images are images."""
    return (mimetypes.guess_type(str(path))[0] or "").startswith("video/")


def evenly_spread(total: int, frames: int) -> list[int]:
    """The middles of `frames` equal parts of `total` frames; all of them if there are no more."""
    frames = min(frames, total)
    return [(2 * i + 1) * total // (2 * frames) for i in range(frames)]


def read_video(path: str | Path, frames: int = FRAMES, *, max_bytes: int = MAX_BYTES) -> Video:
    """`frames` frames of a file, spread evenly over it by their number; a shorter video gives all it has.

    The file is read twice, to count and to decode: what headers say of the number of frames is often wrong.

    Raises:
        ImageError: PyAV is missing, or the file is missing, too large, broken, or has no images in it.
    """
    file = Path(path)
    if not file.is_file():
        raise ImageError(f"There is no file {str(file)!r}.")
    if file.stat().st_size > max_bytes:
        raise ImageError(f"{file.name} has {file.stat().st_size:,} bytes; at most {max_bytes:,} are read.")
    if frames < 1:
        raise ImageError(f"A video needs at least one frame, got {frames}.")
    try:
        import av
    except ModuleNotFoundError:
        raise ImageError('Reading videos needs PyAV: pip install "gridprune[video]"') from None
    try:
        with av.open(str(file)) as container:
            if not container.streams.video:
                raise ImageError(f"{file.name} holds no moving images.")
            rate = float(container.streams.video[0].average_rate or 0)
            total = sum(packet.size > 0 for packet in container.demux(container.streams.video[0]))
        wanted = evenly_spread(total, frames) if total else []
        with av.open(str(file)) as container:
            taken = list(_taken(container, set(wanted)))
    except av.FFmpegError as error:
        raise ImageError(f"{file.name} cannot be read as a video ({error}). Give MP4, MOV, MKV, WebM or AVI.") from None
    if not wanted or len(taken) < len(wanted):
        raise ImageError(f"{file.name} is cut off: {len(taken)} of {len(wanted)} frames could be decoded.")
    return Video(taken, wanted, total, rate or 24.0)


def _taken(container: Any, wanted: set[int]) -> Iterator[Image.Image]:
    for number, frame in enumerate(container.decode(video=0)):
        if number in wanted:
            image = frame.to_image()
            turn = int(getattr(frame, "rotation", 0) or 0)
            yield image.rotate(turn, expand=True) if turn else image
        if number >= max(wanted):
            return
