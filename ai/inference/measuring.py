"""The two diameters of an outline: its longest one, and the longest one perpendicular to that.

They are what radiologists measure of a nodule in a slice (Eisenhauer et al., "New response evaluation criteria in solid
tumours: RECIST 1.1", European Journal of Cancer 45, 2009; Long Axis 103339001 and Short Axis 103340004 of PS3.16
CID 7470).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import ConvexHull, QhullError  # type: ignore[import-untyped]

from ai.contract import Axes, Line

_Points = NDArray[np.float64]


def axes_of(mask: NDArray[np.bool_], row_spacing: float = 1.0, column_spacing: float = 1.0) -> Axes | None:
    """The longest diameter of an outline's convex hull and the longest chord perpendicular to it.

    A pixel reaches to the middles of its four edges: so the diameter of a drawn disc is neither one pixel too long, as
    between corners, nor too short, as between centres.

    Args:
        mask: rows x columns.
        row_spacing: the distance between the centres of neighbouring rows; only its ratio to the other one counts.
        column_spacing: the distance between the centres of neighbouring columns.

    Returns:
        The ends of both in pixel edges (column, row); None if the mask is empty, or if the spacings differ so much that
        it has no area.
    """
    rows, columns = np.nonzero(_border(mask))
    if not rows.size:
        return None
    scale = np.array([column_spacing, row_spacing])
    points = np.concatenate(
        [
            np.stack([columns + across, rows + down], axis=1)
            for across, down in ((0.0, 0.5), (1.0, 0.5), (0.5, 0.0), (0.5, 1.0))
        ]
    )
    try:
        hull = points[ConvexHull(points * scale).vertices] * scale
    except QhullError:
        return None
    between = hull[:, None] - hull[None]
    first, second = np.unravel_index(int((between**2).sum(axis=2).argmax()), between.shape[:2])
    start, end = hull[first], hull[second]
    along = (end - start) / np.linalg.norm(end - start)
    top, bottom = _longest_chord(hull, along)
    return Axes(_line(start, end, scale), _line(top, bottom, scale))


def moved(axes: Axes | None, columns: float, rows: float) -> Axes | None:
    """The axes of a part of an image in the whole image, in which the part begins at a column and a row."""
    if axes is None:
        return None
    long, short = (
        ((line[0][0] + columns, line[0][1] + rows), (line[1][0] + columns, line[1][1] + rows))
        for line in (axes.long, axes.short)
    )
    return Axes(long, short)


def _border(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The pixels of a mask that have a neighbour outside: no other one can be a corner of the hull."""
    wide = np.pad(mask, 1)
    return mask & ~(wide[:-2, 1:-1] & wide[2:, 1:-1] & wide[1:-1, :-2] & wide[1:-1, 2:])


def _longest_chord(hull: _Points, along: _Points) -> tuple[_Points, _Points]:
    """The ends of the longest chord of a convex polygon (points x 2) that is perpendicular to a direction.

    The length of the chord is a concave function of its place along the direction, and linear between corners: so it is
    longest at a corner.
    """
    across = np.array([-along[1], along[0]])
    u, v = hull @ along, hull @ across
    upper, lower = _side(u, v, upper=True), _side(u, v, upper=False)
    best = int((upper - lower).argmax())
    return u[best] * along + upper[best] * across, u[best] * along + lower[best] * across


def _side(u: _Points, v: _Points, *, upper: bool) -> _Points:
    """The ``v`` of the upper or the lower side of a convex polygon, at the ``u`` of each of its corners."""
    first, last = int(u.argmin()), int(u.argmax())
    above = (v - v[first]) * (u[last] - u[first]) - (v[last] - v[first]) * (u - u[first])
    kept = above >= -1e-9 if upper else above <= 1e-9
    places = np.unique(u[kept])
    # Of several corners at one place the outer one counts.
    outer = [v[kept & (u == place)].max() if upper else v[kept & (u == place)].min() for place in places]
    return np.asarray(np.interp(u, places, np.array(outer)))


def _line(start: _Points, end: _Points, scale: _Points) -> Line:
    (left, top), (right, bottom) = (start / scale).tolist(), (end / scale).tolist()
    return (left, top), (right, bottom)
