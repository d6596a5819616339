"""Resamples a mask or map on any grid to the frames that a volume was made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ai.contract import ReadingError
from ai.volumes.volume import Volume

_ON_GRID = 0.01


def to_frames(volume: Volume, mask: NDArray[Any], affine: NDArray[Any]) -> NDArray[Any]:
    """Resample a mask, label map or probability map to the source's pixels (frames, rows, columns).

    Args:
        volume: the volume of the frames.
        mask: an array (i, j, k) on any grid.
        affine: (4 x 4) from indices of ``mask`` to patient mm in RAS+.

    Values are copied if the grids differ only by flips, exchanged axes, a crop or a margin. Otherwise bool and integers
    are taken from the nearest voxel, and floats (float32) are interpolated linearly. Outside the mask, values are 0.

    Raises:
        ReadingError: the mask does not have three axes, or the affine cannot be inverted.
    """
    mask, affine = np.asarray(mask), np.asarray(affine, dtype=np.float64)
    if mask.ndim != 3 or 0 in mask.shape:
        raise ReadingError(f"the result is an array of {mask.shape}; three axes were expected")
    if affine.shape != (4, 4) or not np.isfinite(affine).all() or abs(np.linalg.det(affine)) < 1e-12:
        raise ReadingError("the affine of the result is no 4 x 4 matrix that can be inverted")
    if mask.dtype.kind == "f":
        mask = mask.astype(np.float32, copy=False)
    columns, rows, frames = volume.values.shape
    to_mask = np.linalg.inv(affine) @ volume.affine
    whole = np.rint(to_mask)
    # The deviation is largest at a corner.
    corners = np.array(np.meshgrid([0, columns - 1], [0, rows - 1], [0, frames - 1], [1.0])).reshape(4, -1)
    turn = np.abs(whole[:3, :3])
    permutes = (turn.sum(axis=0) == 1).all() and (turn.sum(axis=1) == 1).all()
    if permutes and np.abs((to_mask - whole) @ corners).max() <= _ON_GRID:
        return _copied(mask, whole.astype(np.int64), (columns, rows, frames))
    return _resampled(mask, to_mask, (columns, rows, frames))


def _copied(mask: NDArray[Any], whole: NDArray[np.int64], shape: tuple[int, int, int]) -> NDArray[Any]:
    """Copy values from a grid that differs by a signed permutation and an offset."""
    out = np.zeros(shape[::-1], dtype=mask.dtype)
    order = [int(np.flatnonzero(whole[:3, axis])[0]) for axis in range(3)]  # the mask's axis for each of the volume's
    view = mask.transpose(order)
    source, target = [], []
    for axis, of_mask in enumerate(order):
        first, size = int(whole[of_mask, 3]), mask.shape[of_mask]
        if whole[of_mask, axis] < 0:
            view, first = np.flip(view, axis), size - 1 - first
        begin, end = max(0, -first), min(shape[axis], size - first)
        if begin >= end:
            return out
        target.append(slice(begin, end))
        source.append(slice(begin + first, end + first))
    out.transpose(2, 1, 0)[tuple(target)] = view[tuple(source)]
    return out


def _resampled(mask: NDArray[Any], to_mask: NDArray[np.float64], shape: tuple[int, int, int]) -> NDArray[Any]:
    """Take the nearest value, or interpolate floats, frame by frame."""
    turn = to_mask[:3, :3]
    order = np.abs(turn).argmax(axis=0)
    rest = turn.copy()
    rest[order, range(3)] = 0.0
    if len({*order.tolist()}) == 3 and (np.abs(rest) @ np.array(shape)).max() <= _ON_GRID:
        scale = [float(turn[at, axis]) for axis, at in enumerate(order)]
        offset = [float(to_mask[at, 3]) for at in order]
        return _by_axes(mask.transpose(order), scale, offset, shape)
    return _by_points(mask, to_mask, shape)


def _by_axes(
    mask: NDArray[Any], scale: Sequence[float], offset: Sequence[float], shape: tuple[int, int, int]
) -> NDArray[Any]:
    """Resample between grids with parallel axes in the same order, one axis after the other."""
    out = np.zeros(shape[::-1], dtype=mask.dtype)
    at = [offset[axis] + scale[axis] * np.arange(shape[axis]) for axis in range(3)]
    inside = [np.flatnonzero((each >= -0.5) & (each < size - 0.5)) for each, size in zip(at, mask.shape, strict=True)]
    if not all(len(each) for each in inside):
        return out
    at = [np.clip(each[some], 0, size - 1) for each, some, size in zip(at, inside, mask.shape, strict=True)]
    columns, rows = (slice(int(each[0]), int(each[-1]) + 1) for each in inside[:2])
    planes = np.ascontiguousarray(mask.transpose(2, 1, 0))
    if mask.dtype.kind != "f":
        nearest = [np.floor(each + 0.5).astype(np.intp) for each in at]
        for frame, k in zip(inside[2], nearest[2], strict=True):
            out[frame, rows, columns] = planes[k][nearest[1]][:, nearest[0]]
        return out
    low = [np.floor(each).astype(np.intp) for each in at]
    high = [np.minimum(each + 1, size - 1) for each, size in zip(low, mask.shape, strict=True)]
    part = [(each - below).astype(np.float32) for each, below in zip(at, low, strict=True)]
    for n, frame in enumerate(inside[2]):
        plane = planes[low[2][n]] * (1 - part[2][n]) + planes[high[2][n]] * part[2][n]
        plane = plane[low[1]] * (1 - part[1])[:, None] + plane[high[1]] * part[1][:, None]
        out[frame, rows, columns] = plane[:, low[0]] * (1 - part[0]) + plane[:, high[0]] * part[0]
    return out


def _by_points(mask: NDArray[Any], to_mask: NDArray[np.float64], shape: tuple[int, int, int]) -> NDArray[Any]:
    """Resample between grids that are rotated against each other."""
    from scipy import ndimage  # type: ignore[import-untyped]  # noqa: PLC0415  (half a second, and only here)

    columns, rows, frames = shape
    out = np.zeros((frames, rows, columns), dtype=mask.dtype)
    row, column = np.indices((rows, columns), dtype=np.float64)
    flat = to_mask[:3, 0, None, None] * column + to_mask[:3, 1, None, None] * row + to_mask[:3, 3, None, None]
    size = np.array(mask.shape)[:, None, None]
    for frame in range(frames):
        at = flat + to_mask[:3, 2, None, None] * frame
        inside = ((at >= -0.5) & (at < size - 0.5)).all(axis=0)
        if not inside.any():
            continue
        at = np.clip(at[:, inside], 0, size[:, :, 0] - 1)
        if mask.dtype.kind == "f":
            out[frame][inside] = ndimage.map_coordinates(mask, at, order=1, mode="nearest", prefilter=False)
        else:
            nearest = np.floor(at + 0.5).astype(np.intp)
            out[frame][inside] = mask[tuple(nearest)]
    return out
