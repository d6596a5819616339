"""Maps over one image: the places of their cells, and their values at the image's pixels.

An affine is 4 x 4. It maps the index of a cell's centre (row, column, 0, 1) to the index of a pixel's centre, as in
`ai.inference.regions`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage  # type: ignore[import-untyped]

Affine = NDArray[np.float64]
Grid = NDArray[np.float32]


def map_to_input(inputs: tuple[int, ...], maps: tuple[int, ...]) -> Affine:
    """The affine from indices of a map to indices of the network's input. The map may be coarser and covers the input.

    ``inputs`` and ``maps`` are the shapes of both, with a channel axis in front.
    """
    affine = np.eye(4)
    for axis in range(len(inputs) - 1):
        ratio = inputs[axis + 1] / maps[axis + 1]
        affine[axis, axis] = ratio
        affine[axis, 3] = (ratio - 1.0) / 2.0
    return affine


def cells_on_image(maps: Grid, affine: Affine, rows: int, columns: int) -> NDArray[np.bool_]:
    """Whether each cell of a map lies on the image of ``rows`` x ``columns`` pixels, and not on padding."""
    i, j = np.ogrid[: maps.shape[-2], : maps.shape[-1]]
    row, column = (affine[k, 0] * i + affine[k, 1] * j + affine[k, 3] for k in (0, 1))
    return np.asarray((row > -0.5) & (row < rows - 0.5) & (column > -0.5) & (column < columns - 0.5))


def upright(grid: Grid, affine: Affine) -> tuple[Grid, Affine] | None:
    """Turn and flip a map so that its axes run along the image's rows and columns, and return it with its affine.

    None if the map is rotated by another angle than 90, 180 or 270 degrees.
    """
    matrix = affine.copy()
    straight, across = abs(matrix[0, 0]) + abs(matrix[1, 1]), abs(matrix[0, 1]) + abs(matrix[1, 0])
    if across > straight:
        grid, matrix[:, [0, 1]] = grid.T, matrix[:, [1, 0]]
        straight, across = across, straight
    if across > 1e-6 * straight:
        return None
    for axis in (0, 1):
        if matrix[axis, axis] < 0:
            matrix[:, 3] += matrix[:, axis] * (grid.shape[axis] - 1)
            matrix[:, axis] *= -1.0
            grid = np.flip(grid, axis)
    return np.ascontiguousarray(grid), matrix


def map_on_image(grid: Grid, affine: Affine, rows: int, columns: int) -> Grid:
    """Interpolate a map linearly at the image's pixels (rows, columns). Values outside the map are 0."""
    straight = upright(grid, affine)
    if straight is None:
        inverse = np.linalg.inv(affine)
        offset = inverse[:2, 3]
        return np.asarray(
            ndimage.affine_transform(grid, inverse[:2, :2], offset, (rows, columns), order=1, mode="constant"),
            dtype=np.float32,
        )
    grid, matrix = straight
    for axis, count in enumerate((rows, columns)):
        at = (np.arange(count) - matrix[axis, 3]) / matrix[axis, axis]
        size = grid.shape[axis]
        beyond = (at < -0.5) | (at > size - 0.5)
        low = np.clip(np.floor(at), 0, size - 1).astype(np.intp)
        high = np.minimum(low + 1, size - 1)
        part = np.clip(at - low, 0.0, 1.0).astype(np.float32)
        part[beyond] = 0.0
        shape = (-1, 1) if axis == 0 else (1, -1)
        below, above = np.take(grid, low, axis), np.take(grid, high, axis)
        grid = below + (above - below) * part.reshape(shape)
        grid[beyond if axis == 0 else (slice(None), beyond)] = 0.0
    return grid


def as_matrix(affine: Any) -> Affine:
    """An affine of MONAI as a 4 x 4 array."""
    import torch  # noqa: PLC0415  (see `ai.inference`)

    matrix = np.asarray(torch.as_tensor(affine).cpu().numpy(), dtype=np.float64)
    if matrix.shape == (3, 3):  # some transforms keep the affine of an image as 3 x 3
        whole = np.eye(4)
        whole[:2, :2], whole[:2, 3] = matrix[:2, :2], matrix[:2, 2]
        return whole
    return matrix
