"""Heat maps blended over a picture, in colours whose lightness grows with the value for any colour vision."""

from __future__ import annotations

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

_CHUNK_ROWS = 32  # rows blended at once: they fit into the processor's cache
_FULL, _OPAQUE = 0.5, 0.45
"""From the value ``_FULL`` on, the colour covers the picture by the share ``_OPAQUE``."""

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
    shares = _shares()[:, np.newaxis]
    shown = np.rint(COLOURS * shares + 128 * (1 - shares)).astype(np.uint8)
    return Scale(shown, tuple((value / 4, f"{value / 4:g}") for value in range(5)))


def _shares() -> NDArray[np.float64]:
    """How much of the picture the colour of each level covers."""
    shares = np.interp(_LEVELS, [LOWEST, _FULL], [0.0, _OPAQUE])
    shares[_LEVELS < LOWEST] = 0.0
    return shares


def blend(rgb: NDArray[np.uint8], heats: Sequence[Heat], *, grey: bool = False) -> None:
    """Blend heat maps over a picture (rows x columns x 3), in place; where several meet, the highest value counts.

    ``grey``: all three channels of the picture are the same.
    """
    rows, columns = rgb.shape[:2]
    areas = [area for heat in heats if (area := _area(heat, rows, columns)) is not None]
    blended = _blended()
    for top in range(0, rows, _CHUNK_ROWS):
        bottom = min(top + _CHUNK_ROWS, rows)
        at = [area for area in areas if area.top < bottom and area.bottom > top]
        if not at:
            continue
        left, right = min(area.left for area in at), max(area.right for area in at)
        level = np.zeros((bottom - top, right - left), np.uint8)
        for area in at:
            area.lay_on(level, top, left)
        part = rgb[top:bottom, left:right]
        where = level.astype(np.intp) << 8
        if grey:
            where |= part[..., 0]
        for channel in range(3):
            at_channel = where if grey else where | part[..., channel]
            part[..., channel] = blended[channel].take(at_channel, mode="clip")


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


@lru_cache(maxsize=1)
def _blended() -> tuple[NDArray[np.uint8], ...]:
    """For each channel: the result for each grey (low 8 bits of the index) under each level (high 8 bits)."""
    share = _shares() * 256.0
    keep = (256.0 - share).astype(np.uint16)[:, np.newaxis]
    add = (COLOURS * share[:, np.newaxis]).astype(np.uint16)
    greys = np.arange(256, dtype=np.uint16)
    return tuple(((greys * keep + add[:, channel, np.newaxis]) >> 8).astype(np.uint8).ravel() for channel in range(3))


def _between(
    count: int, first: float, last: float, pixels: tuple[int, int]
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """Linear interpolation between the centres of cells: the two cells of each value, and the share of the second."""
    centres = np.arange(*pixels) + 0.5
    at = ((centres - first) / (last - first) * count - 0.5).clip(0.0, count - 1.0)
    below = np.minimum(at.astype(np.intp), max(count - 2, 0))
    return below, np.minimum(below + 1, count - 1), (at - below).astype(np.float32)
