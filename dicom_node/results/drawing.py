"""Drawing findings on a picture: where lines and labels go so that they hide nothing, and the legend below it.

Knows pixels and texts and no DICOM. Everything is deterministic.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]

COLOURS: tuple[Colour, ...] = (
    (86, 180, 233),
    (230, 159, 0),
    (204, 121, 167),
    (240, 228, 66),
    (0, 158, 115),
    (213, 94, 0),
)
"""Okabe and Ito's colours, told apart with any kind of colour vision; without their blue and black, dark on black."""

_DARK: Colour = (0, 0, 0)
_TEXT: Colour = (235, 235, 235)
_FAINT: Colour = (165, 165, 165)
_WARNING: Colour = (255, 214, 92)

_SMALLEST = 11
"""The smallest type, in pixels, that is still read on a screen."""

_MEASURE = 16
"""The narrowest column of sentences, in multiples of the type size, that still reads as sentences."""


@dataclass(frozen=True, slots=True)
class Box:
    """A finding to mark: edges in pixels of the picture, its label and colour."""

    left: float
    top: float
    right: float
    bottom: float
    label: str
    colour: Colour


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the legend's table; a row without a colour is set faint."""

    cells: tuple[str, ...]
    colour: Colour | None


class Rect(NamedTuple):
    """Whole pixels, right and bottom exclusive."""

    left: int
    top: int
    right: int
    bottom: int

    def grown(self, by: int) -> Rect:
        """The rectangle with a margin around it."""
        return Rect(self.left - by, self.top - by, self.right + by, self.bottom + by)


def draw(
    pixels: NDArray[np.uint8], boxes: Sequence[Box], headline: Sequence[str], table: Sequence[Row], emphasized: int
) -> NDArray[np.uint8]:
    """A grey picture (rows x columns) as an RGB one with boxes and their labels on it and the legend below it.

    The picture keeps its size and its place at the top left. The legend is as wide as the picture; a picture narrower
    than the legend needs gets black columns on its right. The first ``emphasized`` sentences of the headline stand out.
    """
    rows, columns = pixels.shape
    size = max(_SMALLEST, round(min(rows, columns) / 46))
    legend = _legend(headline, table, emphasized=emphasized, size=size, columns=columns)
    rgb = np.zeros((rows + legend.shape[0], legend.shape[1], 3), np.uint8)
    rgb[rows:] = legend
    picture = rgb[:rows, :columns]
    picture[...] = pixels[:, :, np.newaxis]
    _Picture(picture, size).mark(boxes)
    return rgb


class _Picture:
    """A picture (rows x columns x 3) that findings are drawn on, in place; nothing is drawn beyond its border."""

    def __init__(self, rgb: NDArray[np.uint8], size: int) -> None:
        self.rgb = rgb
        self.rows, self.columns = rgb.shape[:2]
        self._type = size
        self._line = max(2, round(min(self.rows, self.columns) / 400))
        self._halo = max(1, self._line // 2)

    def mark(self, boxes: Sequence[Box]) -> None:
        """Draw the boxes and then their labels, which keep clear of all boxes and of each other."""
        inner = [self._inside(box) for box in boxes]
        for rect in inner:
            self._frame(rect.grown(self._line), self._halo, _DARK)
        for box, rect in zip(boxes, inner, strict=True):
            self._frame(rect, self._line, box.colour)
        taken = [rect.grown(self._line + self._halo) for rect in inner]
        for box, rect in zip(boxes, inner, strict=True):
            label = _label(box.label, self._type, box.colour)
            taken.append(self._paste(label, self._beside(label, rect.grown(self._line + self._halo), taken)))

    def _inside(self, box: Box) -> Rect:
        """The pixels of a box that its frame leaves free; at the picture's border the frame has to move inwards."""
        line = self._line
        return Rect(
            min(max(math.floor(box.left), line), self.columns - line - 1),
            min(max(math.floor(box.top), line), self.rows - line - 1),
            max(min(math.ceil(box.right), self.columns - line), line + 1),
            max(min(math.ceil(box.bottom), self.rows - line), line + 1),
        )

    def _frame(self, inside: Rect, width: int, colour: Colour) -> None:
        left, top, right, bottom = inside.grown(width)
        self._fill(Rect(left, top, right, inside.top), colour)
        self._fill(Rect(left, inside.bottom, right, bottom), colour)
        self._fill(Rect(left, inside.top, inside.left, inside.bottom), colour)
        self._fill(Rect(inside.right, inside.top, right, inside.bottom), colour)

    def _fill(self, rect: Rect, colour: Colour) -> None:
        self.rgb[max(rect.top, 0) : max(rect.bottom, 0), max(rect.left, 0) : max(rect.right, 0)] = colour

    def _paste(self, panel: NDArray[np.uint8], at: tuple[int, int]) -> Rect:
        (left, top), (height, width) = at, panel.shape[:2]
        target = self.rgb[top : top + height, left : left + width]
        target[...] = panel[: target.shape[0], : target.shape[1]]
        return Rect(left, top, left + width, top + height)

    def _beside(self, label: NDArray[np.uint8], box: Rect, taken: Sequence[Rect]) -> tuple[int, int]:
        """Where a label covers nothing, as near to its box as can be."""
        height, width = label.shape[:2]
        middle = (box.left + box.right - width) // 2, (box.top + box.bottom - height) // 2
        near = [
            *((x, y) for y in (box.top - height, box.bottom) for x in (box.left, box.right - width, middle[0])),
            *((x, y) for x in (box.right, box.left - width) for y in (box.top, box.bottom - height, middle[1])),
        ]
        step = max(1, height // 2)
        grid_x, grid_y = np.meshgrid(
            np.arange(0, max(self.columns - width, 0) + 1, step), np.arange(0, max(self.rows - height, 0) + 1, step)
        )
        left = np.concatenate([np.array([x for x, _ in near]), grid_x.ravel()])
        top = np.concatenate([np.array([y for _, y in near]), grid_y.ravel()])
        left = left.clip(0, max(self.columns - width, 0))
        top = top.clip(0, max(self.rows - height, 0))
        distance = np.hypot(left - middle[0], top - middle[1]) + self.rows + self.columns
        distance[: len(near)] = np.arange(len(near))
        choice = int(np.lexsort((distance, _overlap(left, top, width, height, taken)))[0])
        return int(left[choice]), int(top[choice])


def _overlap(
    left: NDArray[np.int64], top: NDArray[np.int64], width: int, height: int, taken: Sequence[Rect]
) -> NDArray[np.int64]:
    """How many pixels of ``taken`` a rectangle would cover at each of the places."""
    covered = np.zeros(len(left), dtype=np.int64)
    for rect in taken:
        across = np.minimum(left + width, rect.right) - np.maximum(left, rect.left)
        down = np.minimum(top + height, rect.bottom) - np.maximum(top, rect.top)
        covered += across.clip(0) * down.clip(0)
    return covered


# --- type -----------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=16)
def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise TypeError("Pillow was built without FreeType: it has only a bitmap font of one size")
    return font


def _spaced(text: str, size: int) -> str:
    """Small type set wider: at 11 pixels the font's space is 2 pixels, and words would run together."""
    return text.replace(" ", "  ") if size < 16 else text


def _line_height(size: int) -> int:
    return math.ceil(size * 1.3)


def _label(text: str, size: int, colour: Colour) -> NDArray[np.uint8]:
    pad, text = max(2, size // 5), _spaced(text, size)
    image = Image.new("RGB", (math.ceil(_font(size).getlength(text)) + 2 * pad, _line_height(size) + pad), _DARK)
    ImageDraw.Draw(image).text((pad, pad // 2), text, fill=colour, font=_font(size))
    return np.asarray(image)


def _legend(
    headline: Sequence[str], table: Sequence[Row], *, emphasized: int, size: int, columns: int
) -> NDArray[np.uint8]:
    """The legend on black: the sentences, and the table to their right or, where that leaves them too narrow, below."""
    font, line, gap = _font(size), _line_height(size), 2 * size
    if table:
        table = [Row(("", "score", "threshold", ""), None), *table]
    table = [Row(tuple(_spaced(cell, size) for cell in row.cells), row.colour) for row in table]
    widths = [math.ceil(max(map(font.getlength, cells))) for cells in zip(*(row.cells for row in table), strict=True)]
    wide = sum(size + width for width in widths)  # the first column stands behind a swatch, the others behind a space
    columns = max(columns, max(wide, _MEASURE * size) + gap)
    measure = columns - gap
    beside = bool(table) and measure - gap - wide >= _MEASURE * size
    if beside:
        measure -= gap + wide
    lines = [
        (part, _WARNING if number < emphasized else _TEXT)
        for number, sentence in enumerate(headline)
        for part in _wrap(_spaced(sentence, size), font, measure)
    ]
    above = 0 if beside else len(lines) * line + (line // 2 if table else 0)
    height = max(len(lines) * line, above + len(table) * line) + gap
    image = Image.new("RGB", (columns, height), _DARK)
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, 0, columns - 1, max(1, size // 14) - 1), fill=_FAINT)
    for number, (text, colour) in enumerate(lines):
        pen.text((size, size + number * line), text, fill=colour, font=font)
    for number, row in enumerate(table):
        x, y = columns - size - wide if beside else size, size + above + number * line
        if row.colour is not None:
            pen.rectangle((x, y + size // 4, x + size // 2, y + size // 4 + size // 2), fill=row.colour)
        for cell, width in zip(row.cells, widths, strict=True):
            pen.text((x + size, y), cell, fill=row.colour or _FAINT, font=font)
            x += size + width
    return np.asarray(image)


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: float) -> list[str]:
    lines = [""]
    space = "  " if "  " in text else " "
    for word in text.split():
        longer = f"{lines[-1]}{space}{word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
            continue
        lines.append("")
        for character in word:  # a word wider than a line goes on in the next
            if lines[-1] and font.getlength(lines[-1] + character) > width:
                lines.append("")
            lines[-1] += character
    return [part for part in lines if part]
