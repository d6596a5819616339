"""Faster forms of the MONAI transforms that take most of a reading's time. Their results are the same.

``Resize`` with ``anti_aliasing`` smooths all five million pixels of a radiograph, and then uses one in a hundred.
Smoothing and interpolation are linear and separate by axis, so both together are one sparse band matrix for each axis.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.networks.layers import gaussian_1d
from monai.transforms import Resize, ScaleIntensityRange, ScaleIntensityRangePercentiles
from monai.utils import convert_to_tensor

_ROWS = 16  # rows of output that are computed together, from the few rows of input that they depend on


class QuickResize(Resize):  # type: ignore[misc]
    """``Resize`` that smooths only the pixels that it uses. Other inputs and options are left to the base class."""

    def __call__(self, img: Any, mode: str | None = None, *rest: Any, **more: Any) -> Any:
        """As in ``Resize``."""
        names = ("align_corners", "anti_aliasing", "anti_aliasing_sigma", "dtype", "lazy")
        asked = dict(zip(names, rest, strict=False)) | more
        wanted = {name: self._own(name) if asked.get(name) is None else asked[name] for name in names}
        how = str(getattr(self.mode if mode is None else mode, "value", self.mode if mode is None else mode))
        plain = (
            isinstance(img, MetaTensor)
            and img.ndim == 3
            and img.device.type == "cpu"
            and img.dtype == torch.float32
            and not img.pending_operations
        )
        if not (plain and wanted["anti_aliasing"] and how == "bilinear") or any(
            wanted[name] for name in ("align_corners", "anti_aliasing_sigma", "lazy")
        ):
            return super().__call__(img, mode, *rest, **more)
        asked["anti_aliasing"] = False
        out = super().__call__(img, mode, **asked)  # the size, the affine and the trace
        rows, columns = (_smooth_and_sample(a, b) for a, b in zip(img.shape[1:], out.shape[1:], strict=True))
        for channel, image in enumerate(img.as_tensor()):
            out.as_tensor()[channel] = _along_rows(image, rows) @ columns.T
        return out

    def _own(self, name: str) -> Any:
        return {"dtype": self.dtype, "lazy": self.lazy}.get(name, getattr(self, name, None))


class QuickPercentiles(ScaleIntensityRangePercentiles):  # type: ignore[misc]
    """``ScaleIntensityRangePercentiles`` that partitions the image once; MONAI sorts it twice."""

    def _normalize(self, img: Any) -> Any:
        if (
            self.relative
            or not isinstance(img, torch.Tensor)
            or img.device.type != "cpu"
            or not img.is_floating_point()
        ):
            return super()._normalize(img)
        low, high = np.percentile(img.numpy(), (self.lower, self.upper))
        scale = ScaleIntensityRange(float(low), float(high), self.b_min, self.b_max, self.clip, self.dtype)
        return convert_to_tensor(scale(img), track_meta=False)  # the caller adds the metadata again


def speed_up(transform: Any) -> None:
    """Replace the resizing or scaling inside a dictionary transform by its faster form, in place."""
    if type(getattr(transform, "resizer", None)) is Resize:
        transform.resizer = _as_class(transform.resizer, QuickResize)
    if type(getattr(transform, "scaler", None)) is ScaleIntensityRangePercentiles:
        transform.scaler = _as_class(transform.scaler, QuickPercentiles)


def _as_class(one: Any, quicker: type[Any]) -> Any:
    """A copy of a transform as an object of a class derived from its own, with the same settings."""
    twin = object.__new__(quicker)
    twin.__dict__.update(one.__dict__)
    return twin


@lru_cache(maxsize=16)
def _smooth_and_sample(size: int, wanted: int) -> torch.Tensor:
    """The matrix (wanted x size) that smooths as ``Resize`` does and then interpolates linearly between cell centres.

    It smooths by MONAI's default: a Gaussian with sigma (size / wanted - 1) / 2, from the error function, truncated at
    4 sigma, with zeros outside the image. An axis that grows is not smoothed.
    """
    sigma = max(0.0, (size / wanted - 1.0) / 2.0)
    kernel = gaussian_1d(torch.tensor(sigma), truncated=4.0).numpy().astype(np.float64) if sigma > 0 else np.ones(1)
    reach = len(kernel) // 2
    at = np.clip((np.arange(wanted) + 0.5) * (size / wanted) - 0.5, 0.0, None)
    low = np.minimum(np.floor(at).astype(np.intp), size - 1)
    high = np.minimum(low + 1, size - 1)
    part = at - low
    matrix = np.zeros((wanted, size))
    for centre, share in ((low, 1.0 - part), (high, part)):
        place = centre[:, None] + np.arange(-reach, reach + 1)
        weight = share[:, None] * kernel
        inside = (place >= 0) & (place < size)
        row = np.broadcast_to(np.arange(wanted)[:, None], place.shape)
        np.add.at(matrix, (row[inside], place[inside]), weight[inside])
    return torch.from_numpy(matrix.astype(np.float32))


def _along_rows(image: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """``matrix @ image``, without the zeros of a band matrix."""
    out = torch.empty((matrix.shape[0], image.shape[1]))
    for start in range(0, matrix.shape[0], _ROWS):
        band = matrix[start : start + _ROWS]
        reached = band.any(dim=0).nonzero()
        first, last = (int(reached[0]), int(reached[-1]) + 1) if len(reached) else (0, 0)
        torch.matmul(band[:, first:last], image[first:last], out=out[start : start + _ROWS])
    return out
