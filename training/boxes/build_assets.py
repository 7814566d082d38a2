"""Rasterise emoji and sign words into the shipped sheet (run once; the sheet is part of the package).

The sheet holds every sprite at every size and tilt used by a split, so that scenes need neither a
font nor a resampling filter at run time. Columns of the JSON index: kind, label, split, x, y, w, h.
"""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from gridprune.tiny.vocabulary import CLASSES, N_CLASSES, WORDS

EMOJI = {
    "apple": "\U0001f34e\U0001f34f", "banana": "\U0001f34c", "dog": "\U0001f436", "cat": "\U0001f431",
    "frog": "\U0001f438", "bird": "\U0001f426\U0001f424", "fish": "\U0001f41f\U0001f420",
    "car": "\U0001f697\U0001f699", "bus": "\U0001f68c", "tree": "\U0001f333\U0001f332",
    "flower": "\U0001f33b\U0001f338", "ball": "\u26bd\U0001f3c0", "clock": "\u23f0\U0001f552",
    "key": "\U0001f511", "star": "\u2b50", "mushroom": "\U0001f344",
}  # fmt: skip
#: split -> (sizes in pixels of the longer side, tilts in degrees). Models are judged on the small end of what
#: they learned from: of objects two patches wide a random third of the tokens loses many, so that selections differ.
SPRITES = {
    "train": (range(14, 28, 2), (-10, 0, 10)),
    "dev": (range(14, 18), (-6,)),
    "test": (range(14, 18), (6,)),
}
#: split -> font files (DejaVu: Bitstream Vera licence; Liberation: OFL; Open Sans: Apache-2.0)
FONTS = {
    "train": (
        "DejaVuSans-Bold",
        "LiberationSans-Bold",
        "LiberationSerif-Bold",
        "DejaVuSansMono-Bold",
        "DejaVuSerif-Bold",
    ),
    "dev": ("LiberationSansNarrow-Bold", "LiberationMono-Bold"),
    "test": ("OpenSans-Bold", "OpenSans-ExtraBold"),
}
WORD_BOX = (34, 12)  # longest width and height of a word's ink


def emoji_bitmap(char: str, font: ImageFont.FreeTypeFont) -> Image.Image:
    image = Image.new("RGBA", (160, 160))
    ImageDraw.Draw(image).text((10, 10), char, font=font, embedded_color=True)
    return image.crop(image.getbbox())


def word_bitmap(word: str, font_path: Path, weight: int) -> Image.Image:
    """Ink of ``word`` (upper case), at most ``WORD_BOX`` large, as an opaque-alpha mask."""
    font = ImageFont.truetype(str(font_path), 64)
    mask = Image.new("L", (600, 120))
    ImageDraw.Draw(mask).text((10, 10), word.upper(), font=font, fill=255)
    mask = mask.crop(mask.getbbox())
    height = WORD_BOX[1] - weight
    width = min(WORD_BOX[0], round(mask.width * height / mask.height))
    mask = mask.resize((max(width, 6), height), Image.Resampling.LANCZOS)
    out = Image.new("RGBA", mask.size, (255, 255, 255, 0))
    out.putalpha(mask)
    return out


def build(target: Path, fonts: Path) -> None:
    """Write ``sprites.png`` and ``sprites.json`` to ``target`` from the font tree under ``fonts``."""
    found = {path.stem: path for path in fonts.rglob("*.ttf")}
    emoji_font = ImageFont.truetype(str(found["NotoColorEmoji"]), 109)
    entries: list[tuple[str, int, str, Image.Image]] = []
    for label, name in enumerate(CLASSES, start=1):
        for char in EMOJI[name]:
            master = emoji_bitmap(char, emoji_font)
            for split, (sizes, tilts) in SPRITES.items():
                for size in sizes:
                    for tilt in tilts:
                        image = master.rotate(tilt, Image.Resampling.BICUBIC, expand=True)
                        image = image.crop(image.getbbox())
                        scale = size / max(image.size)
                        shape = tuple(max(6, round(side * scale)) for side in image.size)
                        entries.append(("object", label, split, image.resize(shape, Image.Resampling.LANCZOS)))
    for number, word in enumerate(WORDS):
        for split, names in FONTS.items():
            for name in names:
                label = 1 + N_CLASSES + number
                entries += [("word", label, split, word_bitmap(word, found[name], weight)) for weight in (0, 2)]
    side, x, y, row = 1024, 0, 0, 0
    index, sheet = [], Image.new("RGBA", (side, 4096))
    for kind, label, split, image in sorted(entries, key=lambda e: -e[3].height):
        if x + image.width > side:
            x, y, row = 0, y + row, 0
        sheet.paste(image, (x, y))
        index.append([kind, label, split, x, y, image.width, image.height])
        x, row = x + image.width, max(row, image.height)
    sheet.crop((0, 0, side, y + row)).save(target / "sprites.png", optimize=True)
    rows = ",\n".join(json.dumps(row) for row in index)
    (target / "sprites.json").write_text(f"[\n{rows}\n]\n")
