#!/usr/bin/env python3
"""Makes the font that results are written with, dicom_node/results/pictures/fonts/NotoSansCJKjp-Subset.ttf.

It is Noto Sans CJK JP Regular cut down to what results can hold, with quadratic outlines, because what makes PDF files
embeds no others. The file that came out is committed; this is how anybody makes it again, byte for byte (Debian 12):

    apt-get install fonts-noto-cjk
    pip install fonttools==4.68.0
    scripts/font.py /usr/share/fonts/opentype/noto/NotoSansCJK-Regular.ttc
"""

from __future__ import annotations

import sys
from pathlib import Path
from unicodedata import normalize

from fontTools.pens.cu2quPen import Cu2QuPen
from fontTools.pens.ttGlyphPen import TTGlyphPen
from fontTools.subset import Options, Subsetter
from fontTools.ttLib import TTFont, newTable

TARGET = Path(__file__).resolve().parent.parent / "dicom_node/results/pictures/fonts/NotoSansCJKjp-Subset.ttf"
FACE = "Noto Sans CJK JP"
OFF_BY = 1.0
"""How far a quadratic outline may lie from the cubic one, in units of 1/1000 em."""
KEPT_NAMES = (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 14)


def characters() -> set[int]:
    """The code points: Latin, Greek, punctuation, and all of JIS X 0208 and KS X 1001, with every Hangul syllable."""
    wanted = {*range(0x20, 0x7F), *range(0xA0, 0x180), *range(0x2000, 0x2070), *range(0x20A0, 0x20C0)}
    wanted |= {*range(0x2100, 0x2200), *range(0x2460, 0x2474), *range(0x3000, 0x3100), *range(0xFF00, 0xFFF0)}
    wanted |= {*range(0xAC00, 0xD7A4), *range(0x3131, 0x318F)}
    for row in range(0xA1, 0xFF):
        for cell in range(0xA1, 0xFF):
            for charset in ("euc_jp", "euc_kr"):
                try:
                    character = bytes((row, cell)).decode(charset)
                except UnicodeDecodeError:
                    continue
                # The hanja of KS X 1001 stay out: they are nearly five thousand, and medical Korean is not written so.
                if charset == "euc_jp" or (not 0x3400 <= ord(character) < 0xA000 and ord(character) < 0xF900):
                    wanted.add(ord(character))
    return wanted


def main(source: str) -> None:
    """Cut the face down, change its outlines, write it."""
    font = next(
        face
        for number in range(10)
        if (face := TTFont(source, fontNumber=number, recalcTimestamp=False))["name"].getDebugName(4) == FACE
    )
    options = Options()
    options.drop_tables += ["BASE", "GDEF", "GPOS", "GSUB", "VORG", "vhea", "vmtx", "DSIG"]
    options.hinting, options.desubroutinize, options.notdef_outline = False, True, True
    options.name_IDs, options.name_languages = list(KEPT_NAMES), [0x409]
    cutter = Subsetter(options)
    cutter.populate(unicodes=characters())
    cutter.subset(font)
    _fill_latin(font)
    _make_quadratic(font)
    for record in font["name"].names:
        if record.nameID in (3, 6):
            record.string = f"{record.toUnicode()}-Subset"
    font.save(TARGET, reorderTables=True)
    print(f"{len(font.getBestCmap())} characters, {TARGET.stat().st_size / 1e6:.2f} MB: {TARGET}")


def _fill_latin(font: TTFont) -> None:
    """Give the letters of Latin Extended-A that the face lacks the glyph of the letter without its mark."""
    there = font.getBestCmap()
    for code in range(0x100, 0x180):
        plain = ord({"\u0131": "i", "\u0142": "l", "\u0141": "L"}.get(chr(code), normalize("NFKD", chr(code))[0]))
        if code not in there and plain in there:
            for table in font["cmap"].tables:
                table.cmap[code] = there[plain]


def _make_quadratic(font: TTFont) -> None:
    """Replace the CFF outlines by TrueType's."""
    order, outlines, glyphs = font.getGlyphOrder(), font.getGlyphSet(), {}
    for name in order:
        pen = TTGlyphPen(None)
        outlines[name].draw(Cu2QuPen(pen, OFF_BY, reverse_direction=True))
        glyphs[name] = pen.glyph(dropImpliedOnCurves=True)
    font["loca"], font["glyf"] = newTable("loca"), newTable("glyf")
    font["glyf"].glyphOrder, font["glyf"].glyphs = order, glyphs
    for name, glyph in glyphs.items():
        glyph.recalcBounds(font["glyf"])
        font["hmtx"][name] = (font["hmtx"][name][0], getattr(glyph, "xMin", 0))
    del font["CFF "]
    limits = font["maxp"]
    limits.tableVersion = 0x00010000
    for each in (
        *("maxTwilightPoints", "maxStorage", "maxFunctionDefs", "maxInstructionDefs", "maxStackElements"),
        *("maxSizeOfInstructions", "maxComponentElements", "maxPoints", "maxContours", "maxCompositePoints"),
        *("maxCompositeContours", "maxComponentDepth"),
    ):
        setattr(limits, each, 0)
    limits.maxZones = 1
    font["post"].formatType = 3.0
    font.sfntVersion = "\000\001\000\000"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: {sys.argv[0]} NotoSansCJK-Regular.ttc")
    main(sys.argv[1])
