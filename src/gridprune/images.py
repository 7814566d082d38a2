"""Reading pictures that people hand over: every mode and orientation becomes upright RGB, bad files a clear error."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import BinaryIO

from PIL import Image, ImageOps, UnidentifiedImageError

from .errors import ImageError

MAX_PIXELS = 100_000_000
MAX_BYTES = 100_000_000
_KNOWN = "PNG, JPEG, WebP, GIF, BMP and TIFF are known."


def read_image(path: str | Path, *, max_pixels: int = MAX_PIXELS, max_bytes: int = MAX_BYTES) -> Image.Image:
    """An upright RGB picture from a file.

    EXIF orientation is applied, transparency is laid on white, 16-bit and palette pictures are converted, and of an
    animation the first frame is taken. The size is checked from the header, before any pixel is decoded.

    Raises:
        ImageError: missing, a folder, not a picture, truncated, or larger than `max_bytes` or `max_pixels`.
    """
    file = Path(path)
    if not file.exists():
        raise ImageError(f"There is no file {str(file)!r}.")
    if file.is_dir():
        raise ImageError(f"{str(file)!r} is a folder, not a picture.")
    _check_bytes(file.name, file.stat().st_size, max_bytes)
    with file.open("rb") as stream:
        return _decode(stream, file.name, max_pixels, None)


def decode_image(
    data: bytes,
    name: str = "The picture",
    *,
    max_pixels: int = MAX_PIXELS,
    max_bytes: int = MAX_BYTES,
    formats: tuple[str, ...] | None = None,
) -> Image.Image:
    """An upright RGB picture from bytes that somebody sent; see :func:`read_image`.

    Args:
        name: what to call it in errors.
        formats: Pillow's names of the formats to accept; None for all it knows.

    Raises:
        ImageError: not a picture of such a format, truncated, or larger than `max_bytes` or `max_pixels`.
    """
    _check_bytes(name, len(data), max_bytes)
    return _decode(io.BytesIO(data), name, max_pixels, formats)


def _check_bytes(name: str, size: int, most: int) -> None:
    if size > most:
        raise ImageError(
            f"{name} has {size:,} bytes; at most {most:,} are read. Scale it down, or save it as JPEG or WebP."
        )


def _decode(stream: BinaryIO, name: str, max_pixels: int, formats: tuple[str, ...] | None) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is checked below
            with Image.open(stream, formats=formats) as image:
                if image.width * image.height > max_pixels:
                    raise ImageError(
                        f"{name} has {image.width} x {image.height} pixels, which is too large: at most {max_pixels:,} "
                        "are read. Scale it down first: vision towers see a few hundred pixels a side."
                    )
                image.load()
                return to_rgb(image)
    except Image.DecompressionBombError:
        raise ImageError(f"{name} is too large to decode safely. Scale it down first.") from None
    except UnidentifiedImageError:
        raise ImageError(f"{name} is not a picture. {_KNOWN}") from None
    except (OSError, SyntaxError, ValueError) as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(
            f"{name} cannot be read as a picture ({error}). {_KNOWN} A truncated download must be fetched again."
        ) from None


def to_rgb(image: Image.Image) -> Image.Image:
    """Upright RGB; transparency on white."""
    upright = ImageOps.exif_transpose(image)
    if upright.mode in ("I", "F") or upright.mode.startswith("I;16"):
        upright = upright.point(lambda value: value / 256) if upright.getextrema()[1] > 255 else upright  # type: ignore
        return upright.convert("L").convert("RGB")
    if upright.has_transparency_data:
        layered = upright.convert("RGBA")
        white = Image.new("RGBA", layered.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layered).convert("RGB")
    return upright.convert("RGB")
