"""Drawing findings on a picture: where lines, labels and a legend go so that they hide nothing, and how they look.

Knows pixels and texts and no DICOM. Everything is deterministic, and only the pixels that change are touched.
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
_COARSE = 8
"""The step, in pixels, of the grid on which the brightness under the legend is looked up."""

_SMALLEST = 11
"""The smallest type, in pixels, that is still read on a screen."""


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


class Picture:
    """A grey picture (rows x columns, uint8) that becomes an RGB one with findings drawn on it."""

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        self.rgb: NDArray[np.uint8] = np.repeat(pixels[:, :, np.newaxis], 3, axis=2)
        self._sums = _sums(pixels)
        self.rows, self.columns = pixels.shape
        shorter = min(pixels.shape)
        self._type = max(_SMALLEST, round(shorter / 46))
        self._line = max(2, round(shorter / 400))
        self._halo = max(1, self._line // 2)

    def draw(self, boxes: Sequence[Box], headline: Sequence[str], table: Sequence[Row], emphasized: int) -> None:
        """Draw boxes with their labels and a legend; the first ``emphasized`` sentences of its headline stand out."""
        inner = [self._inside(box) for box in boxes]
        for rect in inner:
            self._frame(rect.grown(self._line), self._halo, _DARK)
        for box, rect in zip(boxes, inner, strict=True):
            self._frame(rect, self._line, box.colour)
        taken = [rect.grown(self._line + self._halo) for rect in inner]
        taken.append(self._legend(taken, headline, table, emphasized))
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

    def _legend(self, taken: Sequence[Rect], headline: Sequence[str], table: Sequence[Row], emphasized: int) -> Rect:
        """The legend at the border where it covers no finding and the least of the body; smaller or shorter if need be.

        Outside the body a radiograph is dark, so the darkest place hides the least.
        """
        best: tuple[int, NDArray[np.uint8], tuple[int, int]] | None = None
        found = sum(row.colour is not None for row in table)
        for share, most in ((1.0, len(table)), (0.8, len(table)), (0.65, len(table)), (0.65, found)):
            size = max(_SMALLEST, round(self._type * share))
            panel = _panel(headline, table, emphasized=emphasized, most_rows=most, size=size, within=self.rgb.shape[:2])
            left, top = np.array(self._border_places(panel)).T
            covered = _overlap(left, top, panel.shape[1], panel.shape[0], taken)
            hidden = self._brightness(left, top, panel.shape[1], panel.shape[0])
            choice = int(np.lexsort((hidden, covered))[0])
            if best is None or covered[choice] < best[0]:
                best = int(covered[choice]), panel, (int(left[choice]), int(top[choice]))
            if best[0] == 0:
                break
        assert best is not None  # noqa: S101 (the loop above has run)
        return self._paste(best[1], best[2])

    def _brightness(
        self, left: NDArray[np.int64], top: NDArray[np.int64], width: int, height: int
    ) -> NDArray[np.float64]:
        """How bright the picture is under a rectangle at each of the places, in all."""
        across = [(x // _COARSE).clip(0, self._sums.shape[1] - 1) for x in (left, left + width)]
        down = [(y // _COARSE).clip(0, self._sums.shape[0] - 1) for y in (top, top + height)]
        sums = self._sums
        inside = (
            sums[down[1], across[1]] - sums[down[0], across[1]] - sums[down[1], across[0]] + sums[down[0], across[0]]
        )
        return np.asarray(inside, dtype=np.float64)

    def _border_places(self, panel: NDArray[np.uint8]) -> list[tuple[int, int]]:
        """Places along the border, corners first, the lower ones before the upper, where side markers stand."""
        margin = self._type // 2
        right = max(self.columns - panel.shape[1] - margin, 0)
        bottom = max(self.rows - panel.shape[0] - margin, 0)
        left, top = min(margin, right), min(margin, bottom)
        across = range(left, right + 1, max(1, self._type))
        down = range(top, bottom + 1, max(1, self._type))
        corners = [(left, bottom), (right, bottom), (left, top), (right, top)]
        return [
            *corners,
            *((x, y) for y in (bottom, top) for x in across),
            *((x, y) for x in (left, right) for y in down),
        ]

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


def _sums(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Summed brightness above and left of each point of a coarse grid, from every ``_COARSE``-th pixel."""
    coarse = pixels[::_COARSE, ::_COARSE].astype(np.float64)
    sums = np.zeros((coarse.shape[0] + 1, coarse.shape[1] + 1))
    sums[1:, 1:] = coarse.cumsum(axis=0).cumsum(axis=1)
    return sums


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


def _panel(
    headline: Sequence[str],
    table: Sequence[Row],
    *,
    emphasized: int,
    most_rows: int,
    size: int,
    within: tuple[int, ...],
) -> NDArray[np.uint8]:
    """The legend as a panel no larger than the picture; classes that find no room are counted."""
    rows, columns = within
    font, pad, line, swatch = _font(size), size // 2, _line_height(size), size
    most = max(columns - 2 * pad - size, size)
    room = (rows - 2 * pad - size) // line - len(headline) - 2
    if table:
        table = [Row(("", "score", "threshold", ""), None), *_abridged(table, max(min(room, most_rows), 0))]
    table = [Row(tuple(_spaced(cell, size) for cell in row.cells), row.colour) for row in table]
    columned = [row.cells for row in table if any(row.cells[1:])]  # the row that counts the others spans all columns
    widths = [math.ceil(max(map(font.getlength, cells))) for cells in zip(*columned, strict=True)]
    wide = swatch + sum(widths) + size * max(len(widths) - 1, 0)
    lines = [
        (part, number < emphasized)
        for number, sentence in enumerate(headline)
        for part in _wrap(_spaced(sentence, size), font, min(max(wide, 16 * size), most))
    ]
    width = min(max([wide, *(math.ceil(font.getlength(text)) for text, _ in lines)]), most)
    image = Image.new("RGB", (width + 2 * pad, (len(lines) + len(table)) * line + 2 * pad), _DARK)
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, image.width - 1, image.height - 1), outline=_FAINT, width=max(1, size // 14))
    y = pad
    for text, warns in lines:
        draw.text((pad, y), text, fill=_WARNING if warns else _TEXT, font=font)
        y += line
    for row in table:
        if row.colour is not None:
            draw.rectangle((pad, y + size // 4, pad + size // 2, y + size // 4 + size // 2), fill=row.colour)
        x = pad + swatch
        for cell, cell_width in zip(row.cells, widths, strict=True):
            draw.text((x, y), cell, fill=row.colour or _FAINT, font=font)
            x += cell_width + size
        y += line
    return np.asarray(image)


def _abridged(table: Sequence[Row], most: int) -> list[Row]:
    """At most so many rows, those with a colour before those without, and a last one that counts what was left out."""
    if len(table) <= most:
        return list(table)
    kept = sorted(range(len(table)), key=lambda i: (table[i].colour is None, i))[:most]
    left_out = f"{len(table) - most} more in the report"
    return [*(table[i] for i in sorted(kept)), Row((left_out, "", "", ""), None)]


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: float) -> list[str]:
    lines = [""]
    space = "  " if "  " in text else " "
    for word in text.split():
        longer = f"{lines[-1]}{space}{word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
