"""The font of pictures and pages: Latin, Korean and Japanese in one file, part of the package.

It is a subset of Noto Sans CJK JP under the SIL Open Font License (fonts/OFL.txt), made by scripts/font.py. Fonts of
the machine are never used: the same run must give the same picture everywhere.
"""

from __future__ import annotations

import math
import unicodedata
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont


def font_path() -> Path:
    """The font file: a TrueType font with quadratic outlines, which a PDF can embed."""
    return Path(str(files(__package__) / "fonts" / "NotoSansCJKjp-Subset.ttf"))


@lru_cache(maxsize=32)
def font(size: int) -> ImageFont.FreeTypeFont:
    """The font for drawing, ``size`` pixels an em; a missing character is drawn as a crossed box."""
    # Pillow's other layout engine is a library that not every machine has: pictures would differ.
    return ImageFont.truetype(font_path(), size, layout_engine=ImageFont.Layout.BASIC)


@lru_cache(maxsize=4096)
def width_of(text: str, size: int) -> float:
    """The width of a line of type in pixels; cached, as pictures say nearly the same for every study."""
    return font(size).getlength(text)


def write(pen: ImageDraw.ImageDraw, at: tuple[int, int], text: str, size: int, colour: tuple[int, int, int]) -> None:
    """Draw a line of type; ``at`` is the middle of its left edge."""
    mask, left, up = _mask(text, size)
    pen.bitmap((at[0] - left, at[1] - up), mask, fill=colour)


@lru_cache(maxsize=128)
def _mask(text: str, size: int) -> tuple[Image.Image, int, int]:
    """A line of type as coverage, and where in it the middle of its left edge lies; cached, like `width_of`."""
    left = up = size  # glyphs reach beyond their advance and their line
    mask = Image.new("L", (math.ceil(width_of(text, size)) + 2 * left, 2 * up))
    ImageDraw.Draw(mask).text((left, up), text, fill=255, font=font(size), anchor="lm")
    box = mask.getbbox() or (0, 0, 1, 1)
    return mask.crop(box), left - box[0], up - box[1]


def drawable(text: str) -> str:
    """A text that can be drawn in one line: composed characters, spaces for controls, ``?`` for broken ones."""
    kinds = ((character, unicodedata.category(character)) for character in unicodedata.normalize("NFC", text))
    return "".join(" " if kind in ("Cc", "Zl", "Zp") else "?" if kind == "Cs" else one for one, kind in kinds)
