"""Reading videos that people hand over: frames spread evenly over the file, as images, with their place in it."""

from __future__ import annotations

import io
import mimetypes
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ..errors import ImageError

FRAMES = 8  # what Video-LLaVA was trained with; frames are the price of a video
MAX_BYTES = 2_000_000_000
CONTAINERS = {"mp4": (4, b"ftyp"), "webm": (0, b"\x1a\x45\xdf\xa3")}  # FFmpeg's name: where its mark stands, and which
CODECS = ("h264", "hevc", "mpeg4", "vp8", "vp9", "av1", "libdav1d")  # of videos that strangers send


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


@dataclass(frozen=True)
class Bounds:
    """What a video that comes from strangers may be at most: bytes and pixels of a frame, frames and seconds."""

    size: int
    pixels: int
    frames: int
    seconds: float


def read_video(path: str | Path, frames: int = FRAMES, *, max_bytes: int = MAX_BYTES) -> Video:
    """`frames` frames of a file, spread evenly over it by their number; a shorter video gives all it has.

    The file is read twice, to count and to decode: what headers say of the number of frames is often wrong.

    Raises:
        ImageError: PyAV is missing, or the file is missing, too large, broken, or has no images in it.
    """
    file = Path(path)
    if not file.is_file():
        raise ImageError(f"There is no file {str(file)!r}.")
    _check_bytes(file.name, file.stat().st_size, max_bytes)
    if frames < 1:
        raise ImageError(f"A video needs at least one frame, got {frames}.")
    return _sampled(lambda: _av().open(str(file)), file.name, frames)


def decode_video(data: bytes, bounds: Bounds, frames: int = FRAMES, name: str = "The video") -> Video:
    """The same from bytes that somebody sent, held in memory: MP4 or WebM, of the codecs that browsers play.

    Args:
        name: what to call it in errors.

    Raises:
        ImageError: PyAV is missing, or the video is of another kind, broken, or beyond `bounds`.
    """
    _check_bytes(name, len(data), bounds.size)
    kind = next((kind for kind, (at, mark) in CONTAINERS.items() if data[at:].startswith(mark)), None)
    if kind is None:
        raise ImageError(f"{name} is not a video that is read here. Give MP4 or WebM.")
    return _sampled(lambda: _av().open(io.BytesIO(data), format=kind), name, frames, bounds)


def _av() -> Any:
    try:
        import av
    except ModuleNotFoundError:
        raise ImageError('Reading videos needs PyAV: pip install "gridprune[video]"') from None
    return av


def _check_bytes(name: str, size: int, most: int) -> None:
    if size > most:
        raise ImageError(f"{name} has {size:,} bytes; at most {most:,} are read.")


def _sampled(opened: Callable[[], Any], name: str, frames: int, bounds: Bounds | None = None) -> Video:
    """Count the frames of a container, and decode those that are wanted."""
    try:
        with opened() as container:
            if not container.streams.video:
                raise ImageError(f"{name} holds no moving images.")
            stream = container.streams.video[0]
            if bounds is not None:
                _check_stream(stream.codec_context, name, bounds)
            rate = float(stream.average_rate or 0)
            total = sum(packet.size > 0 for packet in container.demux(stream))
        if bounds is not None:
            _check_length(name, total, rate, bounds)
        wanted = evenly_spread(total, frames) if total else []
        with opened() as container:
            taken = list(_taken(container, set(wanted), name, bounds))
    except _av().FFmpegError as error:
        raise ImageError(f"{name} cannot be read as a video ({error}). Give MP4, MOV, MKV, WebM or AVI.") from None
    if not wanted or len(taken) < len(wanted):
        raise ImageError(f"{name} is cut off: {len(taken)} of {len(wanted)} frames could be decoded.")
    return Video(taken, wanted, total, rate or 24.0)


def _check_stream(codec: Any, name: str, bounds: Bounds) -> None:
    """Before a frame is decoded; the size that the header states need not be true, so frames are checked again."""
    if codec.name not in CODECS:
        raise ImageError(f"{name} is written in {codec.name}, which is not read. Save it as H.264, VP9 or AV1.")
    _check_size(codec, name, bounds)


def _check_size(pixels: Any, name: str, bounds: Bounds) -> None:
    if pixels.width * pixels.height > bounds.pixels:
        raise ImageError(
            f"{name} has frames of {pixels.width} x {pixels.height} pixels; at most {bounds.pixels:,} pixels are read. "
            "Scale it down."
        )


def _check_length(name: str, total: int, rate: float, bounds: Bounds) -> None:
    if total > bounds.frames or (rate and total / rate > bounds.seconds):
        raise ImageError(
            f"{name} has {total:,} frames in {total / (rate or 24):,.0f} seconds; at most {bounds.frames:,} frames in "
            f"{bounds.seconds:g} seconds are read. Cut it."
        )


def _taken(container: Any, wanted: set[int], name: str, bounds: Bounds | None) -> Iterator[Image.Image]:
    for number, frame in enumerate(container.decode(video=0)):
        if bounds is not None:
            _check_size(frame, name, bounds)
        if number in wanted:
            image = frame.to_image()
            turn = int(getattr(frame, "rotation", 0) or 0)
            yield image.rotate(turn, expand=True) if turn else image
        if number >= max(wanted):
            return
