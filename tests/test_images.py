"""Pictures as people have them: every mode, every orientation, and files that are none."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from gridprune.errors import ImageError
from gridprune.images import decode_image, read_image


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "I;16", "I", "F"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    ramp = np.linspace(0, 255, 64).reshape(8, 8)
    if mode == "I;16":
        image = Image.fromarray((ramp * 256).astype(np.uint16))
    elif mode in ("I", "F"):
        image = Image.fromarray(ramp.astype(np.int32 if mode == "I" else np.float32))
    else:
        image = Image.fromarray(ramp.astype(np.uint8)).convert(mode)
    path = tmp_path / "picture.tiff"
    image.save(path)
    read = read_image(path)
    assert read.mode == "RGB"
    assert read.size == (8, 8)
    if mode not in ("1", "CMYK"):
        pixels = np.asarray(read, dtype=float).mean(-1)
        assert pixels[0, 0] < 20
        assert pixels[-1, -1] > 200


def test_transparent_becomes_white(tmp_path):
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert read_image(tmp_path / "clear.png").getpixel((0, 0)) == (255, 255, 255)


def test_exif_orientation_is_applied(tmp_path):
    image = Image.new("RGB", (8, 4), "red")
    exif = image.getexif()
    exif[0x0112] = 6  # rotated by 90 degrees
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg").size == (4, 8)


@pytest.mark.parametrize("size", [(1, 1), (20_000, 3), (3, 20_000)])
def test_odd_sizes_are_read(tmp_path, size):
    Image.new("RGB", size, "blue").save(tmp_path / "odd.png")
    assert read_image(tmp_path / "odd.png").size == size


def test_too_many_pixels(tmp_path):
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    with pytest.raises(ImageError, match="too large"):
        read_image(tmp_path / "bomb.png")


def test_too_many_bytes(tmp_path):
    Image.new("RGB", (64, 64)).save(tmp_path / "a.bmp")
    with pytest.raises(ImageError, match="bytes"):
        read_image(tmp_path / "a.bmp", max_bytes=100)


def test_truncated(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:4000])
    with pytest.raises(ImageError, match="cannot be read"):
        read_image(tmp_path / "half.png")


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n\x1a\n"])
def test_no_picture(tmp_path, content):
    (tmp_path / "none.png").write_bytes(content)
    with pytest.raises(ImageError):
        read_image(tmp_path / "none.png")


def test_missing_and_folder(tmp_path):
    with pytest.raises(ImageError, match="no file"):
        read_image(tmp_path / "nothing.png")
    with pytest.raises(ImageError, match="folder"):
        read_image(tmp_path)


@pytest.mark.parametrize(
    ("data", "limits", "words"),
    [
        (b"not a picture", {}, "not a picture. PNG, JPEG"),
        (b"", {}, "not a picture"),
        (b"x" * 100, {"max_bytes": 99}, "100 bytes"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", {"formats": ("PNG",)}, "not a picture"),
    ],
)
def test_bytes_that_are_no_picture(data, limits, words):
    with pytest.raises(ImageError, match=words) as caught:
        decode_image(data, "sent.png", **limits)
    assert "BytesIO" not in str(caught.value)


def test_bytes_of_a_picture_that_was_cut_off():
    stream = io.BytesIO()
    Image.effect_noise((64, 64), 90).save(stream, "PNG")
    assert decode_image(stream.getvalue()).size == (64, 64)
    with pytest.raises(ImageError, match="fetched again"):
        decode_image(stream.getvalue()[:1000])
