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

    Each point is at most half a pixel off, or more where the outline would have too many points.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return []
    part = np.pad(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], 1).astype(np.float32)
    found = []
    for contour in _MEASURE.find_contours(part, 0.5):
        tolerance, points = 0.25, _MEASURE.approximate_polygon(contour, 0.25)
        while len(points) > _MOST_POINTS:
            tolerance *= 2
            points = _MEASURE.approximate_polygon(contour, tolerance)
        # Centres of pixels of the padded part, as (row, column): their edges are half a pixel further.
        found.append(points[:, ::-1] - 0.5 + [columns[0], rows[0]])
    return sorted(found, key=len, reverse=True)
