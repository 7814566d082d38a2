"""Images as people have them: every mode, every orientation, and files that are none."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin, features

from gridprune.errors import ImageError
from gridprune.runtime.images import decode_image, read_image

RAMP = np.linspace(0, 1, 64).reshape(8, 8)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    path = tmp_path / "image.tiff"
    Image.fromarray((RAMP * 255).astype(np.uint8)).convert(mode).save(path)
    read = read_image(path)
    assert read.mode == "RGB"
    assert read.size == (8, 8)
    if mode not in ("1", "CMYK"):
        pixels = np.asarray(read, dtype=float).mean(-1)
        assert pixels[0, 0] < 20
        assert pixels[-1, -1] > 200


BITS, PHOTOMETRIC, HIGHEST_USED, SAMPLE_FORMAT, LOWEST, HIGHEST = 258, 262, 281, 339, 340, 341  # TIFF tags


def saved(path, values, **tags):
    """A TIFF of one channel with tags of our choice."""
    info = TiffImagePlugin.ImageFileDirectory_v2()
    for name, value in tags.items():
        info[globals()[name]] = value
    Image.fromarray(values).save(path, tiffinfo=info)
    return path


@pytest.mark.parametrize(
    ("name", "values", "tags"),
    [
        ("float.tiff", RAMP.astype(np.float32), {}),
        ("long-float.tiff", (RAMP * 7 - 3).astype(np.float32), {"LOWEST": -3.0, "HIGHEST": 4.0}),
        ("sixteen.tiff", (RAMP * 65535).astype(np.uint16), {}),
        ("sixteen.png", (RAMP * 65535).astype(np.uint16), {}),
        ("twelve.tiff", (RAMP * 4095).astype(np.uint16), {"HIGHEST_USED": 4095}),
        ("used.tiff", (RAMP * 4095).astype(np.uint16), {"HIGHEST_USED": 3900}),
        ("long.tiff", (RAMP * 1000).astype(np.int32), {"HIGHEST": 1000.0}),
        ("inverted.tiff", ((1 - RAMP) * 65535).astype(np.uint16), {"PHOTOMETRIC": 0}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_range_of_values_is_the_one_that_is_stated(tmp_path, name, values, tags):
    path = tmp_path / name
    if name.endswith(".png"):
        Image.fromarray(values).save(path)
    else:
        saved(path, values, **tags)
    read = np.asarray(read_image(path), dtype=float)
    assert np.abs(read - 255 * RAMP[..., None]).max() <= 1


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ((RAMP * 4095).astype(np.uint16), "16 bits, of which at most 12"),
        ((RAMP * 255).astype(np.float32), "from 0 to 255, not from 0 to 1"),
        (np.full((4, 4), np.nan, np.float32), "nan"),
        ((RAMP * 255).astype(np.int32), "32-bit or signed"),
        ((RAMP * 2e9).astype(np.int32), "32-bit or signed"),
    ],
)
def test_values_without_a_stated_range_are_refused(tmp_path, values, words):
    with pytest.raises(ImageError, match=words):
        read_image(saved(tmp_path / "image.tiff", values))


def test_twelve_of_sixteen_bits_in_colour_are_refused(tmp_path):
    """A PNG of 48 bits, written by hand: Pillow writes none."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    def png(brightest):
        rows = b"".join(b"\0" + np.full((4, 3), brightest, ">u2").tobytes() for _ in range(4))
        head = struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)
        parts = chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
        return b"\x89PNG\r\n\x1a\n" + b"".join(parts)

    assert decode_image(png(65535)).getpixel((0, 0)) == (255, 255, 255)
    with pytest.raises(ImageError, match="at most 12"):
        decode_image(png(4000))


def test_black_is_black(tmp_path):
    assert read_image(saved(tmp_path / "black.tiff", np.zeros((4, 4), np.uint16))).getpixel((0, 0)) == (0, 0, 0)


def test_transparent_becomes_white(tmp_path):
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert read_image(tmp_path / "clear.png").getpixel((0, 0)) == (255, 255, 255)


def test_exif_orientation_is_applied(tmp_path):
    image = Image.new("RGB", (8, 4), "red")
    exif = image.getexif()
    exif[0x0112] = 6  # rotated by 90 degrees
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg").size == (4, 8)


@pytest.mark.parametrize("size", [(1, 1), (600, 3), (3, 600)])
def test_odd_sizes_are_read(tmp_path, size):
    Image.new("RGB", size, "blue").save(tmp_path / "odd.png")
    assert read_image(tmp_path / "odd.png").size == size


@pytest.mark.parametrize("size", [(30_000, 1), (1, 201), (20_000, 3)])
def test_what_resizing_would_blow_up_is_refused(tmp_path, size):
    Image.new("RGB", size).save(tmp_path / "line.png")  # the first has some 200 bytes, and takes 11 GB when resized
    with pytest.raises(ImageError, match="200 times"):
        read_image(tmp_path / "line.png")


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_avif_is_read(tmp_path):
    Image.new("RGB", (40, 30), (200, 20, 20)).save(tmp_path / "photo.avif")
    red, green, blue = read_image(tmp_path / "photo.avif").getpixel((20, 15))
    assert red > 180
    assert max(green, blue) < 60


def test_what_reads_heic_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("gridprune.runtime.images._readers", lambda: frozenset({"PNG"}))
    (tmp_path / "photo.jpg").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    with pytest.raises(ImageError, match=r"HEIC, which `pip install pillow-heif` adds"):
        read_image(tmp_path / "photo.jpg")


def test_postscript_is_not_started(tmp_path, monkeypatch):
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *arguments, **options: pytest.fail("was started"))
    head = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    (tmp_path / "photo.png").write_bytes(head)
    with pytest.raises(ImageError, match="not an image"):
        read_image(tmp_path / "photo.png")


@pytest.mark.parametrize("name", ["iVBORw0KGgo" * 400, "nul\0byte.png"])
def test_names_that_no_file_can_have(name):
    with pytest.raises(ImageError, match="cannot be read as a file") as caught:
        read_image(name)
    assert len(str(caught.value)) < 200


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
def test_no_image(tmp_path, content):
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
        (b"not an image", {}, "not an image. PNG, JPEG"),
        (b"", {}, "not an image"),
        (b"x" * 100, {"max_bytes": 99}, "100 bytes"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", {"formats": ("PNG",)}, "not an image"),
    ],
)
def test_bytes_that_are_no_image(data, limits, words):
    with pytest.raises(ImageError, match=words) as caught:
        decode_image(data, "sent.png", **limits)
    assert "BytesIO" not in str(caught.value)


def test_bytes_of_an_image_that_was_cut_off():
    stream = io.BytesIO()
    Image.effect_noise((64, 64), 90).save(stream, "PNG")
    assert decode_image(stream.getvalue()).size == (64, 64)
    with pytest.raises(ImageError, match="fetched again"):
        decode_image(stream.getvalue()[:1000])
