"""The drawing surface of the phantoms: a pixel grid over a field in mm, and ways to draw tissue on it.

Everything is drawn in mm, so that a drawing gives the same image at any number of pixels. ``x`` runs to the right from
the middle of the image, ``y`` downwards from its upper edge. Images are float32 (rows, columns) and hold the thickness
of tissue along each ray, in mm of water.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse  # type: ignore[import-untyped]

FIELD_WIDTH_MM = 350.0
FIELD_HEIGHT_MM = 427.0

Image = NDArray[np.float32]
Points = NDArray[np.float64]


def smoothstep(value: NDArray[Any]) -> Image:
    """0 below 0, 1 above 1, and a smooth cubic rise between."""
    clipped = np.clip(value, 0.0, 1.0)
    return np.asarray(clipped * clipped * (3.0 - 2.0 * clipped), dtype=np.float32)


def resample(points: Points, spacing: float) -> tuple[Points, Points, NDArray[np.float64]]:
    """Resample a polyline (n, 2) at equal distances of at most ``spacing`` mm.

    Returns:
        The points (n, 2), their unit normals (n, 2) and each point's place along the line, 0..1.
    """
    lengths = np.hypot(*np.diff(points, axis=0).T)
    along = np.concatenate([[0.0], np.cumsum(lengths)])
    count = max(2, int(np.ceil(along[-1] / spacing)) + 1)
    at = np.linspace(0.0, along[-1], count)
    walked = np.stack([np.interp(at, along, points[:, 0]), np.interp(at, along, points[:, 1])], axis=1)
    tangent = np.empty_like(walked)
    tangent[1:-1] = walked[2:] - walked[:-2]
    tangent[0], tangent[-1] = walked[1] - walked[0], walked[-1] - walked[-2]
    tangent /= np.maximum(np.hypot(tangent[:, 0], tangent[:, 1]), 1e-9)[:, None]
    normal = np.stack([-tangent[:, 1], tangent[:, 0]], axis=1)
    return walked, normal, at / max(along[-1], 1e-9)


@lru_cache(maxsize=32)
def _spline_weights(size: int, step: float, origin: float, pitch: float, nodes: int) -> sparse.csr_matrix:
    """Cubic B-spline weights (size, nodes) that interpolate a lattice of ``pitch`` mm at pixel centres.

    Outside the lattice its outermost values are repeated: very narrow images show more than the field.
    """
    at = (origin + (np.arange(size) + 0.5) * step) / pitch + 1.5
    node = np.floor(at).astype(np.int64)[:, None] + np.arange(-1, 3)[None, :]
    distance = np.abs(at[:, None] - node)
    near = 2.0 / 3.0 - distance**2 + distance**3 / 2.0
    far = np.clip(2.0 - distance, 0.0, None) ** 3 / 6.0
    weights = np.where(distance < 1.0, near, far).astype(np.float32)
    rows = np.repeat(np.arange(size), 4)
    return sparse.csr_matrix((weights.ravel(), (rows, node.clip(0, nodes - 1).ravel())), shape=(size, nodes))


def _linear_weights(source: int, target: int) -> sparse.csr_matrix:
    """Linear interpolation (target, source) between two grids that share their outer edges."""
    at = np.clip((np.arange(target) + 0.5) * source / target - 0.5, 0.0, source - 1.0)
    low = np.minimum(at.astype(np.int64), max(source - 2, 0))
    part = (at - low).astype(np.float32)
    rows = np.arange(target)
    return sparse.csr_matrix(
        (
            np.concatenate([1.0 - part, part]),
            (np.concatenate([rows, rows]), np.concatenate([low, np.minimum(low + 1, source - 1)])),
        ),
        shape=(target, source),
        dtype=np.float32,
    )


def enlarge(image: Image, rows: int, columns: int) -> Image:
    """Interpolate an image linearly on a finer grid over the same field."""
    if image.shape == (rows, columns):
        return image
    tall = _linear_weights(image.shape[0], rows) @ image
    result: Image = np.ascontiguousarray((_linear_weights(image.shape[1], columns) @ tall.T).T, dtype=np.float32)
    return result


@dataclass(frozen=True, slots=True)
class Canvas:
    """A grid of ``rows`` x ``columns`` square pixels of ``step`` mm, centred on the field.

    The field is FIELD_WIDTH_MM x FIELD_HEIGHT_MM. A grid of another shape also shows the space beside it. ``x``
    (1, columns) and ``y`` (rows, 1) are the mm of the pixel centres.
    """

    rows: int
    columns: int
    step: float
    x: Image
    y: Image

    @staticmethod
    def over_field(rows: int, columns: int) -> Canvas:
        """The grid of this shape with the smallest step that shows the whole field."""
        step = max(FIELD_HEIGHT_MM / rows, FIELD_WIDTH_MM / columns)
        x = (np.arange(columns) + 0.5 - columns / 2.0) * step
        y = (np.arange(rows) + 0.5 - rows / 2.0) * step + FIELD_HEIGHT_MM / 2.0
        return Canvas(rows, columns, step, x.astype(np.float32)[None, :], y.astype(np.float32)[:, None])

    def empty(self) -> Image:
        """An image of 0: air alone."""
        return np.zeros((self.rows, self.columns), dtype=np.float32)

    def splat(self, points: Points, volume: NDArray[np.float64]) -> Image:
        """Add ``volume`` (n,), mm^3 of water, at ``points`` (n, 2), shared among the four nearest pixels."""
        column = (points[:, 0] - float(self.x[0, 0])) / self.step
        row = (points[:, 1] - float(self.y[0, 0])) / self.step
        inside = (column >= 0) & (column < self.columns - 1) & (row >= 0) & (row < self.rows - 1)
        column, row, mass = column[inside], row[inside], volume[inside] / self.step**2
        left, top = column.astype(np.int64), row.astype(np.int64)
        right_part, bottom_part = column - left, row - top
        first = top * self.columns + left
        size = self.rows * self.columns
        index = np.concatenate([first, first + 1, first + self.columns, first + self.columns + 1])
        upper, lower = mass * (1 - bottom_part), mass * bottom_part
        weight = np.concatenate(
            [upper * (1 - right_part), upper * right_part, lower * (1 - right_part), lower * right_part]
        )
        flat = np.bincount(index, weights=weight, minlength=size)
        return flat.reshape(self.rows, self.columns).astype(np.float32)

    def strip(
        self,
        path: Points,
        half_width: float | Callable[[NDArray[np.float64]], NDArray[np.float64]],
        profile: Callable[[NDArray[np.float64]], NDArray[np.float64]],
        thickness: float,
        *,
        along: Callable[[NDArray[np.float64]], NDArray[np.float64]] | None = None,
        spacing: float = 0.55,
    ) -> tuple[Points, NDArray[np.float64]]:
        """A band along ``path``, as points and volumes for `splat`.

        Args:
            path: polyline (n, 2) in mm.
            half_width: half the band's width in mm, or a function of the place along it (0..1) that gives it.
            profile: relative thickness across the band, as a function of -1..1.
            thickness: mm of water where ``profile`` is 1.
            along: a factor as a function of the place along the band (0..1).
            spacing: distance of neighbouring points, in pixels.
        """
        distance = spacing * self.step
        centre, normal, place = resample(path, distance)
        half = half_width(place) if callable(half_width) else np.full(place.shape, half_width)
        across = max(3, int(np.ceil(2.0 * float(half.max()) / distance)))
        offset = (np.arange(across) + 0.5) / across * 2.0 - 1.0
        points = centre[:, None, :] + normal[:, None, :] * (half[:, None] * offset[None, :])[:, :, None]
        steps = np.hypot(*np.diff(centre, axis=0).T)
        length = np.concatenate([steps[:1], steps])
        factor = along(place) if along is not None else 1.0
        volume = (length * half * 2.0 / across * factor * thickness)[:, None] * profile(offset)[None, :]
        return points.reshape(-1, 2), volume.reshape(-1)

    def blur(self, image: Image, sigma_mm: float) -> Image:
        """Gaussian blur. A wide blur is computed on a coarser grid, which is faster and looks the same."""
        sigma = sigma_mm / self.step
        factor = int(sigma // 3.0)
        if factor < 2 or min(self.rows, self.columns) < 8 * factor:
            result: Image = ndimage.gaussian_filter(image, sigma, mode="nearest", truncate=3.0)
            return result
        pad = [(0, -self.rows % factor), (0, -self.columns % factor)]
        padded = np.pad(image, pad, mode="edge")
        blocks = padded.reshape(padded.shape[0] // factor, factor, padded.shape[1] // factor, factor).mean(axis=(1, 3))
        coarse = ndimage.gaussian_filter(blocks, sigma / factor, mode="nearest", truncate=3.0)
        return enlarge(coarse, *padded.shape)[: self.rows, : self.columns]

    def clouds(self, rng: np.random.Generator, pitch_mm: float) -> Image:
        """Smooth noise with mean 0, standard deviation about 1 and grains of ``pitch_mm``, the same at any size."""
        margin = 200.0  # mm around the field, so that images of any shape lie inside the lattice
        tall = int(np.ceil((FIELD_HEIGHT_MM + 2 * margin) / pitch_mm)) + 4
        wide = int(np.ceil((FIELD_WIDTH_MM + 2 * margin) / pitch_mm)) + 4
        lattice = rng.standard_normal((tall, wide), dtype=np.float32)
        half = self.step / 2.0
        down = _spline_weights(self.rows, self.step, float(self.y[0, 0]) - half + margin, pitch_mm, tall)
        over = _spline_weights(
            self.columns, self.step, float(self.x[0, 0]) - half + FIELD_WIDTH_MM / 2 + margin, pitch_mm, wide
        )
        return np.asarray((over @ (down @ lattice).T).T * np.float32(2.0), dtype=np.float32, order="C")
