"""A pass over one picture -> what the model says of it, in the picture's pixels: one function for each task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ai.bundle.files import BundleInfo
from ai.bundle.manifest import Output, ReadingSpec
from ai.contract import HeatMap
from ai.inference.answers import ImageAnswer, MarkedBox
from ai.inference.detector_boxes import detected
from ai.inference.forward import Passed, of_class, probabilities
from ai.inference.grid import Affine, Grid, cells, inside, on_image, upright
from ai.inference.regions import Box, peaks, regions, to_image, without_small

_MOST = 8  # boxes of one class of a segmentation: more say nothing that its outline does not


def answer(info: BundleInfo, passed: Passed, rows: int, columns: int) -> ImageAnswer:
    """What a pass says of a picture of so many rows and columns.

    Raises:
        BundleError: the output is not what ``task`` in ``reading.json`` says.
    """
    found = _TASKS[info.spec.task](info, passed, rows, columns)
    # Anatomy is nothing to point at, and of what is not assessed there is nothing to say.
    told = {output.key for output in info.spec.outputs if output.finding and not output.undetermined}
    return replace(found, boxes=tuple(box for box in found.boxes if box.key in told))


def called(output: Output, score: float) -> bool:
    """Whether a class is called present at a score."""
    return not output.undetermined and score >= output.threshold


def _regions(info: BundleInfo, passed: Passed, rows: int, columns: int) -> ImageAnswer:
    maps = probabilities(info, passed.answered)
    seen = inside(maps, passed.affine, rows, columns)
    if not seen.all():
        maps = np.where(seen, maps, np.float32(0.0))
    boxes, scores = regions(maps, info.spec.outputs)
    shown = [output for output, score in zip(info.spec.outputs, scores, strict=True) if called(output, score)]
    heat = [_heat_map(output.key, maps[output.channel], passed.affine) for output in shown]
    return ImageAnswer(
        scores=scores,
        boxes=_marked(info.spec, boxes, passed.affine, rows, columns),
        heat_maps=tuple(one for one in heat if one is not None),
    )


def _classification(info: BundleInfo, passed: Passed, rows: int, columns: int) -> ImageAnswer:
    found = probabilities(info, passed.answered)
    scores = tuple(float(found[output.channel]) for output in info.spec.outputs)
    boxes: list[MarkedBox] = []
    heat: list[HeatMap | None] = []
    for output, score in zip(info.spec.outputs, scores, strict=True):
        if passed.maps is None or not output.located or not called(output, score):
            continue
        raw = passed.maps.of(output.channel)
        affine = passed.maps.affine @ cells(passed.maps.shape, (1, *raw.shape))
        shown = _normal(raw, inside(raw, affine, rows, columns))
        if shown is None:
            continue
        heat.append(_heat_map(output.key, shown, affine))
        places = peaks(shown, output, score)
        boxes += _marked(info.spec, places, affine, rows, columns)
    boxes.sort(key=lambda box: -box.score)
    return ImageAnswer(scores, tuple(boxes), tuple(one for one in heat if one is not None))


def _normal(raw: Grid, seen: NDArray[np.bool_]) -> Grid | None:
    """A map from 0 to 1 over the cells that lie on the image, 0 beside it; None where it points nowhere.

    The map of gradients is 0 everywhere where no feature speaks for the class.
    """
    values = raw[seen]
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    if not (np.isfinite(low) and np.isfinite(high)) or high <= low:
        return None
    return np.where(seen, np.clip((raw - low) / (high - low), 0.0, 1.0), 0.0).astype(np.float32)


def _detection(info: BundleInfo, passed: Passed, rows: int, columns: int) -> ImageAnswer:
    scores = dict.fromkeys((output.channel for output in info.spec.outputs), 0.0)
    boxes: list[MarkedBox] = []
    for one in detected(info, passed, axes=2):
        # On the input a corner is an edge of a cell; a point of the world is the index of a centre.
        shift, affine = (0.5, passed.space) if one.in_world else (0.0, passed.input_affine)
        top, left, bottom, right = (edge + shift for edge in (*one.low, *one.high))
        box = Box(one.output.channel, one.score, left, top, right, bottom)
        placed = _marked(info.spec, [box], affine, rows, columns)
        if not placed:
            continue
        scores[one.output.channel] = max(scores[one.output.channel], one.score)
        boxes += placed if one.score >= one.output.threshold else []
    boxes.sort(key=lambda box: -box.score)
    return ImageAnswer(tuple(scores[output.channel] for output in info.spec.outputs), tuple(boxes))


def _segmentation(info: BundleInfo, passed: Passed, rows: int, columns: int) -> ImageAnswer:
    maps = of_class(info, passed.answered)
    boxes: list[MarkedBox] = []
    scores: list[float] = []
    masks: list[tuple[str, NDArray[np.bool_]]] = []
    for output in info.spec.outputs:
        one = maps(output)
        seen = inside(one, passed.affine, rows, columns)
        kept = without_small(one if seen.all() else np.where(seen, one, np.float32(0.0)), output)
        alone = output.model_copy(update={"channel": 0})
        places, (score,) = regions(kept[None], [alone])
        scores.append(score)
        if not called(output, score):
            continue
        outline = on_image(kept, passed.affine, rows, columns) >= output.map_threshold
        if outline.any():
            masks.append((output.key, outline))
        own = [replace(box, channel=output.channel) for box in places[:_MOST]]
        boxes += _marked(info.spec, own, passed.affine, rows, columns)
    boxes.sort(key=lambda box: -box.score)
    return ImageAnswer(tuple(scores), tuple(boxes), masks=tuple(masks))


def _marked(spec: ReadingSpec, boxes: Sequence[Box], affine: Affine, rows: int, columns: int) -> tuple[MarkedBox, ...]:
    """Boxes on the picture, clipped to it; those beside it are left out."""
    outputs = {output.channel: output for output in spec.outputs}
    marked = []
    for box in boxes:
        output = outputs[box.channel]
        place = to_image(affine, box)
        left, right = (min(max(x, 0.0), float(columns)) for x in (place.left, place.right))
        top, bottom = (min(max(y, 0.0), float(rows)) for y in (place.top, place.bottom))
        if right > left and bottom > top:
            marked.append(MarkedBox(output.key, box.score, left, top, right, bottom))
    return tuple(marked)


def _heat_map(key: str, values: Grid, affine: Affine) -> HeatMap | None:
    """A map on the picture; None where preprocessing turned the picture by other than right angles."""
    straight = upright(values, affine)
    if straight is None:
        return None
    grid, matrix = straight
    area = to_image(matrix, Box(0, 0.0, 0.0, 0.0, float(grid.shape[1]), float(grid.shape[0])))
    return HeatMap("", key, grid.copy(), area.left, area.top, area.right, area.bottom)


_TASKS: Mapping[str, Callable[[BundleInfo, Passed, int, int], ImageAnswer]] = {
    "regions": _regions,
    "classification": _classification,
    "detection": _detection,
    "segmentation": _segmentation,
}
