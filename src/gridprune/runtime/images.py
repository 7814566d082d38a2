"""Reading images that people hand over: every mode and orientation becomes upright RGB, bad files a clear error."""

from __future__ import annotations

import io
import warnings
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import ImageError

MAX_PIXELS = 100_000_000
MAX_BYTES = 100_000_000
MAX_RATIO = 200  # of the sides; Qwen's processors have the same limit
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF")  # no other decoder is ever started
SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif"}
)  # of files that a folder of images is searched for
SAMPLE = Path(__file__).resolve().parents[1] / "tiny" / "assets" / "scene.png"  # a scene of the embedded model
SAMPLE_QUESTION = "What does the blue sign say?"
_KNOWN = "PNG, JPEG, WebP, GIF, BMP, TIFF, AVIF and HEIC are known."
_SAVE = "Save it with eight bits per channel."

# TIFF
_BITS, _PHOTOMETRIC, _HIGHEST_USED, _SAMPLE_FORMAT, _LOWEST, _HIGHEST = 258, 262, 281, 339, 340, 341
_WHITE_IS_ZERO, _SIGNED = 0, 2
_WHITE_16 = 65_535.0


def read_image(path: str | Path, *, max_pixels: int = MAX_PIXELS, max_bytes: int = MAX_BYTES) -> Image.Image:
    """An upright RGB image from a file.

    EXIF orientation is applied, transparency is laid on white, 16-bit, float and palette images are converted, and of
    an animation the first frame is taken. The size is checked from the header, before any pixel is decoded.

    Raises:
        ImageError: missing, a folder, not an image, truncated, of unknown value range, or larger than `max_bytes`,
            `max_pixels` or `MAX_RATIO` allow.
    """
    file = Path(path)
    try:
        with file.open("rb") as stream:
            _check_bytes(file.name, file.stat().st_size, max_bytes)
            return _decode(stream, file.name, max_pixels, FORMATS)
    except FileNotFoundError:
        raise ImageError(f"There is no file {str(file)!r}.") from None
    except IsADirectoryError:
        raise ImageError(f"{str(file)!r} is a folder, not an image.") from None
    except (OSError, ValueError) as error:  # such as a name that no file can have
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"{str(file)[:80]!r} cannot be read as a file: {_words(error)}.") from None


def decode_image(
    data: bytes,
    name: str = "The image",
    *,
    max_pixels: int = MAX_PIXELS,
    max_bytes: int = MAX_BYTES,
    formats: tuple[str, ...] = FORMATS,
) -> Image.Image:
    """An upright RGB image from bytes that somebody sent; see :func:`read_image`.

    Args:
        name: what to call it in errors.
        formats: Pillow's names of the formats to accept.

    Raises:
        ImageError: not an image of such a format, truncated, or larger than `max_bytes` or `max_pixels`.
    """
    _check_bytes(name, len(data), max_bytes)
    return _decode(io.BytesIO(data), name, max_pixels, formats)


def _words(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _check_bytes(name: str, size: int, most: int) -> None:
    if size > most:
        raise ImageError(
            f"{name} has {size:,} bytes; at most {most:,} are read. Scale it down, or save it as JPEG or WebP."
        )


def check_shape(width: int, height: int, name: str = "The image") -> None:
    """Refuse what processors would blow up: they scale the shorter side to hundreds of pixels, and the other with it.

    Raises:
        ImageError: one side is more than `MAX_RATIO` times the other.
    """
    if max(width, height) > MAX_RATIO * min(width, height):
        raise ImageError(
            f"{name} has {width} x {height} pixels: one side is more than {MAX_RATIO} times the other. Crop it first."
        )


def _decode(stream: BinaryIO, name: str, max_pixels: int, formats: tuple[str, ...]) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is checked below
            with Image.open(stream, formats=[name for name in formats if name in _readers()]) as image:
                if image.width * image.height > max_pixels:
                    raise ImageError(
                        f"{name} has {image.width} x {image.height} pixels, which is too large: at most {max_pixels:,} "
                        "are read. Scale it down first: vision towers see a few hundred pixels a side."
                    )
                check_shape(image.width, image.height, name)
                deep = any(";16" in str(tile) for tile in image.tile)
                image.load()
                if deep and image.mode in ("RGB", "RGBA"):  # Pillow reads the upper eight of sixteen bits
                    _check_used(int(np.asarray(image)[..., :3].max()) << 8, name)
                return to_rgb(image, name)
    except Image.DecompressionBombError:
        raise ImageError(f"{name} is too large to decode safely. Scale it down first.") from None
    except UnidentifiedImageError:
        raise ImageError(f"{name} is not an image{_reader_for(stream)}. {_KNOWN}") from None
    except (OSError, SyntaxError, ValueError) as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(
            f"{name} cannot be read as an image ({error}). {_KNOWN} A truncated download must be fetched again."
        ) from None


@cache
def _readers() -> frozenset[str]:
    """Pillow's names of the formats that can be read here. HEIC has a library of its own."""
    if find_spec("pillow_heif") is not None:
        import_module("pillow_heif").register_heif_opener()
    Image.init()
    return frozenset(Image.OPEN)


def _reader_for(stream: BinaryIO) -> str:
    """What would read a file that nothing here reads, by its first bytes; empty if that is not known."""
    stream.seek(4)
    kind = stream.read(8)
    if kind in (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypmsf1", b"ftypheim", b"ftypheis"):
        return " that can be read here: it is HEIC, which `pip install pillow-heif` adds"
    if kind in (b"ftypavif", b"ftypavis"):
        return " that can be read here: it is AVIF, which Pillow reads from version 11.3 on"
    return ""


def to_rgb(image: Image.Image, name: str = "The image") -> Image.Image:
    """Upright RGB; transparency on white; more than eight bits by the range that mode and tags state.

    Raises:
        ImageError: the values have no stated range, or lie outside it.
    """
    upright = ImageOps.exif_transpose(image)
    if upright.mode in ("I", "F") or upright.mode.startswith("I;16"):
        values = np.asarray(upright)
        black, white = _range(image, values, name)
        scaled = (values.astype(np.float32) - black) * np.float32(255 / (white - black))
        return Image.fromarray(np.rint(scaled).astype(np.uint8)).convert("RGB")
    if _tag(image, _SAMPLE_FORMAT) == _SIGNED:
        raise ImageError(f"{name} holds signed numbers, and nothing says which is black. {_SAVE}")
    if upright.has_transparency_data:
        layered = upright.convert("RGBA")
        background = Image.new("RGBA", layered.size, (255, 255, 255, 255))
        return Image.alpha_composite(background, layered).convert("RGB")
    return upright.convert("RGB")


def _range(image: Image.Image, values: NDArray[Any], name: str) -> tuple[float, float]:
    """The values that stand for black and for white."""
    least, most = float(values.min()), float(values.max())
    low, high = _stated(image)
    if high is None and image.mode == "F":
        low, high = 0.0, 1.0  # what every library that writes float images means
    elif high is None and image.mode.startswith("I;16"):
        high = 2.0 ** (_tag(image, _BITS) or 16) - 1
        if high == _WHITE_16:
            _check_used(most, name)
    elif high is None and image.format == "PNG":  # "I" is how older versions of Pillow read its 16 bits
        high = _WHITE_16
        _check_used(most, name)
    if high is None:
        raise ImageError(f"{name} holds 32-bit or signed numbers, and nothing says which is white. {_SAVE}")
    if not low <= least <= most <= high:  # false for NaN too
        raise ImageError(f"{name} holds values from {least:g} to {most:g}, not from {low:g} to {high:g}. {_SAVE}")
    return (high, low) if _tag(image, _PHOTOMETRIC) == _WHITE_IS_ZERO else (low, high)


def _stated(image: Image.Image) -> tuple[float, float | None]:
    """Lowest and highest value by the tags of a TIFF; integers fill the bits that the highest one needs."""
    low, high = _tag(image, _LOWEST), _tag(image, _HIGHEST)
    if high is not None:
        return float(low or 0), float(high)
    used = _tag(image, _HIGHEST_USED)
    return 0.0, None if used is None or image.mode == "F" else 2.0 ** int(used).bit_length() - 1


def _check_used(most: float, name: str) -> None:
    """Refuse 16 bits of which only the lower ones are used: a very dark image, or one of another range."""
    if 0 < most < 1 << 12:
        raise ImageError(
            f"{name} has 16 bits, of which at most 12 are used, and nothing says whether it is so dark. {_SAVE}"
        )


def _tag(image: Image.Image, number: int) -> Any:
    """The first value of a TIFF tag, or None."""
    value = getattr(image, "tag_v2", {}).get(number)
    return value[0] if isinstance(value, tuple) else value
