"""The black band below a picture: its sentences, the table of classes, and the scale of a heat map.

It is below the picture and never on it: every corner of a radiograph may hold an apex or a side marker. What it says is
decided in :mod:`captions`.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from dicom_node.results.pictures.drawing import DARK, Colour, line_height
from dicom_node.results.pictures.labels import Rect
from dicom_node.results.pictures.typeface import drawable, width_of, write

TEXT: Colour = (235, 235, 235)
FAINT: Colour = (165, 165, 165)
WARNING: Colour = (255, 214, 92)

_MEASURE = 16
"""The narrowest column of sentences, in multiples of the type size."""

_TABLES = 4
"""The most columns in which a long table is set."""

# What must not begin a line, and what must not end one (JIS X 4051).
_CLOSING = "、。，．・：；？！）」』】〕》〉”’ー々ぁぃぅぇぉっゃゅょァィゥェォッャュョ%％)]}.,:;!?"
_OPENING = "（「『【〔《〈“‘([{"


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence of the legend; an emphasized one warns."""

    text: str
    emphasized: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the legend's table: faint if it has no colour; ``dashed``: its swatch is dashed."""

    cells: tuple[str, ...]
    colour: Colour | None
    dashed: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Scale:
    """A colour scale: colours (n x 3) from the lowest value to the highest, and numbers at shares of its length."""

    colours: NDArray[np.uint8]
    ticks: tuple[tuple[float, str], ...]


@dataclass(frozen=True, slots=True)
class Legend:
    """The contents of the band; ``heading`` has as many cells as each row."""

    sentences: tuple[Sentence, ...]
    heading: tuple[str, ...]
    rows: tuple[Row, ...]
    scale: Scale | None = None


@dataclass(frozen=True, slots=True)
class Written:
    """A piece of text: its top left corner and the pixels that it may fill, within the band."""

    text: str
    rect: Rect
    colour: Colour


@dataclass(frozen=True, slots=True)
class Swatch:
    """A patch of a class's colour."""

    rect: Rect
    colour: Colour
    dashed: bool


@dataclass(frozen=True, slots=True)
class Layout:
    """A band whose layout is done: its size and the place of each part; ``scale`` is the place of the colour scale."""

    columns: int
    rows: int
    written: tuple[Written, ...]
    swatches: tuple[Swatch, ...]
    scale: Rect | None


def lay_out(legend: Legend, size: int, columns: int) -> Layout:
    """Lay out a legend in type of ``size`` pixels, as wide as the picture, or wider if the text needs it.

    The table is beside the sentences or below them, in one column or several: the layout with the fewest rows.
    """
    gap = 2 * size
    cells = [tuple(map(drawable, row)) for row in ([legend.heading] if legend.rows else [])]
    cells += [tuple(map(drawable, row.cells)) for row in legend.rows]
    widths = [math.ceil(max(width_of(cell, size) for cell in column)) for column in zip(*cells, strict=True)]
    wide = sum(size + width for width in widths)  # the first column stands behind a swatch, the others behind a space
    columns = max(columns, max(wide, _MEASURE * size) + gap)
    measure = columns - gap
    settings = [_Setting(legend, size, measure, 1, beside=False, wide=wide)]
    for tables in range(1, min(_TABLES, len(legend.rows)) + 1):
        across = tables * wide + (tables - 1) * gap
        if across <= measure:
            settings.append(_Setting(legend, size, measure, tables, beside=False, wide=across))
        if measure - gap - across >= _MEASURE * size:
            settings.append(_Setting(legend, size, measure - gap - across, tables, beside=True, wide=across))
    best = min(settings, key=lambda each: each.height)
    return best.layout(columns, cells, widths)


class _Setting:
    """One possible layout of a legend."""

    def __init__(self, legend: Legend, size: int, measure: int, tables: int, *, beside: bool, wide: int) -> None:
        self._legend, self._size, self._tables = legend, size, tables
        self._beside, self._wide = beside, wide
        self._line = line_height(size)
        self._lines = [
            (part, WARNING if sentence.emphasized else TEXT)
            for sentence in legend.sentences
            for part in wrap(drawable(sentence.text), size, measure)
        ]
        self._measure = measure
        self._scale = 3 * self._line if legend.scale else 0
        self._deep = math.ceil(len(legend.rows) / tables) if legend.rows else 0
        table = (self._deep + 1) * self._line if legend.rows else 0
        sentences = len(self._lines) * self._line + self._scale
        self._above = 0 if beside else sentences + (self._line // 2 if table else 0)
        self.height = max(sentences, self._above + table) + 2 * size

    def layout(self, columns: int, cells: Sequence[tuple[str, ...]], widths: Sequence[int]) -> Layout:
        size, line = self._size, self._line
        written = [
            self._write(text, size, size + number * line, colour) for number, (text, colour) in enumerate(self._lines)
        ]
        swatches = []
        left = columns - size - self._wide if self._beside else size
        each = sum(size + width for width in widths) + 2 * size
        for number, row in enumerate(cells):
            table, deep = divmod(number - 1, self._deep) if number else (0, -1)
            tables = range(self._tables) if number == 0 else range(table, table + 1)
            shown = self._legend.rows[number - 1] if number else Row(row, None)
            for part in tables:  # the heading stands above each part of the table
                x, y = left + part * each, size + self._above + (deep + 1) * line
                if shown.colour is not None:
                    side = size // 2
                    at = Rect(x, y + (line - side) // 2, x + side, y + (line - side) // 2 + side)
                    swatches.append(Swatch(at, shown.colour, shown.dashed))
                for cell, width in zip(row, widths, strict=True):
                    if cell:
                        written.append(self._write(cell, x + size, y, shown.colour or FAINT))
                    x += size + width
        scale = None
        if self._legend.scale is not None:
            top = size + len(self._lines) * line + line // 2
            scale = Rect(size, top, size + min(self._measure, 20 * size), top + line)
            for share, text in self._legend.scale.ticks:
                width = math.ceil(width_of(text, size))
                x = round(scale.left + share * (scale.right - scale.left) - width / 2)
                x = min(max(x, scale.left), scale.right - width)
                written.append(self._write(text, x, scale.bottom, TEXT))
        return Layout(columns, self.height, tuple(written), tuple(swatches), scale)

    def _write(self, text: str, x: int, y: int, colour: Colour) -> Written:
        return Written(text, Rect(x, y, x + math.ceil(width_of(text, self._size)), y + self._line), colour)


def paint(layout: Layout, legend: Legend, size: int) -> NDArray[np.uint8]:
    """A laid-out legend on black: rows x columns x 3."""
    image = Image.new("RGB", (layout.columns, layout.rows), DARK)
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, 0, layout.columns - 1, max(1, size // 14) - 1), fill=FAINT)
    for each in layout.written:
        middle = (each.rect.top + each.rect.bottom) // 2
        write(pen, (each.rect.left, middle), each.text, size, each.colour)
    for swatch in layout.swatches:
        left, top, right, bottom = swatch.rect
        pen.rectangle((left, top, right - 1, bottom - 1), fill=swatch.colour)
        if swatch.dashed:
            third = max(1, (right - left) // 3)
            pen.rectangle((left + third, top, right - 1 - third, bottom - 1), fill=DARK)
    if layout.scale is not None and legend.scale is not None:
        left, top, right, bottom = layout.scale
        bar = Image.fromarray(legend.scale.colours[np.newaxis]).resize((right - left, bottom - top))
        image.paste(bar, (left, top))
        for share, _ in legend.scale.ticks:
            x = round(left + share * (right - 1 - left))
            pen.line((x, bottom - (bottom - top) // 4, x, bottom - 1), fill=TEXT, width=max(1, size // 14))
    return np.asarray(image)


def wrap(text: str, size: int, width: float) -> list[str]:
    """Lines no wider than ``width``, broken at spaces and between Japanese characters, but not inside a katakana word.

    A word that is wider than a line continues in the next.
    """
    lines = [""]
    for piece in _pieces(text):
        if width_of(lines[-1] + piece.rstrip(), size) <= width:
            lines[-1] += piece
            continue
        lines.append("")
        for character in piece:
            if lines[-1] and width_of(lines[-1] + character.strip(), size) > width:
                lines.append("")
            lines[-1] += character
    return [line.strip() for line in lines if line.strip()]


def _pieces(text: str) -> list[str]:
    """The parts of a text that must stay in one line, with the spaces behind them."""
    words = re.findall(r"\S+\s*|^\s+", text)
    return [piece for word in words for piece in _syllables(word)]


def _syllables(word: str) -> list[str]:
    breaks = [0]
    for place, (one, other) in enumerate(pairwise(word), start=1):
        japanese = any(unicodedata.east_asian_width(c) in "WF" and not "가" <= c <= "힣" for c in (one, other))
        katakana = all("ァ" <= c <= "ヿ" and c != "・" for c in (one, other))
        if japanese and not katakana and one not in _OPENING and other not in _CLOSING and not other.isspace():
            breaks.append(place)
    return [word[start:end] for start, end in pairwise([*breaks, len(word)])]
