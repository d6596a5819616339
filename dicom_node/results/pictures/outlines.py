"""The outline of a finding, where its model drew one: as a mask, and as polygons.

A mark that follows the outline replaces the box in pictures and presentation states.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import skimage.measure
from numpy.typing import NDArray

from ai.contract import Finding, Reading

_MEASURE: Any = skimage.measure  # its functions have no types

_MOST_POINTS = 2000
"""The most points of one polygon: Graphic Data (0070,0022) is FL, of which 8191 points fit into 65534 bytes."""

_MOST_POLYGONS = 50
"""The most outlines of one mask."""

_LONGEST_BORDER = 100_000
"""Pixels. The borders of ribs or vessels on a large film are shorter; those of noise have millions."""


def outline_of(reading: Reading, finding: Finding) -> NDArray[np.bool_] | None:
    """The pixels of a finding (rows x columns of its frame). None if no segment of its class lies in its region.

    A finding that names its segment (``part``) has that one alone.
    """
    region = finding.region
    window = np.s_[
        max(math.floor(region.top), 0) : math.ceil(region.bottom),
        max(math.floor(region.left), 0) : math.ceil(region.right),
    ]
    for segmentation in reading.segmentations:
        for place, (ref, frame) in enumerate(segmentation.frames):
            if (ref.sop_instance_uid, frame) != (region.sop_instance_uid, region.frame):
                continue
            for segment in segmentation.segments:
                if segment.key != finding.key or (finding.part and segment.part != finding.part):
                    continue
                whole = segment.mask[place] >= 0.5
                if whole[window].any():
                    mask = np.zeros(whole.shape, np.bool_)
                    mask[window] = whole[window]
                    return mask
    return None


def polygons(mask: NDArray[np.bool_]) -> list[NDArray[np.float64]]:
    """The closed outlines of a mask, the longest first: n x (column, row) in pixel edges, first point repeated.

    Each point is at most half a pixel off, or more where the outline would have too many points. There are at most 50
    outlines, those with the longest borders; the holes of a mask count as well.

    The cost is bounded. A mask whose borders are together longer than 100,000 pixels, which is noise, is outlined
    coarsely: a square of 2 x 2 pixels (or 4 x 4 ...) is in it where at least half of its pixels are. If none is, the
    outline is that of the rectangle around the mask.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return []
    part, scale = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], 1
    while _border_length(part) > _LONGEST_BORDER:
        part, scale = _halved(part), scale * 2
        if not part.any():
            part = np.ones_like(part)
    found = []
    contours = _MEASURE.find_contours(np.pad(part, 1).astype(np.float32), 0.5)
    for contour in sorted(contours, key=len, reverse=True)[:_MOST_POLYGONS]:
        tolerance, points = 0.25, _MEASURE.approximate_polygon(contour, 0.25)
        while len(points) > _MOST_POINTS:
            tolerance *= 2
            points = _MEASURE.approximate_polygon(contour, tolerance)
        # Centres of cells of the padded part, as (row, column): their edges are half a cell further.
        found.append((points[:, ::-1] - 0.5) * scale + [columns[0], rows[0]])
    return sorted(found, key=len, reverse=True)


def _border_length(mask: NDArray[np.bool_]) -> int:
    """How many pixels of a mask have a neighbour outside it to the right, left, above or below, each counted apart."""
    return int(np.count_nonzero(mask[1:] != mask[:-1]) + np.count_nonzero(mask[:, 1:] != mask[:, :-1]))


def _halved(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    rows, columns = (size + size % 2 for size in mask.shape)
    even = np.zeros((rows, columns), np.uint8)
    even[: mask.shape[0], : mask.shape[1]] = mask
    return np.asarray(even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2] >= 2)
