"""The output of a detector -> boxes with their classes, each given by two corners."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ai.bundle.files import BundleError, BundleInfo, short
from ai.bundle.manifest import Output
from ai.inference.forward import ForwardResult


@dataclass(frozen=True, slots=True)
class DetectedBox:
    """A box between the corners ``low`` and ``high``, in axes of the network's input, or of the affine if ``in_world``.

    On the input, corners are edges of cells: 0 is the beginning of the first cell, as in MONAI's box modes.
    """

    output: Output
    score: float
    low: tuple[float, ...]
    high: tuple[float, ...]
    in_world: bool


def detected_boxes(info: BundleInfo, result: ForwardResult, *, axes: int) -> Iterator[DetectedBox]:
    """The boxes of all outputs, with any score.

    Raises:
        BundleError: the dictionary after postprocessing lacks boxes, labels or scores, or they do not fit each other.
    """
    spec = info.spec.detection
    boxes, labels, scores = (_array(info, result, name) for name in (spec.boxes, spec.labels, spec.scores))
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
            yield DetectedBox(
                output,
                float(np.clip(score, 0.0, 1.0)),
                tuple(map(float, low)),
                tuple(map(float, high)),
                spec.space == "world",
            )


def _array(info: BundleInfo, result: ForwardResult, name: str) -> NDArray[np.float64]:
    import torch  # noqa: PLC0415  (see `ai.inference`)

    held = result.item
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
