"""Checks that the affine of preprocessing is right: a mark on a synthetic image must be where the affine says.

MONAI's spatial transforms update the affine. A bundle's own code (``Lambdad``, its own classes) may flip or crop an
image without updating it, and findings would be shown at the wrong place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ai.bundle.build import Parts, each_of
from ai.bundle.files import BundleError, BundleInfo
from ai.inference.grid import Affine, as_matrix

# The place of the mark, by axis, in an image of 480 x 400 or a volume of 64 x 64 x 64. A flip or an exchange of axes
# moves it far from its place, and a crop of the middle keeps it.
_MARKS = {2: ((310, 330), (125, 145)), 3: ((40, 48), (20, 28), (10, 18))}


def check_affine(
    info: BundleInfo,
    parts: Parts,
    plain: NDArray[np.float32],
    give: Callable[[NDArray[np.float32]], tuple[Any, Affine]],
) -> None:
    """Refuse preprocessing that moves an image without updating its affine.

    Args:
        info: the description of the bundle.
        parts: the parts of the bundle.
        plain: a synthetic image that rises along its first axis. Its first value is the smallest.
        give: an array -> the input of preprocessing, and the affine from the target space of the transforms' affines to
            the indices of the array.

    Raises:
        BundleError: the mark is not where the affine says.
    """
    mark = _MARKS[plain.ndim]
    marked = plain.copy()
    marked[tuple(slice(*ends) for ends in mark)] = plain.flat[0]
    (before, affine), (after, same) = (_prepared(info, parts, *give(one)) for one in (plain, marked))
    if before.shape != after.shape or not np.allclose(affine, same):
        return  # a crop by content may differ between the two images
    change = np.abs(after - before).max(axis=0)
    if not change.max(initial=0.0) > 0.0:
        return  # the mark was cut off
    cells = np.argwhere(change >= change.max() / 2.0)
    found = np.median(cells @ affine[: plain.ndim, : plain.ndim].T + affine[: plain.ndim, 3], axis=0)
    middle = np.array([(low + high - 1) / 2.0 for low, high in mark])
    cell = np.abs(affine[: plain.ndim, : plain.ndim]).sum(axis=1)
    half = np.array([(high - low) / 2.0 for low, high in mark])
    if (np.abs(found - middle) > half + cell).any():
        expected, seen = (", ".join(f"{index:.0f}" for index in place) for place in (middle, found))
        raise BundleError(
            f"{info.config}: preprocessing moves the image without updating its affine (a mark at {expected} appears "
            f"at {seen}), so findings would be shown at another place. Rotate90d, Flipd, Orientationd, Resized "
            "and MONAI's crops update it"
        )


def _prepared(info: BundleInfo, parts: Parts, image: Any, space: Affine) -> tuple[NDArray[np.float32], Affine]:
    """The network's input, inverted if outlines are inverted too, and its affine combined with ``space``."""
    import torch  # noqa: PLC0415  (see `ai.inference`)
    from monai.data import MetaTensor  # noqa: PLC0415

    with torch.inference_mode():
        item = parts.preprocessing({parts.key: image})
        result = item[parts.key]
        for one in _way_back(info, parts):
            item = one(dict(item) | {"pred": MetaTensor(result.as_tensor().float(), affine=result.affine)})
            result = item["pred"]
        if not isinstance(result, MetaTensor):
            raise BundleError(f"{info.config}: the image is a {type(result).__name__}; a MetaTensor was expected")
        return np.asarray(result.as_tensor().cpu().float().numpy()), space @ as_matrix(result.affine)


def _way_back(info: BundleInfo, parts: Parts) -> Iterator[Any]:
    """The transforms of postprocessing that bring a map back to the image's own grid, if there are any."""
    if info.spec.task in ("segmentation", "regions"):
        yield from (one for one in each_of(parts.postprocessing) if type(one).__name__.startswith("Invert"))
