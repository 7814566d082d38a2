"""Rasterise emoji and letters into the masters that scenes are drawn from (run once; they are part of the package).

``python -m training.build_assets FONTS``, where FONTS is a folder with Noto Color Emoji, DejaVu, Liberation, Lato,
Roboto and Open Sans (Debian: fonts-noto-color-emoji, -dejavu, -liberation, -lato, -roboto-unhinted, -open-sans).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from training.embedded import bitmaps
from training.embedded.vocabulary import CLASSES

EMOJI = {
    "apple": "\U0001f34e\U0001f34f", "banana": "\U0001f34c", "lemon": "\U0001f34b", "carrot": "\U0001f955",
    "cake": "\U0001f382", "dog": "\U0001f436", "cat": "\U0001f431", "frog": "\U0001f438",
    "bird": "\U0001f426\U0001f424", "fish": "\U0001f41f\U0001f420", "horse": "\U0001f434", "pig": "\U0001f437",
    "rabbit": "\U0001f430", "bear": "\U0001f43b", "lion": "\U0001f981", "turtle": "\U0001f422",
    "butterfly": "\U0001f98b", "car": "\U0001f697\U0001f699", "bus": "\U0001f68c", "bicycle": "\U0001f6b2",
    "train": "\U0001f682", "boat": "\u26f5", "plane": "\u2708", "rocket": "\U0001f680",
    "tree": "\U0001f333\U0001f332", "flower": "\U0001f33b\U0001f338", "cactus": "\U0001f335",
    "mushroom": "\U0001f344", "ball": "\u26bd\U0001f3c0", "clock": "\u23f0", "key": "\U0001f511",
    "book": "\U0001f4d5", "cup": "\u2615", "bell": "\U0001f514", "umbrella": "\u2602", "hat": "\U0001f3a9",
    "guitar": "\U0001f3b8", "lamp": "\U0001f4a1", "star": "\u2b50", "heart": "\u2764",
}  # fmt: skip
#: split -> font files (DejaVu: Bitstream Vera licence; Liberation, Lato: OFL; Roboto, Open Sans: Apache-2.0)
FONTS = {
    "train": ("DejaVuSans-Bold", "DejaVuSerif-Bold", "DejaVuSansMono-Bold", "LiberationSans-Bold", "Lato-Bold"),
    "dev": ("Roboto-Bold", "LiberationSerif-Bold"),
    "test": ("OpenSans-Bold", "OpenSans-Semibold"),
}


def emoji_bitmap(char: str, font: ImageFont.FreeTypeFont) -> Image.Image:
    """An emoji, its longer side as long as a master's."""
    image = Image.new("RGBA", (160, 160))
    ImageDraw.Draw(image).text((10, 10), char, font=font, embedded_color=True)
    image = image.crop(image.getbbox())
    scale = bitmaps.MASTER / max(image.size)
    return image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)


def glyph_bitmaps(path: Path) -> list[Image.Image]:
    """Masks of all letters, as high as a master's, one pixel of room on both sides."""
    size = 10
    while True:
        font = ImageFont.truetype(str(path), size)
        top, bottom = font.getbbox("H", anchor="ls")[1::2]
        if bottom - top >= bitmaps.LETTER:
            break
        size += 1
    out = []
    for letter in bitmaps.ALPHABET:
        left, _, right, _ = font.getbbox(letter, anchor="ls")
        mask = Image.new("L", (right - left + 2, bitmaps.LETTER))
        ImageDraw.Draw(mask).text((1 - left, bitmaps.LETTER), letter, font=font, fill=255, anchor="ls")
        out.append(mask)
    return out


def sheet(images: list[Image.Image], mode: str, side: int) -> tuple[Image.Image, list[list[int]]]:
    """Images in rows on one sheet, and where each of them is: x, y, w, h."""
    canvas, at, x, y, row = Image.new(mode, (side, 8192)), [], 0, 0, 0
    for image in images:
        if x + image.width > side:
            x, y, row = 0, y + row, 0
        canvas.paste(image, (x, y))
        at.append([x, y, image.width, image.height])
        x, row = x + image.width, max(row, image.height)
    return canvas.crop((0, 0, side, y + row)), at


def build(fonts: Path, target: Path) -> None:
    """Write the sheets of emoji and letters, and ``masters.json``."""
    found = {path.stem: path for path in fonts.rglob("*.ttf")}
    emoji_font = ImageFont.truetype(str(found["NotoColorEmoji"]), 109)
    chars = [(label, char) for label, name in enumerate(CLASSES, start=1) for char in EMOJI[name]]
    emoji, where = sheet([emoji_bitmap(char, emoji_font) for _, char in chars], "RGBA", 576)
    emoji.quantize(256, method=Image.Quantize.FASTOCTREE).save(target / "emoji.png", optimize=True)
    names = [(split, name) for split, group in FONTS.items() for name in group]
    letters, boxes = sheet([mask for _, name in names for mask in glyph_bitmaps(found[name])], "L", 576)
    letters.save(target / "letters.png", optimize=True)
    n = len(bitmaps.ALPHABET)
    index = {
        "emoji": [[label, *box] for (label, _), box in zip(chars, where, strict=True)],
        "fonts": [
            {"split": split, "name": name, "letters": boxes[i * n : (i + 1) * n]}
            for i, (split, name) in enumerate(names)
        ],
    }
    (target / "masters.json").write_text(json.dumps(index, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    build(Path(sys.argv[1]), Path(bitmaps.__file__).parent / "assets")
