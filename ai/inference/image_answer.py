"""The result of a pass on one image -> the model's answer in the image's pixels, by a function for each task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ai.bundle.files import BundleInfo
from ai.bundle.manifest import Output, ReadingSpec
from ai.contract import HeatMap
from ai.inference.answers import ImageAnswer, MarkedBox
from ai.inference.detector_boxes import detected_boxes
from ai.inference.forward import ForwardResult, class_probabilities, probabilities
from ai.inference.grid import Affine, Grid, cells_on_image, map_on_image, map_to_input, upright
from ai.inference.regions import Box, box_to_image, drop_small_regions, peaks, regions

_FILM_WIDTH_MM = 350.0  # assumed where no spacing is told, or a false one: about the width of a chest film
_FILM_MM = (50.0, 1000.0)  # the sides that a film can have; with another one its spacing is false
_MOST = 8  # the most boxes of one class of a segmentation; its outline shows the rest


def answer_image(
    info: BundleInfo, result: ForwardResult, rows: int, columns: int, spacing_mm: tuple[float, float] | None = None
) -> ImageAnswer:
    """The answer on an image of ``rows`` x ``columns`` pixels, from the result of its pass.

    Fragments of a class that lie close together are one place (`ai.inference.regions`). Their distance in mm follows
    from ``spacing_mm`` (rows, columns). If it is None, or a side of the image would have less than 50 mm or more than
    1 m with it, the image is taken to be 350 mm wide, with square pixels.

    Raises:
        BundleError: the output is not what ``task`` in ``reading.json`` says.
    """
    spacing = (_FILM_WIDTH_MM / columns, _FILM_WIDTH_MM / columns)
    if spacing_mm is not None and _is_film(rows * spacing_mm[0]) and _is_film(columns * spacing_mm[1]):
        spacing = spacing_mm
    found = _TASKS[info.spec.task](info, result, _Image(rows, columns, spacing))
    # Anatomy and undetermined classes get no boxes.
    reported = {output.key for output in info.spec.outputs if output.finding and not output.undetermined}
    return replace(found, boxes=tuple(box for box in found.boxes if box.key in reported))


def _is_film(side_mm: float) -> bool:
    return _FILM_MM[0] <= side_mm <= _FILM_MM[1]


def is_present(output: Output, score: float) -> bool:
    """Whether a class is called present at a score."""
    return not output.undetermined and score >= output.threshold


def strongest_channel(output: Output, found: NDArray[np.float32]) -> int:
    """Of the channels that a class joins, the one with the greatest probability in ``found`` (channels, ...)."""
    return max((output.channel, *output.joined), key=lambda channel: float(found[channel]))


@dataclass(frozen=True, slots=True)
class _Image:
    """The image that an answer is about: its pixels and their spacing (rows, columns) in mm."""

    rows: int
    columns: int
    spacing: tuple[float, float]

    def cell_mm(self, affine: Affine) -> tuple[float, float]:
        """The mm between neighbouring cells of a grid, down and across."""
        down, across = (np.abs(affine[:2, axis]) @ np.asarray(self.spacing) for axis in (0, 1))
        return float(down), float(across)


def _regions(info: BundleInfo, result: ForwardResult, image: _Image) -> ImageAnswer:
    maps = probabilities(info, result.map_values)
    seen = cells_on_image(maps, result.affine, image.rows, image.columns)
    if not seen.all():
        maps = np.where(seen, maps, np.float32(0.0))
    boxes, scores = regions(maps, info.spec.outputs, image.cell_mm(result.affine))
    shown = [output for output, score in zip(info.spec.outputs, scores, strict=True) if is_present(output, score)]
    heat = [_heat_map(output.key, maps[output.channel], result.affine) for output in shown]
    return ImageAnswer(
        scores=scores,
        boxes=_marked(info.spec, boxes, result.affine, image),
        heat_maps=tuple(one for one in heat if one is not None),
    )


def _classification(info: BundleInfo, result: ForwardResult, image: _Image) -> ImageAnswer:
    found = probabilities(info, result.map_values)
    channels = [strongest_channel(output, found) for output in info.spec.outputs]
    scores = tuple(float(found[channel]) for channel in channels)
    boxes: list[MarkedBox] = []
    heat: list[HeatMap | None] = []
    for output, channel, score in zip(info.spec.outputs, channels, scores, strict=True):
        if result.maps is None or not output.located or not is_present(output, score):
            continue
        raw = result.maps.of(channel)
        affine = result.maps.affine @ map_to_input(result.maps.shape, (1, *raw.shape))
        shown = _normal(raw, cells_on_image(raw, affine, image.rows, image.columns))
        if shown is None:
            continue
        heat.append(_heat_map(output.key, shown, affine))
        places = peaks(shown, output, score, image.cell_mm(affine))
        boxes += _marked(info.spec, places, affine, image)
    boxes.sort(key=lambda box: -box.score)
    return ImageAnswer(scores, tuple(boxes), tuple(one for one in heat if one is not None))


def _normal(raw: Grid, seen: NDArray[np.bool_]) -> Grid | None:
    """Scale a map to 0..1 over the cells that lie on the image. Other cells become 0. None if the map is constant.

    A map from gradients is 0 everywhere if no feature supports the class.
    """
    values = raw[seen]
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    if not (np.isfinite(low) and np.isfinite(high)) or high <= low:
        return None
    return np.where(seen, np.clip((raw - low) / (high - low), 0.0, 1.0), 0.0).astype(np.float32)


def _detection(info: BundleInfo, result: ForwardResult, image: _Image) -> ImageAnswer:
    scores = dict.fromkeys((output.channel for output in info.spec.outputs), 0.0)
    boxes: list[MarkedBox] = []
    for one in detected_boxes(info, result, axes=2):
        # On the input, corners are edges of cells. In the world, they are indices of centres.
        shift, affine = (0.5, result.space) if one.in_world else (0.0, result.input_affine)
        top, left, bottom, right = (edge + shift for edge in (*one.low, *one.high))
        box = Box(one.output.channel, one.score, left, top, right, bottom)
        placed = _marked(info.spec, [box], affine, image)
        if not placed:
            continue
        scores[one.output.channel] = max(scores[one.output.channel], one.score)
        boxes += placed if one.score >= one.output.threshold else []
    boxes.sort(key=lambda box: -box.score)
    return ImageAnswer(tuple(scores[output.channel] for output in info.spec.outputs), tuple(boxes))


def _segmentation(info: BundleInfo, result: ForwardResult, image: _Image) -> ImageAnswer:
    maps = class_probabilities(info, result.map_values)
    boxes: list[MarkedBox] = []
    scores: list[float] = []
    masks: list[tuple[str, NDArray[np.bool_]]] = []
    for output in info.spec.outputs:
        one = maps(output)
        seen = cells_on_image(one, result.affine, image.rows, image.columns)
        kept = drop_small_regions(one if seen.all() else np.where(seen, one, np.float32(0.0)), output)
        alone = output.model_copy(update={"channel": 0})
        places, (score,) = regions(kept[None], [alone], image.cell_mm(result.affine))
        scores.append(score)
        if not is_present(output, score):
            continue
        outline = map_on_image(kept, result.affine, image.rows, image.columns) >= output.map_threshold
        if outline.any():
            masks.append((output.key, outline))
        own = [replace(box, channel=output.channel) for box in places[:_MOST]]
        boxes += _marked(info.spec, own, result.affine, image)
    boxes.sort(key=lambda box: -box.score)
    return ImageAnswer(tuple(scores), tuple(boxes), masks=tuple(masks))


def _marked(spec: ReadingSpec, boxes: Sequence[Box], affine: Affine, image: _Image) -> tuple[MarkedBox, ...]:
    """Boxes in pixels of the image, clipped to it. Boxes outside the image are left out."""
    outputs = {output.channel: output for output in spec.outputs}
    marked = []
    for box in boxes:
        output = outputs[box.channel]
        place = box_to_image(affine, box)
        left, right = (min(max(x, 0.0), float(image.columns)) for x in (place.left, place.right))
        top, bottom = (min(max(y, 0.0), float(image.rows)) for y in (place.top, place.bottom))
        if right > left and bottom > top:
            marked.append(MarkedBox(output.key, box.score, left, top, right, bottom))
    return tuple(marked)


def _heat_map(key: str, values: Grid, affine: Affine) -> HeatMap | None:
    """A map with its place on the image. None if preprocessing rotated the image by another angle than 90 degrees."""
    straight = upright(values, affine)
    if straight is None:
        return None
    grid, matrix = straight
    area = box_to_image(matrix, Box(0, 0.0, 0.0, 0.0, float(grid.shape[1]), float(grid.shape[0])))
    return HeatMap("", key, grid.copy(), area.left, area.top, area.right, area.bottom)


_TASKS: Mapping[str, Callable[[BundleInfo, ForwardResult, _Image], ImageAnswer]] = {
    "regions": _regions,
    "classification": _classification,
    "detection": _detection,
    "segmentation": _segmentation,
}
