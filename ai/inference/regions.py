"""Probability maps -> regions as boxes, and the image's score of each class.

Boxes are in *grid edges*, columns first, as pixels in `ai.contract`: ``(0, 0)`` is the top left corner of the map's
first cell, ``(w, h)`` the bottom right corner of its last cell. A cell of the map is a pixel of the network's input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage  # type: ignore[import-untyped]

from ai.bundle.manifest import Output

SCORE_QUANTILE = 0.9
"""The score of a region is this quantile of its cells: close to the peak, but not that of a single outlier."""

_MANY = 32  # cells, about a small nodule: their mean ranks images without a box
_GAP = 2  # cells: regions of a class with at most this gap are joined
_FINE = 64  # cells: activation maps are enlarged to at least this side before regions are cut out
_PLACES = 3  # the most regions of an activation map that are shown


@dataclass(frozen=True, slots=True)
class Box:
    """A region of one output channel: its score (probability) and its edges, in grid edges (see the module)."""

    channel: int
    score: float
    left: float
    top: float
    right: float
    bottom: float


def regions(maps: NDArray[np.float32], outputs: Sequence[Output]) -> tuple[tuple[Box, ...], tuple[float, ...]]:
    """Find the regions in probability maps.

    The cells of a map at or above ``map_threshold`` are joined into regions, across gaps of up to two cells. Regions
    with fewer than ``min_area`` such cells are dropped. A region's score is the 0.9 quantile of its cells.
    The image's score of a class is that of its best box. Without a box, it is the mean of the map's 32 strongest cells
    times slightly less than the threshold. So a class reaches its threshold if, and only if, it has a reported box.

    Args:
        maps: probabilities (channels, rows, columns).
        outputs: the meaning and the operating point of each channel.

    Returns:
        The boxes that reach the threshold of their class, best first, and the image's score of each output, in order.

    Raises:
        ValueError: the maps lack an axis or a channel, or hold values that are no probabilities.
    """
    if maps.ndim != 3:
        raise ValueError(f"maps: expected (channels, rows, columns), got shape {maps.shape}")
    if not (np.isfinite(maps).all() and maps.min(initial=0.0) >= 0.0 and maps.max(initial=0.0) <= 1.0):
        raise ValueError("maps: expected probabilities from 0 to 1")
    boxes: list[Box] = []
    scores: list[float] = []
    for output in outputs:
        if output.channel >= maps.shape[0]:
            raise ValueError(f"maps: output {output.key} is channel {output.channel}, there are {maps.shape[0]}")
        found = _boxes_of_class(maps[output.channel], output)
        boxes += [box for box in found if box.score >= output.threshold]
        scores.append(_image_score(maps[output.channel], found, output))
    return tuple(sorted(boxes, key=lambda box: -box.score)), tuple(scores)


def _boxes_of_class(probability: NDArray[np.float32], output: Output) -> list[Box]:
    inside = probability >= output.map_threshold
    if not inside.any():
        return []
    # Bridge narrow gaps, so that a rib does not divide a finding in two.
    joined = ndimage.binary_dilation(inside, structure=np.ones((3, 3), dtype=bool), iterations=_GAP // 2)
    labels, _ = ndimage.label(joined, structure=np.ones((3, 3), dtype=int))
    labels = np.where(inside, labels, 0)
    boxes = []
    for number, place in enumerate(ndimage.find_objects(labels), start=1):
        if place is None:
            continue
        cells = probability[place][labels[place] == number]
        if cells.size < output.min_area:
            continue
        rows, columns = place
        score = float(np.quantile(cells, SCORE_QUANTILE))
        boxes.append(
            Box(output.channel, score, float(columns.start), float(rows.start), float(columns.stop), float(rows.stop))
        )
    return boxes


def _image_score(probability: NDArray[np.float32], found: Sequence[Box], output: Output) -> float:
    best = max((box.score for box in found), default=0.0)
    if best >= output.threshold:
        return best
    # Without a box, the score ranks images and stays below the threshold.
    strongest = np.partition(probability.ravel(), -_MANY)[-_MANY:] if probability.size > _MANY else probability
    return float(strongest.mean()) * output.threshold * 0.999


def peaks(activation: NDArray[np.float32], output: Output, score: float) -> tuple[Box, ...]:
    """The regions with the highest values of an activation map.

    A map is coarse, so it is enlarged (linearly) first. Then the cells that reach ``map_threshold`` times the greatest
    value make regions. The region of the greatest value always counts, and up to two others of ``min_area`` cells.

    Args:
        activation: (rows, columns), 0 to 1; its greatest value is 1.
        output: the class.
        score: the image's score of the class, which each box gets, because a map holds no probabilities.

    Returns:
        At least one box in grid edges of ``activation``, the one with the greatest value first.
    """
    factor = max(1, -(-_FINE // min(activation.shape)))
    fine = ndimage.zoom(activation, factor, order=1, mode="nearest", grid_mode=True) if factor > 1 else activation
    top = float(fine.max())
    labels, _ = ndimage.label(fine >= min(output.map_threshold, 1.0) * top, structure=np.ones((3, 3), dtype=int))
    found = []
    for number, place in enumerate(ndimage.find_objects(labels), start=1):
        rows, columns = place
        own = labels[place] == number
        peak, size = float(fine[place][own].max()), int(own.sum()) / factor**2
        edges = (columns.start / factor, rows.start / factor, columns.stop / factor, rows.stop / factor)
        found.append((peak, size, Box(output.channel, score, *edges)))
    found.sort(key=lambda one: (-one[0], -one[1]))
    others = [box for _, size, box in found[1:] if size >= output.min_area]
    return (found[0][2], *others[: _PLACES - 1])


def drop_small_regions(probability: NDArray[np.float32], output: Output) -> NDArray[np.float32]:
    """Set regions of fewer than ``min_area`` cells to 0, in a class's probabilities of any number of axes."""
    if output.min_area <= 1:
        return probability
    labels, count = ndimage.label(probability >= output.map_threshold, structure=np.ones((3,) * probability.ndim))
    if not count:
        return probability
    small = np.bincount(labels.ravel()) < output.min_area
    small[0] = False
    return np.where(small[labels], np.float32(0.0), probability)


def box_to_image(affine: ArrayLike, box: Box) -> Box:
    """Convert a box from grid edges to pixel edges of the image.

    Args:
        affine: (4 x 4) maps the index of a cell's *centre* (row, column, 0, 1) to that of a pixel's, as the affine of a
            MONAI ``MetaTensor`` does whose image began with the identity. On both grids, the first edge of a cell lies
            half a cell before its centre.
        box: in grid edges.

    Returns:
        The upright box around the four converted corners, in pixel edges (column, row), not clipped.
    """
    matrix = np.asarray(affine, dtype=np.float64)
    corners = np.array(
        [(row - 0.5, column - 0.5, 0.0, 1.0) for row in (box.top, box.bottom) for column in (box.left, box.right)]
    )
    carried = corners @ matrix.T
    rows, columns = carried[:, 0] + 0.5, carried[:, 1] + 0.5
    return Box(box.channel, box.score, float(columns.min()), float(rows.min()), float(columns.max()), float(rows.max()))
