"""The typeface of every result that people read: Latin, Korean and Japanese in one file, for pictures and pages.

It is a part of Noto Sans CJK JP under the SIL Open Font License (fonts/OFL.txt); scripts/font.py makes it. The
machine's own fonts are never asked: the same run has to give the same picture anywhere.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

from PIL import ImageFont


def font_path() -> Path:
    """The file, a TrueType font with quadratic outlines, so that a PDF can embed it."""
    return Path(str(files(__package__) / "fonts" / "NotoSansCJKjp-Subset.ttf"))


@lru_cache(maxsize=32)
def font(size: int) -> ImageFont.FreeTypeFont:
    """The font for drawing, ``size`` pixels an em; a character that it lacks is drawn as a crossed box."""
    # Pillow's other layout engine is a library that not every machine has: pictures would differ.
    return ImageFont.truetype(font_path(), size, layout_engine=ImageFont.Layout.BASIC)


def drawable(text: str) -> str:
    """A text as it can be drawn in one line: composed characters, spaces for controls and ``?`` for broken ones."""
    kinds = ((character, unicodedata.category(character)) for character in unicodedata.normalize("NFC", text))
    return "".join(" " if kind in ("Cc", "Zl", "Zp") else "?" if kind == "Cs" else one for one, kind in kinds)
