"""A detector's answer -> boxes with their classes, in the one form of two corners."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ai.bundle.files import BundleError, BundleInfo, short
from ai.bundle.manifest import Output
from ai.inference.forward import Passed


@dataclass(frozen=True, slots=True)
class Detected:
    """A box between two corners, by the axes of the network's input (``in_world`` false) or of the affine's space.

    On the input the corners are edges of cells: 0 is before the first cell, as MONAI's box modes count.
    """

    output: Output
    score: float
    low: tuple[float, ...]
    high: tuple[float, ...]
    in_world: bool


def detected(info: BundleInfo, passed: Passed, *, axes: int) -> Iterator[Detected]:
    """The boxes of all outputs, whatever their score.

    Raises:
        BundleError: the dictionary after postprocessing has no boxes, labels and scores, or they do not go together.
    """
    spec = info.spec.detection
    boxes, labels, scores = (_array(info, passed, name) for name in (spec.boxes, spec.labels, spec.scores))
    boxes = boxes.reshape(-1, 2 * axes) if boxes.size == 0 else boxes
    if boxes.ndim != 2 or boxes.shape[1] != 2 * axes or len({len(boxes), labels.size, scores.size}) != 1:
        raise BundleError(
            f"{info.config}: the detector gives {spec.boxes} of {boxes.shape}, {spec.labels} of {labels.shape} and "
            f"{spec.scores} of {scores.shape}; (boxes, {2 * axes}), (boxes,) and (boxes,) were expected"
        )
    if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
        raise BundleError(f"{info.path}: the detector's boxes are not finite; the weights may be damaged")
    if scores.size and (scores.min() < -1e-4 or scores.max() > 1.0 + 1e-4):
        raise BundleError(f"{info.config}: {spec.scores} lie outside of 0..1; probabilities were expected")
    corners = _corners(info, boxes)
    outputs = {output.channel: output for output in info.spec.outputs}
    for corner, label, score in zip(corners, labels.ravel(), scores.ravel(), strict=True):
        output = outputs.get(int(label))
        if output is not None:
            low, high = np.minimum(corner[:axes], corner[axes:]), np.maximum(corner[:axes], corner[axes:])
            yield Detected(
                output,
                float(np.clip(score, 0.0, 1.0)),
                tuple(map(float, low)),
                tuple(map(float, high)),
                spec.space == "world",
            )


def _array(info: BundleInfo, passed: Passed, name: str) -> NDArray[np.float64]:
    import torch  # noqa: PLC0415  (see `ai.inference`)

    held = passed.item
    if name not in held and isinstance(held.get("pred"), dict):
        held = held["pred"]
    if name not in held:
        there = ", ".join(sorted(str(key) for key in held))
        raise BundleError(
            f"{info.config}: the detector gives no {name}, which detection in reading.json names; there are {there}"
        )
    return np.asarray(torch.as_tensor(held[name]).detach().cpu().double().numpy())


def _corners(info: BundleInfo, boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """The boxes as two corners, in MONAI's standard mode."""
    from monai.data.box_utils import StandardMode, convert_box_mode  # noqa: PLC0415  (see `ai.inference`)

    mode = info.spec.detection.mode
    if mode is None or not len(boxes):
        return boxes
    try:
        return np.asarray(convert_box_mode(boxes, src_mode=mode, dst_mode=StandardMode))
    except (AssertionError, ValueError) as error:  # negative sizes, or a mode of other dimensions
        raise BundleError(f"{info.config}: the boxes are not of the mode {mode}: {short(error)}") from None
