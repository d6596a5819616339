"""The typeface of every result that people read: Latin, Korean and Japanese in one file, for pictures and pages.

It is a part of Noto Sans CJK JP under the SIL Open Font License (fonts/OFL.txt); scripts/font.py makes it. The
machine's own fonts are never asked: the same run has to give the same picture anywhere.
"""

from __future__ import annotations

import math
import unicodedata
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont


def font_path() -> Path:
    """The file, a TrueType font with quadratic outlines, so that a PDF can embed it."""
    return Path(str(files(__package__) / "fonts" / "NotoSansCJKjp-Subset.ttf"))


@lru_cache(maxsize=32)
def font(size: int) -> ImageFont.FreeTypeFont:
    """The font for drawing, ``size`` pixels an em; a character that it lacks is drawn as a crossed box."""
    # Pillow's other layout engine is a library that not every machine has: pictures would differ.
    return ImageFont.truetype(font_path(), size, layout_engine=ImageFont.Layout.BASIC)


@lru_cache(maxsize=4096)
def width_of(text: str, size: int) -> float:
    """How wide a line of type is, in pixels; it is kept, for pictures say nearly the same from study to study."""
    return font(size).getlength(text)


def write(pen: ImageDraw.ImageDraw, at: tuple[int, int], text: str, size: int, colour: tuple[int, int, int]) -> None:
    """Draw a line of type; ``at`` is the middle of its left edge."""
    mask, left, up = _mask(text, size)
    pen.bitmap((at[0] - left, at[1] - up), mask, fill=colour)


@lru_cache(maxsize=128)
def _mask(text: str, size: int) -> tuple[Image.Image, int, int]:
    """A line of type as coverage, and where in it the middle of its left edge lies; kept, as `width_of` is."""
    left = up = size  # glyphs reach beyond their advance and their line
    mask = Image.new("L", (math.ceil(width_of(text, size)) + 2 * left, 2 * up))
    ImageDraw.Draw(mask).text((left, up), text, fill=255, font=font(size), anchor="lm")
    box = mask.getbbox() or (0, 0, 1, 1)
    return mask.crop(box), left - box[0], up - box[1]


def drawable(text: str) -> str:
    """A text as it can be drawn in one line: composed characters, spaces for controls and ``?`` for broken ones."""
    kinds = ((character, unicodedata.category(character)) for character in unicodedata.normalize("NFC", text))
    return "".join(" " if kind in ("Cc", "Zl", "Zp") else "?" if kind == "Cs" else one for one, kind in kinds)
