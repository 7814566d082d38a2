"""Reading pictures that people hand over: every mode and orientation becomes upright RGB, bad files a clear error."""

from __future__ import annotations

import warnings
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from .errors import ImageError

MAX_PIXELS = 100_000_000
MAX_BYTES = 100_000_000


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
    if file.stat().st_size > max_bytes:
        raise ImageError(f"{file.name} has {file.stat().st_size:,} bytes; at most {max_bytes:,} are read.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is checked below
            with Image.open(file) as image:
                if image.width * image.height > max_pixels:
                    raise ImageError(
                        f"{file.name} has {image.width} x {image.height} pixels; at most {max_pixels:,} are read. "
                        "Scale it down first: vision towers see a few hundred pixels a side."
                    )
                image.load()
                return to_rgb(image)
    except Image.DecompressionBombError as error:
        raise ImageError(f"{file.name} is too large to decode safely: {error}") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(
            f"{file.name} cannot be read as a picture ({error}). PNG, JPEG, WebP, GIF, BMP and TIFF are known; a "
            "truncated download must be fetched again."
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
