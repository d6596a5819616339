"""Probability maps -> regions as boxes, and the image's score of each class.

Boxes are in *grid edges*, columns first, as pixels in `ai.contract`: ``(0, 0)`` is the top left corner of the map's
first cell, ``(w, h)`` the bottom right corner of its last cell. A cell of the map is a pixel of the network's input.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage  # type: ignore[import-untyped]

from ai.bundle.manifest import Output

SCORE_QUANTILE = 0.9
"""The score of a region is this quantile of its cells: close to the peak, but not that of a single outlier."""

_MANY = 32  # cells, about a small nodule: their mean ranks images without a box
_GAP = 2  # cells: regions of a class with at most this gap are joined
_JOINED_MM = 10.0  # fragments of a class with at most this distance are one
_BORDER = 1000  # cells of a region's border that are compared
_SLIGHT = 0.05  # of the largest region of a class: a smaller one is no finding of its own
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


def regions(
    maps: NDArray[np.float32], outputs: Sequence[Output], cell_mm: tuple[float, float] | None = None
) -> tuple[tuple[Box, ...], tuple[float, ...]]:
    """Find the regions in probability maps.

    The cells of a map at or above ``map_threshold`` are joined into regions, across gaps of up to two cells. Regions
    with fewer than ``min_area`` such cells are dropped. A region's score is the 0.9 quantile of its cells.
    Then regions that reach the threshold are joined across gaps of up to 10 mm, since they are fragments of one
    finding. The box is around all of them, the score is the best. A region with less than 5 % of the cells of the
    class's largest is no finding of its own.
    The image's score of a class is that of its best box. Without a box, it is the mean of the map's 32 strongest cells
    times slightly less than the threshold. So a class reaches its threshold if, and only if, it has a reported box.

    Args:
        maps: probabilities (channels, rows, columns).
        outputs: the meaning and the operating point of each channel.
        cell_mm: mm between neighbouring cells, down and across. None joins only what touches.

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
        labels, found = _boxes_of_class(maps[output.channel], output)
        boxes += joined(labels, {n: box for n, box in found.items() if box.score >= output.threshold}, cell_mm)
        scores.append(_image_score(maps[output.channel], list(found.values()), output))
    return tuple(sorted(boxes, key=lambda box: -box.score)), tuple(scores)


def _boxes_of_class(probability: NDArray[np.float32], output: Output) -> tuple[NDArray[np.integer], dict[int, Box]]:
    """The number of the region that each cell belongs to, 0 for none; and the boxes of the regions by their numbers."""
    inside = probability >= output.map_threshold
    if not inside.any():
        return inside.astype(np.int32), {}
    # Bridge narrow gaps, so that a rib does not divide a finding in two.
    bridged = ndimage.binary_dilation(inside, structure=np.ones((3, 3), dtype=bool), iterations=_GAP // 2)
    labels, _ = ndimage.label(bridged, structure=np.ones((3, 3), dtype=int))
    labels = np.where(inside, labels, 0)
    boxes = {}
    for number, place in enumerate(ndimage.find_objects(labels), start=1):
        if place is None:
            continue
        cells = probability[place][labels[place] == number]
        if cells.size < output.min_area:
            continue
        score = float(np.quantile(cells, SCORE_QUANTILE))
        boxes[number] = Box(output.channel, score, *_edges(place))
    return labels, boxes


def _edges(place: tuple[slice, slice]) -> tuple[float, float, float, float]:
    rows, columns = place
    return float(columns.start), float(rows.start), float(columns.stop), float(rows.stop)


def joined(
    labels: NDArray[np.integer], boxes: Mapping[int, Box], cell_mm: tuple[float, float] | None = None
) -> list[Box]:
    """Join the regions of a class that are fragments of one finding, and leave out the slight ones.

    Args:
        labels: (rows, columns), the number of the region that each cell belongs to.
        boxes: the box of each region that counts, by its number.
        cell_mm: mm between neighbouring cells, down and across. Regions whose nearest cells have at most 10 mm between
            them are one. None joins none.

    Returns:
        The boxes around the joined regions, in the order of ``boxes``: those with at least 5 % of the cells of the
        largest, and the one with the best score (the first of several).
    """
    if len(boxes) < 2:
        return list(boxes.values())
    groups = _near(labels, list(boxes), cell_mm) if cell_mm is not None else {number: number for number in boxes}
    sizes = np.bincount(labels.ravel())
    members: dict[int, list[int]] = {}
    for number in boxes:
        members.setdefault(groups[number], []).append(number)
    whole = {group: int(sizes[numbers].sum()) for group, numbers in members.items()}
    least = _SLIGHT * max(whole.values())
    best = groups[max(boxes, key=lambda number: boxes[number].score)]
    return [
        _around([boxes[number] for number in numbers])
        for group, numbers in members.items()
        if whole[group] >= least or group == best
    ]


def _near(labels: NDArray[np.integer], numbers: Sequence[int], cell_mm: tuple[float, float]) -> dict[int, int]:
    """The group of each region: regions of a group are linked by gaps of at most 10 mm."""
    places = ndimage.find_objects(labels)
    edges = np.array([[(part.start, part.stop) for part in places[number - 1]] for number in numbers])  # (n, axis, end)
    groups = {number: number for number in numbers}
    borders = {number: _border(labels, number, places[number - 1]) for number in numbers}
    for place, one in enumerate(numbers):
        # Two regions are at least as far apart as the boxes around them, of which there can be thousands.
        later = edges[place + 1 :]
        between = np.maximum(np.maximum(later[:, :, 0] - edges[place, :, 1], edges[place, :, 0] - later[:, :, 1]), 0)
        for near in np.flatnonzero(np.hypot(*(between * np.asarray(cell_mm)).T) <= _JOINED_MM):
            other = numbers[place + 1 + int(near)]
            if groups[one] != groups[other] and _gap(borders[one], borders[other], cell_mm) <= _JOINED_MM:
                old, new = groups[other], groups[one]
                groups = {number: new if group == old else group for number, group in groups.items()}
    return groups


def _border(labels: NDArray[np.integer], number: int, place: tuple[slice, slice]) -> NDArray[np.intp]:
    """The cells (n, 2) of a region that touch others, at most about a thousand of them, evenly."""
    region = labels[place] == number
    cells = np.argwhere(region & ~ndimage.binary_erosion(region))
    return np.asarray(cells[:: max(1, len(cells) // _BORDER)] + np.array([part.start for part in place]))


def _gap(one: NDArray[np.intp], other: NDArray[np.intp], cell_mm: tuple[float, float]) -> float:
    """The mm between the edges of the nearest cells of two regions."""
    down, across = (
        np.maximum(np.abs(one[:, None, axis] - other[None, :, axis]) - 1, 0) * cell_mm[axis] for axis in (0, 1)
    )
    return float(np.sqrt((down**2 + across**2).min()))


def _around(boxes: Sequence[Box]) -> Box:
    return Box(
        boxes[0].channel,
        max(box.score for box in boxes),
        min(box.left for box in boxes),
        min(box.top for box in boxes),
        max(box.right for box in boxes),
        max(box.bottom for box in boxes),
    )


def _image_score(probability: NDArray[np.float32], found: Sequence[Box], output: Output) -> float:
    best = max((box.score for box in found), default=0.0)
    if best >= output.threshold:
        return best
    # Without a box, the score ranks images and stays below the threshold.
    strongest = np.partition(probability.ravel(), -_MANY)[-_MANY:] if probability.size > _MANY else probability
    return float(strongest.mean()) * output.threshold * 0.999


def peaks(
    activation: NDArray[np.float32], output: Output, score: float, cell_mm: tuple[float, float] | None = None
) -> tuple[Box, ...]:
    """The regions with the highest values of an activation map.

    A map is coarse, so it is enlarged (linearly) first. Then the cells that reach ``map_threshold`` times the greatest
    value make regions. The region of the greatest value always counts, and up to two others of ``min_area`` cells.
    Fragments of one finding are joined as in `regions`.

    Args:
        activation: (rows, columns), 0 to 1; its greatest value is 1.
        output: the class.
        score: the image's score of the class, which each box gets, because a map holds no probabilities.
        cell_mm: mm between neighbouring cells of ``activation``, down and across. None joins only what touches.

    Returns:
        At least one box in grid edges of ``activation``, the one with the greatest value first.
    """
    factor = max(1, -(-_FINE // min(activation.shape)))
    fine = ndimage.zoom(activation, factor, order=1, mode="nearest", grid_mode=True) if factor > 1 else activation
    top = float(fine.max())
    labels, _ = ndimage.label(fine >= min(output.map_threshold, 1.0) * top, structure=np.ones((3, 3), dtype=int))
    found = []
    for number, place in enumerate(ndimage.find_objects(labels), start=1):
        own = labels[place] == number
        peak, size = float(fine[place][own].max()), int(own.sum()) / factor**2
        left, upper, right, lower = (edge / factor for edge in _edges(place))
        found.append((peak, size, number, Box(output.channel, score, left, upper, right, lower)))
    found.sort(key=lambda one: (-one[0], -one[1]))
    counted = {number: box for _, size, number, box in found if size >= output.min_area or number == found[0][2]}
    fine_mm = None if cell_mm is None else (cell_mm[0] / factor, cell_mm[1] / factor)
    return tuple(joined(labels, counted, fine_mm)[:_PLACES])


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
