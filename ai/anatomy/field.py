"""The body and the lungs in a frontal chest radiograph, and where the thorax's midline runs.

A small network (`ai.anatomy.network`, trained by ``python -m ai.training.field``) outlines both lungs and the body on a
grid of 96 x 96 cells, and says what the image is. The lung field is the part of the picture that a lung fills beside
heart, mediastinum and diaphragm, whether air is in it or not. How well it does: docs/reference/where.md.

Columns and rows here are pixel edges of the whole image, as in `ai.contract`. Grid edges run from 0 to 96 over the
square around the image, in whose middle the image lies.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage  # type: ignore[import-untyped]

WEIGHTS: Final = Path(__file__).parent / "field.pt"

_SIDE = 96  # cells of the grid, as `ai.anatomy.network` has them
_SAMPLES = 32  # points along each side of a box at which the field is looked up
_LEAST_LUNG = 0.012  # of the square: a smaller lung is none
_UNLIKE = 4.0  # times larger than the other lung: then one of them is not outlined well
_CLEAR = 0.80  # the least mean probability over a lung's cells
_SHARED_ROWS = 12  # cells: the least height at which both lungs are beside each other
_MIDLINES = 0.07  # of the thorax's width: how far two estimates of the midline may lie apart
_TILT = 0.2  # the most that the midline may lean: columns a row

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class ChestField:
    """The field of one image of ``rows`` x ``columns`` pixels.

    ``lungs`` and ``body`` are masks (96, 96) on the grid. ``lungs`` is None if no two plausible lungs were found: then
    nothing is known of the lungs, and no midline. ``kinds`` are the probabilities of what the image is, in the order
    of `ai.anatomy.network`. ``line`` is the midline as (column at row 0, columns a row), in pixels.
    """

    rows: int
    columns: int
    lungs: Mask | None
    body: Mask
    kinds: tuple[float, ...]
    line: tuple[float, float] | None

    def midline(self, row: float) -> float | None:
        """The column of the thorax's midline at a row. None if the field is not sure."""
        return None if self.line is None else self.line[0] + self.line[1] * row

    def share_in_lungs(self, box: tuple[float, float, float, float]) -> float | None:
        """The share of a box (left, top, right, bottom) in the lung field, 0 to 1. None if the field is not sure."""
        return None if self.lungs is None else self._share(self.lungs, *_points_of(box))

    def share_in_body(self, box: tuple[float, float, float, float]) -> float:
        """The share of a box in the body, 0 to 1."""
        return self._share(self.body, *_points_of(box))

    def within_body(self, box: tuple[float, float, float, float]) -> tuple[float, float, float, float] | None:
        """The smallest box around the part of a box that lies in the body. None if no part does."""
        columns, rows = _points_of(box)
        inside = self._at(self.body, columns, rows).reshape(_SAMPLES, _SAMPLES)
        if not inside.any():
            return None
        if inside.all():
            return box
        left, top, right, bottom = box
        across, down = np.flatnonzero(inside.any(axis=0)), np.flatnonzero(inside.any(axis=1))
        wide, tall = (right - left) / _SAMPLES, (bottom - top) / _SAMPLES
        return (
            left + wide * float(across[0]),
            top + tall * float(down[0]),
            left + wide * float(across[-1] + 1),
            top + tall * float(down[-1] + 1),
        )

    def body_of_image(self) -> Mask:
        """The body on the image's pixels (rows, columns)."""
        columns, rows = (np.arange(count, dtype=np.float64) + 0.5 for count in (self.columns, self.rows))
        return self.is_body(columns, rows)

    def is_body(self, columns: NDArray[np.float64], rows: NDArray[np.float64]) -> Mask:
        """Where columns and rows cross in the body: (rows, columns). False beyond the image."""
        across, down = self._cells(columns, rows)
        seen = ((rows >= 0) & (rows <= self.rows))[:, None] & (columns >= 0) & (columns <= self.columns)
        return np.asarray(self.body[np.ix_(down, across)] & seen)

    def _share(self, mask: Mask, columns: NDArray[np.float64], rows: NDArray[np.float64]) -> float:
        return float(self._at(mask, columns, rows).mean()) if columns.size else 0.0

    def _at(self, mask: Mask, columns: NDArray[np.float64], rows: NDArray[np.float64]) -> Mask:
        across, down = self._cells(columns, rows)
        return np.asarray(mask[down, across])

    def _cells(
        self, columns: NDArray[np.float64], rows: NDArray[np.float64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        scale, left, top = _placed(self.rows, self.columns)
        across, down = (np.floor(edges) for edges in (columns * scale + left, rows * scale + top))
        return tuple(np.clip(each, 0, _SIDE - 1).astype(np.int64) for each in (across, down))  # type: ignore[return-value]


def chest_field(display: NDArray[np.float32]) -> ChestField:
    """Find the field of an image.

    Args:
        display: (rows, columns), float32 from 0 (black) to 1 (white) with bone white, as `ai.images.radiograph` makes.
    """
    rows, columns = display.shape
    maps, kinds = _answer(_levelled(reduced(display, _SIDE)))
    scale, left, top = _placed(rows, columns)
    shown = np.zeros((_SIDE, _SIDE), dtype=bool)
    shown[round(top) : _SIDE - round(top), round(left) : _SIDE - round(left)] = True
    sides = [_largest((chance > 0.5) & shown) for chance in maps[:2]]
    body = ndimage.binary_fill_holes(_largest((maps[2] > 0.5) & shown))
    line = _midline(*sides) if _plausible(sides, maps) else None
    if line is None:
        return ChestField(rows, columns, None, body, kinds, None)
    lungs = ndimage.binary_fill_holes(sides[0] | sides[1])
    # From grid edges to pixels: column = (a + b * (row * scale + top) - left) / scale.
    start, tilt = line
    return ChestField(rows, columns, lungs, body | lungs, kinds, ((start + tilt * top - left) / scale, tilt))


def reduced(display: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """A picture on a square of ``side`` x ``side`` cells, in its middle, as large as it fits. The rest is 0.

    A cell is the mean of its pixels. A picture that is smaller is enlarged linearly.
    """
    rows, columns = display.shape
    height, width = _size(rows, columns, side)
    whole = np.zeros((side, side), dtype=np.float32)
    top, left = (side - height) // 2, (side - width) // 2
    # Rows first, which lie together in memory.
    whole[top : top + height, left : left + width] = _means(_means(display, height).T, width).T
    return whole


def _size(rows: int, columns: int, side: int) -> tuple[int, int]:
    scale = side / max(rows, columns)
    return max(1, round(rows * scale)), max(1, round(columns * scale))


def _placed(rows: int, columns: int) -> tuple[float, float, float]:
    """Cells a pixel, and the image's left and top edge on the grid."""
    height, width = _size(rows, columns, _SIDE)
    return _SIDE / max(rows, columns), float((_SIDE - width) // 2), float((_SIDE - height) // 2)


def _means(values: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """Rows of ``values`` averaged to ``count`` rows."""
    size = values.shape[0]
    if size < count:
        at = np.clip((np.arange(count) + 0.5) * size / count - 0.5, 0.0, size - 1.0)
        low = np.minimum(at.astype(np.int64), max(size - 2, 0))
        part = (at - low).astype(np.float32)[:, None]
        return np.asarray(values[low] * (1.0 - part) + values[np.minimum(low + 1, size - 1)] * part, dtype=np.float32)
    edges = (np.arange(count) * size) // count
    lengths = np.diff(np.append(edges, size)).astype(np.float32)
    return np.asarray(np.add.reduceat(values, edges, axis=0) / lengths[:, None], dtype=np.float32)


def _levelled(small: NDArray[np.float32]) -> NDArray[np.float32]:
    low, high = np.percentile(small, (0.5, 99.5))
    return np.asarray(np.clip((small - low) / max(float(high - low), 1e-3), 0.0, 1.0), dtype=np.float32)


@cache
def field_digest() -> str:
    """SHA-256 (hex) of the field's weights. It is computed once, as the weights are loaded once.

    Raises:
        OSError: the file cannot be read.
    """
    return hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()


@cache
def _network() -> Any:
    import torch  # noqa: PLC0415  (seconds, and the receiving process does without)

    from ai.anatomy.network import FieldNetwork  # noqa: PLC0415  (imports torch)

    network = FieldNetwork()
    network.load_state_dict(torch.load(WEIGHTS, map_location="cpu", weights_only=True))
    return network.float().eval()


def _answer(small: NDArray[np.float32]) -> tuple[NDArray[np.float32], tuple[float, ...]]:
    import torch  # noqa: PLC0415  (see _network)

    with torch.inference_mode():
        maps, kinds = _network()(torch.from_numpy(small)[None, None])
        chances = torch.sigmoid(maps[0]).numpy(), torch.softmax(kinds[0], dim=0).tolist()
    return chances[0], tuple(chances[1])


def _largest(mask: Mask) -> Mask:
    labels, count = ndimage.label(mask)
    if count < 2:
        return mask
    return np.asarray(labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:])))


def _plausible(sides: list[Mask], maps: NDArray[np.float32]) -> bool:
    areas = [int(side.sum()) for side in sides]
    if min(areas) < _LEAST_LUNG * _SIDE**2 or max(areas) > _UNLIKE * min(areas):
        return False
    clear = all(float(chance[side].mean()) >= _CLEAR for chance, side in zip(maps[:2], sides, strict=True))
    columns = [float(np.nonzero(side)[1].mean()) for side in sides]
    return clear and columns[0] < columns[1]


def _midline(right: Mask, left: Mask) -> tuple[float, float] | None:
    """The midline between the lungs in the picture, (column at row 0, columns a row) in grid edges. None if unsure.

    It runs where, row by row, the thorax's outer borders and the mediastinum's borders have their middle. The heart
    widens the mediastinum to one side, so the mediastinum counts in the upper half of the lungs alone.
    """
    rows = np.flatnonzero(right.any(axis=1) & left.any(axis=1))
    if rows.size < _SHARED_ROWS:
        return None
    outer = np.array([[np.argmax(right[row]), _SIDE - np.argmax(left[row, ::-1])] for row in rows], dtype=np.float64)
    inner = np.array([[_SIDE - np.argmax(right[row, ::-1]), np.argmax(left[row])] for row in rows], dtype=np.float64)
    upper = rows.size // 2
    cage, gap = outer.mean(axis=1), inner[:upper].mean(axis=1)
    width = float(np.diff(outer, axis=1).max())
    if abs(float(np.median(cage[:upper]) - np.median(gap))) > _MIDLINES * width:
        return None
    middles = (cage[:upper] + gap) / 2.0
    lower = cage[upper:] - float(np.median(cage[:upper]) - np.median(middles))
    heights = rows + 0.5
    tilt, start = np.polyfit(heights, np.concatenate([middles, lower]), 1)
    if abs(tilt) > _TILT:
        return None
    return float(start), float(tilt)


def _points_of(box: tuple[float, float, float, float]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The columns and rows of points evenly over a box, row by row."""
    left, top, right, bottom = box
    steps = (np.arange(_SAMPLES) + 0.5) / _SAMPLES
    columns, rows = np.meshgrid(left + (right - left) * steps, top + (bottom - top) * steps)
    return columns.ravel(), rows.ravel()
