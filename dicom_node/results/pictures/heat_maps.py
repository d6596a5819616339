"""Heat maps over a picture: a tint that keeps the picture's own light and dark, and contour lines.

Start here for: how strong the tint is (``_TINTS``), where the contour lines are (``CONTOURS``).

A tint adds a colour without its lightness, so a lesion below it keeps its contrast; the gradation is seen in the hue,
and, whatever a person's colour vision, in the contour lines.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from dicom_node.results.pictures.legend import Scale

LOWEST = 0.25
"""Values below this are not drawn, so that the anatomy stays visible."""

VISIBLE = 0.3
"""A heat map whose values are all below this is not visible."""

CONTOURS = (0.25, 0.5, 0.75)
"""The values along which a line is drawn, in the colour of the value."""

_CHUNK_ROWS = 32  # rows tinted at once: they fit into the processor's cache
_TINTS = (0.15, 0.65)
"""The share of its colour that a map adds at the value ``LOWEST`` and at 1; linear in between."""

_LUMA = (0.2126, 0.7152, 0.0722)  # ITU-R BT.709-6, 3.2

# Nine stations of matplotlib's "plasma" (CC0), in which lightness grows evenly and hue with any colour vision.
_STATIONS = (
    *((13, 8, 135), (76, 2, 161), (126, 3, 168), (170, 35, 149), (204, 71, 120)),
    *((230, 108, 92), (248, 149, 64), (253, 197, 39), (240, 249, 33)),
)
_LEVELS = np.linspace(0.0, 1.0, 256)
COLOURS: NDArray[np.uint8] = np.stack(
    [
        np.interp(_LEVELS, np.linspace(0.0, 1.0, len(_STATIONS)), [station[channel] for station in _STATIONS])
        for channel in range(3)
    ],
    axis=1,
).astype(np.uint8)
"""The colour of each value from 0 to 1 (256 x 3)."""


@dataclass(frozen=True, slots=True, eq=False)
class Heat:
    """Values from 0 to 1 over the area between four edges, in pixels of the picture."""

    values: NDArray[np.float32]
    left: float
    top: float
    right: float
    bottom: float


def scale() -> Scale:
    """The colours as they look over a middle grey: always from 0 to 1, so that pictures can be compared."""
    shown = np.rint(128 + _tints()).clip(0, 255).astype(np.uint8)
    for value in CONTOURS:
        level = round(255 * value)
        shown[level - 2 : level + 2] = _line_colour(level)
    return Scale(shown, tuple((value / 4, f"{value / 4:g}") for value in range(5)))


def _tints() -> NDArray[np.float64]:
    """What each level (256 x 3) adds to a pixel's channels: its colour without its lightness."""
    colours = COLOURS.astype(np.float64)
    shares = np.interp(_LEVELS, [LOWEST, 1.0], _TINTS)
    shares[_LEVELS < LOWEST] = 0.0
    tints: NDArray[np.float64] = (colours - (colours @ np.array(_LUMA))[:, np.newaxis]) * shares[:, np.newaxis]
    return tints


def _line_colour(level: int) -> NDArray[np.uint8]:
    """The colour of a contour line: that of the level, lighter, so that it is seen on lungs as well as on bones."""
    return np.asarray((COLOURS[level].astype(np.uint16) + 255) // 2, dtype=np.uint8)


def blend(rgb: NDArray[np.uint8], heats: Sequence[Heat], *, grey: bool = False, line: int = 0) -> None:
    """Tint a picture (rows x columns x 3) by heat maps, in place; where several meet, the highest value counts.

    ``grey``: all three channels of the picture are the same. ``line``: the width of contour lines; 0 draws none.
    """
    rows, columns = rgb.shape[:2]
    areas = [area for heat in heats if (area := _area(heat, rows, columns)) is not None]
    if not areas:
        return
    left, right = min(area.left for area in areas), max(area.right for area in areas)
    first, last = min(area.top for area in areas), max(area.bottom for area in areas)
    levels = np.zeros((last - first, right - left), np.uint8)
    blended = _blended()
    for top in range(first, last, _CHUNK_ROWS):
        bottom = min(top + _CHUNK_ROWS, last)
        level = levels[top - first : bottom - first]
        for area in areas:
            if area.top < bottom and area.bottom > top:
                area.lay_on(level, top, left)
        part = rgb[top:bottom, left:right]
        where = level.astype(np.intp) << 8
        if grey:
            where |= part[..., 0]
        for channel in range(3):
            at_channel = where if grey else where | part[..., channel]
            part[..., channel] = blended[channel].take(at_channel, mode="clip")
    if line:
        _draw_contours(rgb[first:last, left:right], levels, line)


@dataclass(frozen=True, slots=True, eq=False)
class _Area:
    """The pixels between four edges, in which a heat map is visible.

    ``values`` (bottom - top x cells) are those of the map, from 0 to 255, at each row of pixels. A column of pixels is
    interpolated between the cells ``below`` and ``above``; ``share`` is the part of the second.
    """

    top: int
    bottom: int
    left: int
    right: int
    values: NDArray[np.float32]
    below: NDArray[np.intp]
    above: NDArray[np.intp]
    share: NDArray[np.float32]

    def lay_on(self, level: NDArray[np.uint8], top: int, left: int) -> None:
        """Raise ``level`` (0 to 255) to these values; it begins at row ``top`` and column ``left`` of the picture."""
        first, last = max(self.top, top), min(self.bottom, top + len(level))
        values = self.values[first - self.top : last - self.top]
        mixed = values.take(self.below, axis=1) * (1 - self.share) + values.take(self.above, axis=1) * self.share
        part = level[first - top : last - top, self.left - left : self.right - left]
        np.maximum(part, np.rint(mixed).astype(np.uint8), out=part)


def _area(heat: Heat, rows: int, columns: int) -> _Area | None:
    """Where a heat map is visible on a picture of this size. None if it is not visible anywhere."""
    values = np.nan_to_num(heat.values.astype(np.float32), nan=0.0).clip(0.0, 1.0)
    top, bottom = down = _pixels(values, 0, heat.top, heat.bottom, rows)
    left, right = across = _pixels(values, 1, heat.left, heat.right, columns)
    if top >= bottom or left >= right:
        return None
    values *= np.float32(255.0)
    below, above, share = _between(len(values), heat.top, heat.bottom, down)
    share = share[:, np.newaxis]
    along = (values[below] * (1 - share) + values[above] * share).astype(np.float32, copy=False)
    return _Area(top, bottom, left, right, along, *_between(values.shape[1], heat.left, heat.right, across))


def _pixels(values: NDArray[np.float32], axis: int, first: float, last: float, size: int) -> tuple[int, int]:
    """The first and last pixel (exclusive) along an axis at which a map between two edges is visible.

    The map is interpolated, so this is one cell more than it has colour.
    """
    cells = np.flatnonzero(np.asarray((np.rint(values * 255.0) >= LOWEST * 255).any(axis=1 - axis)))
    if not len(cells):
        return 0, 0
    width = (last - first) / values.shape[axis]
    start, end = first + (cells[0] - 1) * width, first + (cells[-1] + 2) * width
    return max(int(np.floor(max(start, first))), 0), min(int(np.ceil(min(end, last))), size)


def _draw_contours(rgb: NDArray[np.uint8], levels: NDArray[np.uint8], line: int) -> None:
    """Draw lines of so many pixels along ``CONTOURS``, just inside of them; ``levels`` are those of all of ``rgb``."""
    for value in CONTOURS:
        level = math.ceil(255 * value)
        inside = levels >= level
        if not inside.any():
            continue
        core = inside.copy()
        core[line:] &= inside[:-line]
        core[:-line] &= inside[line:]
        core[:, line:] &= inside[:, :-line]
        core[:, :-line] &= inside[:, line:]
        rgb[inside & ~core] = _line_colour(level)


@lru_cache(maxsize=1)
def _blended() -> tuple[NDArray[np.uint8], ...]:
    """For each channel: the result for each value (low 8 bits of the index) under each level (high 8 bits)."""
    tints, values = np.rint(_tints()).astype(np.int16), np.arange(256, dtype=np.int16)
    return tuple((values + tints[:, channel, np.newaxis]).clip(0, 255).astype(np.uint8).ravel() for channel in range(3))


def _between(
    count: int, first: float, last: float, pixels: tuple[int, int]
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """Linear interpolation between the centres of cells: the two cells of each value, and the share of the second."""
    centres = np.arange(*pixels) + 0.5
    at = ((centres - first) / (last - first) * count - 0.5).clip(0.0, count - 1.0)
    below = np.minimum(at.astype(np.intp), max(count - 2, 0))
    return below, np.minimum(below + 1, count - 1), (at - below).astype(np.float32)
