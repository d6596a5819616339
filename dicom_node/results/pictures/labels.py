"""The places of labels: beside their box, over no box and no other label, with a leader line if they do not touch it.

It knows rectangles alone, in whole pixels. It is deterministic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_MOST = 40
"""If a picture has more labels than this, no places are searched: nobody would read them."""

_LINES = 200
"""The number of best places for which the crossings of the leader line are counted."""


class Rect(NamedTuple):
    """Whole pixels, right and bottom exclusive."""

    left: int
    top: int
    right: int
    bottom: int

    def grown(self, by: int) -> Rect:
        """The rectangle with a margin around it."""
        return Rect(self.left - by, self.top - by, self.right + by, self.bottom + by)


Point = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Place:
    """The place of a label, and the two ends (x, y) of its leader line, None if it touches its box."""

    rect: Rect
    leader: tuple[Point, Point] | None


def place(
    frames: Sequence[Rect], sizes: Sequence[tuple[int, int]], columns: int, rows: int, spare: Sequence[Rect] = ()
) -> list[Place] | None:
    """A place for each label (width, height), in the order of ``frames``. None if there is no space.

    No label overlaps a frame, the border of the picture or another label. If possible, no leader line runs under a
    label, and no label lies on ``spare``. Several orders are tried, and the one with the shortest lines is taken.
    """
    if not frames:
        return []
    if len(frames) > _MOST:
        return None
    boxes = np.array(frames, dtype=np.int64)
    marks = np.array(spare, dtype=np.int64).reshape(-1, 4)
    free = [_ranked(boxes, number, size, (columns, rows), marks) for number, size in enumerate(sizes)]
    if any(len(each.places) == 0 for each in free):
        return None
    count = range(len(frames))
    touching = [int((each.apart == 0).sum()) for each in free]
    orders = [
        sorted(count, key=lambda i: touching[i]),
        sorted(count, key=lambda i: (len(free[i].places), i)),
        sorted(count, key=lambda i: -sizes[i][0]),
        list(count),
    ]
    attempts = (_attempt(order, boxes, free) for order in dict.fromkeys(map(tuple, orders)))
    found = [each for each in attempts if each is not None]
    return min(found, key=lambda each: each[0])[1] if found else None


def place_tags(frames: Sequence[Rect], sizes: Sequence[tuple[int, int]], columns: int, rows: int) -> list[Place]:
    """A place for each tag (width, height) at a corner of its box, where it covers least: the last resort."""
    boxes = np.array(frames, dtype=np.int64).reshape(-1, 4)
    taken: list[Rect] = []
    for frame, size in zip(frames, sizes, strict=True):
        width, height = size
        left, top, right, bottom = frame
        corners = [
            *((x, y) for y in (top - height, bottom) for x in (left, right - width)),
            *((x, y) for x in (left - width, right) for y in (top, bottom - height)),
            *((x, y) for y in (top, bottom - height) for x in (left, right - width)),
        ]
        at = np.array(corners).clip(0, [max(columns - width, 0), max(rows - height, 0)])
        places = np.concatenate([at, at + np.array(size)], axis=1)
        covered = _overlap(places, boxes).sum(axis=1)
        on_tags = _overlap(places, np.array(taken, dtype=np.int64).reshape(-1, 4)).sum(axis=1)
        taken.append(Rect(*map(int, places[int(np.lexsort((covered, on_tags))[0])])))
    return [Place(rect, None) for rect in taken]


def _free(
    boxes: NDArray[np.int64], box: NDArray[np.int64], size: tuple[int, int], picture: tuple[int, int]
) -> NDArray[np.int64]:
    """Every place (n x 4) for a label of this size that covers no box, those at its own box first."""
    (width, height), (columns, rows) = size, picture
    if width > columns or height > rows:
        return np.empty((0, 4), dtype=np.int64)
    left, top, right, bottom = map(int, box)
    middle = (left + right - width) // 2, (top + bottom - height) // 2
    near = [
        *((x, y) for y in (top - height, bottom) for x in (left, right - width, middle[0])),
        *((x, y) for x in (right, left - width) for y in (top, bottom - height, middle[1])),
    ]
    # Along the box's sides and over the whole picture; the step keeps the number of places to a few thousand.
    step = max(1, height // 3)
    along_x = np.arange(left - width, right + 1, step)
    along_y = np.arange(top - height, bottom + 1, step)
    sides = [
        *(np.stack([along_x, np.full_like(along_x, y)], axis=1) for y in (top - height, bottom)),
        *(np.stack([np.full_like(along_y, x), along_y], axis=1) for x in (right, left - width)),
    ]
    x, y = np.meshgrid(np.arange(0, columns - width + 1, step), np.arange(0, rows - height + 1, step))
    grid = np.stack([x.ravel(), y.ravel()], axis=1)
    at = np.concatenate([np.array(near), *sides, grid]).clip(0, [columns - width, rows - height])
    places = np.concatenate([at, at + np.array(size)], axis=1)
    found: NDArray[np.int64] = places[_overlap(places, boxes).sum(axis=1) == 0]
    return found


@dataclass(frozen=True, slots=True, eq=False)
class _Ranked:
    """The places (n x 4) for one label, the best first: their distance from its box, and their cost."""

    places: NDArray[np.int64]
    apart: NDArray[np.float64]
    costs: NDArray[np.float64]


def _ranked(
    boxes: NDArray[np.int64], number: int, size: tuple[int, int], picture: tuple[int, int], spare: NDArray[np.int64]
) -> _Ranked:
    places = _free(boxes, boxes[number], size, picture)
    apart, height = _distance(places, boxes[number]), size[1]
    # A label close to another finding's box would be taken for its label.
    others = np.delete(boxes, number, axis=0) + np.array([-1, -1, 1, 1]) * (height // 2)
    costs = apart + (_overlap(places, others) > 0).sum(axis=1) * 0.75 * height
    costs = costs + (_overlap(places, spare) > 0).sum(axis=1) * 6.0 * height
    order = np.argsort(costs, kind="stable")
    return _Ranked(places[order], apart[order], costs[order])


def _attempt(
    order: Sequence[int], boxes: NDArray[np.int64], free: Sequence[_Ranked]
) -> tuple[float, list[Place]] | None:
    """Place the labels one after another; the first value is the total cost. None if one has no place."""
    chosen: dict[int, Place] = {}
    cost = 0.0
    for number in order:
        placed = np.array([each.rect.grown(1) for each in chosen.values()], dtype=np.int64).reshape(-1, 4)
        clear = _clear(free[number].places, placed)
        if len(clear) == 0:
            return None
        places, apart, costs = free[number].places[clear], free[number].apart[clear], free[number].costs[clear]
        height = int(places[0][3] - places[0][1])
        start, end = _leaders(places, boxes[number])
        tied = apart > 0
        lines = [each.leader for each in chosen.values() if each.leader is not None]
        ends = np.array(lines, dtype=np.int64).reshape(-1, 2, 2)
        under = _crossed(start, end, placed).sum(axis=1) * tied
        over = _crossed(ends[:, 0], ends[:, 1], places).sum(axis=0)
        costs = costs + (under + over) * 1000.0 * height
        costs = costs + _crossed(start, end, np.delete(boxes, number, axis=0)).sum(axis=1) * tied * 8.0 * height
        best = int(np.argmin(costs))
        cost += float(costs[best])
        (x0, y0), (x1, y1) = start[best], end[best]
        leader = ((int(x0), int(y0)), (int(x1), int(y1))) if tied[best] else None
        chosen[number] = Place(Rect(*map(int, places[best])), leader)
    return cost, [chosen[number] for number in range(len(boxes))]


def _clear(places: NDArray[np.int64], placed: NDArray[np.int64]) -> NDArray[np.int64]:
    """The first of the places that overlap no placed label, as indices."""
    for count in (4 * _LINES, len(places)):
        clear = np.flatnonzero(_overlap(places[:count], placed).sum(axis=1) == 0)
        if len(clear) >= _LINES // 4 or count == len(places):
            break
    return clear[:_LINES]


def _overlap(places: NDArray[np.int64], rects: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many pixels each place (n x 4) shares with each rectangle (m x 4): n x m."""
    a, b = places[:, np.newaxis], rects[np.newaxis]
    across = np.minimum(a[..., 2], b[..., 2]) - np.maximum(a[..., 0], b[..., 0])
    down = np.minimum(a[..., 3], b[..., 3]) - np.maximum(a[..., 1], b[..., 1])
    shared: NDArray[np.int64] = across.clip(0) * down.clip(0)
    return shared


def _distance(places: NDArray[np.int64], box: NDArray[np.int64]) -> NDArray[np.float64]:
    """The distance of each place (n x 4) from a box; 0 if they touch."""
    across = np.maximum(box[0] - places[:, 2], places[:, 0] - box[2]).clip(0)
    down = np.maximum(box[1] - places[:, 3], places[:, 1] - box[3]).clip(0)
    distance: NDArray[np.float64] = np.hypot(across, down)
    return distance


def _leaders(places: NDArray[np.int64], box: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The shortest line from each place to the box, as its two ends (n x 2 of x, y each)."""
    ends = []
    for low, high in ((0, 2), (1, 3)):
        middle = (np.maximum(places[:, low], box[low]) + np.minimum(places[:, high], box[high])) // 2
        before, after = places[:, high] <= box[low], places[:, low] >= box[high]
        at_place = np.where(before, places[:, high] - 1, np.where(after, places[:, low], middle))
        at_box = np.where(before, box[low], np.where(after, box[high] - 1, middle))
        ends.append((at_place, at_box))
    return np.stack([each[0] for each in ends], axis=1), np.stack([each[1] for each in ends], axis=1)


def _crossed(start: NDArray[np.int64], end: NDArray[np.int64], rects: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which lines (n x 2 and n x 2) cross which rectangles (m x 4): n x m."""
    enter = np.zeros((len(start), len(rects)))
    leave = np.ones_like(enter)
    for axis in (0, 1):
        origin = start[:, axis, np.newaxis].astype(float)
        way = end[:, axis, np.newaxis] - origin
        with np.errstate(divide="ignore", invalid="ignore"):
            first = (rects[np.newaxis, :, axis] - origin) / way
            second = (rects[np.newaxis, :, axis + 2] - origin) / way
        still = way == 0
        within = (origin > rects[np.newaxis, :, axis]) & (origin < rects[np.newaxis, :, axis + 2])
        low = np.where(still, np.where(within, -np.inf, np.inf), np.minimum(first, second))
        high = np.where(still, np.where(within, np.inf, -np.inf), np.maximum(first, second))
        enter, leave = np.maximum(enter, low), np.minimum(leave, high)
    crossed: NDArray[np.bool_] = enter < leave
    return crossed
