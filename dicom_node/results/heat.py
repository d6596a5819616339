"""A heat map blended over a picture, in colours that grow lighter with the value whatever one's colour vision is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from dicom_node.results.legend import Scale

LOWEST = 0.25
"""Below this value nothing is laid over the picture, so that the anatomy stays visible."""

VISIBLE = 0.3
"""A heat map whose every value is below this shows nothing that can be seen."""

_CHUNK_ROWS = 32  # at once: what fits into the processor's cache
_FULL, _OPAQUE = 0.5, 0.45
"""From this value on the colour covers the picture by this share."""

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
    """The colours as they look over a middle grey: always 0 to 1, so that two pictures can be compared."""
    shares = _shares()[:, np.newaxis]
    shown = np.rint(COLOURS * shares + 128 * (1 - shares)).astype(np.uint8)
    return Scale(shown, tuple((value / 4, f"{value / 4:g}") for value in range(5)))


def _shares() -> NDArray[np.float64]:
    """How much of the picture the colour of each level covers."""
    shares = np.interp(_LEVELS, [LOWEST, _FULL], [0.0, _OPAQUE])
    shares[_LEVELS < LOWEST] = 0.0
    return shares


def blend(rgb: NDArray[np.uint8], heats: Sequence[Heat]) -> None:
    """Lay the heat maps (the highest value at each pixel) over a picture (rows x columns x 3), in place."""
    rows, columns = rgb.shape[:2]
    level = np.zeros((rows, columns), np.uint8)
    for heat in heats:
        top, bottom = max(int(np.floor(heat.top)), 0), min(int(np.ceil(heat.bottom)), rows)
        left, right = max(int(np.floor(heat.left)), 0), min(int(np.ceil(heat.right)), columns)
        if heat.values.size == 0 or top >= bottom or left >= right:
            continue
        values = np.nan_to_num(heat.values.astype(np.float32), nan=0.0).clip(0.0, 1.0) * np.float32(255.0)
        values = _resampled(values, np.arange(top, bottom) + 0.5, heat.top, heat.bottom)
        values = _resampled(values.T, np.arange(left, right) + 0.5, heat.left, heat.right).T
        part = level[top:bottom, left:right]
        np.maximum(part, np.rint(values).astype(np.uint8), out=part)
    blended = _blended()
    for top in range(0, rows, _CHUNK_ROWS):
        part, at = rgb[top : top + _CHUNK_ROWS], level[top : top + _CHUNK_ROWS]
        if at.max() < LOWEST * 255:
            continue
        where = at.astype(np.intp) << 8
        for channel in range(3):
            part[..., channel] = blended[channel].take(where | part[..., channel], mode="clip")


@lru_cache(maxsize=1)
def _blended() -> tuple[NDArray[np.uint8], ...]:
    """For each channel what becomes of a grey (the low 8 bits of the place) under a level (the high 8 bits)."""
    share = _shares() * 256.0
    keep = (256.0 - share).astype(np.uint16)[:, np.newaxis]
    add = (COLOURS * share[:, np.newaxis]).astype(np.uint16)
    greys = np.arange(256, dtype=np.uint16)
    return tuple(((greys * keep + add[:, channel, np.newaxis]) >> 8).astype(np.uint8).ravel() for channel in range(3))


def _resampled(
    values: NDArray[np.float32], centres: NDArray[np.float64], first: float, last: float
) -> NDArray[np.float32]:
    """Values at other places along the first axis, linear between the centres of their cells."""
    count = len(values)
    at = ((centres - first) / (last - first) * count - 0.5).clip(0.0, count - 1.0)
    below = np.minimum(at.astype(np.int64), max(count - 2, 0))
    above = np.minimum(below + 1, count - 1)
    share = (at - below).astype(np.float32)[:, np.newaxis]
    result: NDArray[np.float32] = values[below] * (1 - share) + values[above] * share
    return result
