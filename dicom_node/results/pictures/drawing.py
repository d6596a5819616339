"""Drawing on a picture: boxes, outlines and labels that are visible on any size of image and hide no finding.

It knows pixels and texts and no DICOM. It is deterministic.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from dicom_node.results.pictures.labels import Place, Rect, place, place_tags
from dicom_node.results.pictures.typeface import drawable, width_of, write

Colour = tuple[int, int, int]

DARK: Colour = (0, 0, 0)

SMALLEST = 13
"""The smallest type, in pixels, at which Korean and Japanese are legible on a screen."""


@dataclass(frozen=True, slots=True)
class Box:
    """A finding to mark: edges in pixels of the picture, colour, label, and the number that can replace the label.

    ``outlined``: the finding has an outline, so that no frame is drawn.
    """

    left: float
    top: float
    right: float
    bottom: float
    colour: Colour
    label: str
    number: int
    outlined: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Outline:
    """A segment to outline: its mask (rows x columns of the picture, bool); dashed if another has its colour."""

    mask: NDArray[np.bool_]
    colour: Colour
    dashed: bool = False


def type_size(rows: int, columns: int) -> int:
    """The size of type, in pixels, that is legible when the picture fills a screen."""
    return max(SMALLEST, round(min(rows, columns) / 46))


def line_width(rows: int, columns: int) -> int:
    """The width of a box's line, in pixels: visible when the picture fills a screen, and when it is shown at a quarter.

    Lines of four pixels leave one pixel of their colour at a quarter of the size, however a viewer reduces.
    """
    return max(4, round(min(rows, columns) / 400))


def in_colour(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A copy of a picture (rows x columns, or rows x columns x 3) as rows x columns x 3."""
    rows, columns = pixels.shape[:2]
    rgb = np.empty((rows, columns, 3), np.uint8)
    if pixels.ndim == 3:
        rgb[...] = pixels
    else:
        for channel in range(3):  # five times as fast as broadcasting over the channels
            rgb[..., channel] = pixels
    return rgb


class Picture:
    """A picture (rows x columns x 3) on which findings are drawn, in place; nothing is drawn beyond its border."""

    def __init__(self, rgb: NDArray[np.uint8], *, line: int | None = None) -> None:
        self.rgb = rgb
        self.rows, self.columns = rgb.shape[:2]
        self._line = line or line_width(self.rows, self.columns)
        self._halo = max(1, self._line // 2)
        self._outlined: list[Rect] = []

    def outline(self, outlines: Sequence[Outline]) -> None:
        """Draw lines around the masks, just outside them."""
        for each in outlines:
            at = _bounds(each.mask)
            if at is None:
                continue
            reach = self._line + self._halo
            if 10 * (at.right - at.left) * (at.bottom - at.top) < self.rows * self.columns:
                self._outlined.append(at.grown(reach))  # small, so a lesion: labels avoid it; they may lie on an organ
            left, top = max(at.left - reach, 0), max(at.top - reach, 0)
            window = np.s_[top : at.bottom + reach, left : at.right + reach]
            mask, target = each.mask[window], self.rgb[window]
            wide = _dilated(mask, self._line)
            target[_dilated(wide, self._halo) & ~wide] = DARK
            line = wide & ~mask
            if each.dashed:
                y, x = np.nonzero(line)
                line[y, x] = (x + left + y + top) // (4 * self._line) % 2 == 0
            target[line] = each.colour

    def mark(self, boxes: Sequence[Box], *, labels: bool = True) -> bool:
        """Draw the boxes and their labels; labels overlap no box and no other label.

        If there is no space for that, the labels are the boxes' numbers and True is returned: the caller must then say
        elsewhere what the numbers mean.
        """
        inner = [self._inside(box) for box in boxes]
        framed = [number for number, box in enumerate(boxes) if not box.outlined]
        for number in framed:
            self._frame(inner[number].grown(self._line), self._halo, DARK)
        for number in framed:
            box, rect = boxes[number], inner[number]
            alike = [other for other in framed if self._alike(rect, inner[other])]
            self._frame(rect, self._line, box.colour, alike.index(number), len(alike))
        if not labels:
            return False
        size = type_size(self.rows, self.columns)
        frames = [rect.grown(self._line + self._halo) for rect in inner]
        panels = [_panel(box.label, size, box.colour) for box in boxes]
        sizes = [(panel.shape[1], panel.shape[0]) for panel in panels]
        places = place(frames, sizes, self.columns, self.rows, self._outlined)
        numbered = places is None
        if places is None:
            panels = [_panel(str(box.number), size, box.colour) for box in boxes]
            sizes = [(p.shape[1], p.shape[0]) for p in panels]
            places = place(frames, sizes, self.columns, self.rows) or place_tags(frames, sizes, self.columns, self.rows)
        self._label(boxes, panels, places)
        return numbered

    def _label(self, boxes: Sequence[Box], panels: Sequence[NDArray[np.uint8]], places: Sequence[Place]) -> None:
        for box, at in zip(boxes, places, strict=True):
            self._leader(at, box.colour)
        for panel, at in zip(panels, places, strict=True):
            target = self.rgb[at.rect.top : at.rect.bottom, at.rect.left : at.rect.right]
            target[...] = panel[: target.shape[0], : target.shape[1]]

    def _leader(self, at: Place, colour: Colour) -> None:
        """Draw a straight line, half as wide as a box's, between a label and its box."""
        if at.leader is None:
            return
        width = max(1, self._line // 2)
        (x0, y0), (x1, y1) = at.leader
        around = Rect(min(x0, x1), min(y0, y1), max(x0, x1) + 1, max(y0, y1) + 1).grown(width + self._halo)
        left, top = max(around.left, 0), max(around.top, 0)
        window = np.s_[top : max(around.bottom, 0), left : max(around.right, 0)]
        image = Image.fromarray(self.rgb[window])
        pen, way = ImageDraw.Draw(image), (x0 - left, y0 - top, x1 - left, y1 - top)
        pen.line(way, fill=DARK, width=width + 2 * max(1, self._halo // 2))
        pen.line(way, fill=colour, width=width)
        self.rgb[window] = np.asarray(image)

    def _inside(self, box: Box) -> Rect:
        """The pixels inside a box's frame; at the border of the picture the frame moves inwards."""
        line = self._line
        return Rect(
            min(max(math.floor(box.left), line), self.columns - line - 1),
            min(max(math.floor(box.top), line), self.rows - line - 1),
            max(min(math.ceil(box.right), self.columns - line), line + 1),
            max(min(math.ceil(box.bottom), self.rows - line), line + 1),
        )

    def _alike(self, one: Rect, other: Rect) -> bool:
        """Whether the frame of one box would hide the frame of the other."""
        return max(abs(a - b) for a, b in zip(one, other, strict=True)) < self._line

    def _frame(self, inside: Rect, width: int, colour: Colour, turn: int = 0, turns: int = 1) -> None:
        """Draw a frame around ``inside``; boxes with the same frame share its lines by dashes in turn."""
        left, top, right, bottom = inside.grown(width)
        dash = 8 * self._line
        for rect in (Rect(left, top, right, inside.top), Rect(left, inside.bottom, right, bottom)):
            for start in _dashes(left, right, dash, turn, turns):
                self._fill(Rect(start, rect.top, min(start + dash, right) if turns > 1 else right, rect.bottom), colour)
        for rect in (Rect(left, inside.top, inside.left, inside.bottom), Rect(inside.right, inside.top, right, bottom)):
            for start in _dashes(inside.top, inside.bottom, dash, turn, turns):
                end = min(start + dash, inside.bottom) if turns > 1 else inside.bottom
                self._fill(Rect(rect.left, start, rect.right, end), colour)

    def _fill(self, rect: Rect, colour: Colour) -> None:
        self.rgb[max(rect.top, 0) : max(rect.bottom, 0), max(rect.left, 0) : max(rect.right, 0)] = colour


def _dashes(start: int, end: int, dash: int, turn: int, turns: int) -> range:
    """Where the dashes of one of several frames begin; a line that is not shared is one dash."""
    return range(start, start + 1) if turns == 1 else range(start + turn * dash, end, turns * dash)


def _panel(text: str, size: int, colour: Colour) -> NDArray[np.uint8]:
    """A label: type on black."""
    pad, text = max(2, size // 5), drawable(text)
    width, height = math.ceil(width_of(text, size)) + 2 * pad, line_height(size)
    image = Image.new("RGB", (width, height), DARK)
    write(ImageDraw.Draw(image), (pad, height // 2), text, size, colour)
    return np.asarray(image)


def line_height(size: int) -> int:
    """The distance of two lines of type, in pixels, at which accents and descenders do not touch."""
    return math.ceil(size * 1.35)


def _bounds(mask: NDArray[np.bool_]) -> Rect | None:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if len(rows) == 0:
        return None
    return Rect(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)


def _dilated(mask: NDArray[np.bool_], by: int) -> NDArray[np.bool_]:
    """The mask with a margin of ``by`` pixels."""
    wide = mask.copy()
    for _ in range(by):
        grown = wide.copy()
        grown[1:] |= wide[:-1]
        grown[:-1] |= wide[1:]
        grown[:, 1:] |= wide[:, :-1]
        grown[:, :-1] |= wide[:, 1:]
        wide = grown
    return wide
