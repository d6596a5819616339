"""Where on a frontal chest radiograph something may be said to be: findings from boxes, within body and lungs.

This holds for bundles whose ``input.adult_frontal_chest`` is true. The places of other bundles stay as they are, and
their findings have the side that the header declares of the whole image, if it declares one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import ceil, floor

import numpy as np
from numpy.typing import NDArray

from ai.anatomy.field import ChestField, chest_field
from ai.anatomy.screening import MARKED, REFUSED, Look, look_of
from ai.anatomy.side import side_as_declared, side_in_chest
from ai.bundle.manifest import Output, ReadingSpec
from ai.contract import Finding, HeatMap, ReadingError, Region
from ai.images.radiograph import Radiograph
from ai.inference.answers import ImageAnswer, MarkedBox

LUNGS = frozenset({("39607008", "SCT"), ("3120008", "SCT")})
"""Sites that are looked for in the lung field: lung, pleura."""

_INSIDE = 0.5  # of a place's area: the least in the lungs, or in the body


def field_of(spec: ReadingSpec, display: NDArray[np.float32]) -> ChestField | None:
    """The field of an image. None if the bundle is not for frontal chest radiographs alone."""
    return chest_field(display) if spec.input.adult_frontal_chest else None


def caution_about(field: ChestField | None) -> tuple[str, ...]:
    """The sentences to put beside the answer on an image that may be none of a frontal chest.

    Raises:
        ReadingError: it surely is none.
    """
    look = Look.FRONTAL if field is None else look_of(field)
    if look is Look.OTHER:
        raise ReadingError(REFUSED)
    return (MARKED,) if look is Look.DOUBTFUL else ()


def limited(spec: ReadingSpec, answer: ImageAnswer, field: ChestField | None) -> ImageAnswer:
    """Drop the places where nothing can be, and cut the others to the body.

    At least half of a place's area must lie in the lung field if its site is the lung or the pleura, and in the body
    otherwise. Without a lung field, the body counts alone. An outline
    loses what lies in a dropped place; a class that loses all its boxes loses its heat map and outline, too. Scores
    stay.
    """
    if field is None:
        return answer
    outputs = {output.key: output for output in spec.outputs}
    kept: list[MarkedBox] = []
    dropped: list[MarkedBox] = []
    for box in answer.boxes:
        edges = (box.left, box.top, box.right, box.bottom)
        inside = field.within_body(edges) if _is_inside(outputs[box.key], field, edges) else None
        if inside is None:
            dropped.append(box)
            continue
        left, top, right, bottom = inside
        kept.append(replace(box, left=left, top=top, right=right, bottom=bottom))
    lost = {box.key for box in answer.boxes} - {box.key for box in kept}
    masks = []
    for key, mask in answer.masks:
        if key not in lost:
            outside = _boxed(mask.shape, [one for one in dropped if one.key == key])
            inside_too = _boxed(mask.shape, [one for one in kept if one.key == key])
            masks.append((key, mask & field.body_of_image() & (~outside | inside_too)))
    return replace(
        answer,
        boxes=tuple(kept),
        heat_maps=tuple(_in_body(heat, field) for heat in answer.heat_maps if heat.key not in lost),
        masks=tuple((key, mask) for key, mask in masks if mask.any()),
        dropped=len(dropped),
    )


def findings_of(
    spec: ReadingSpec, image: Radiograph, answer: ImageAnswer, field: ChestField | None
) -> Sequence[Finding]:
    """The boxes of an answer as findings on their image, each with the patient's side where that is certain."""
    outputs = {output.key: output for output in spec.outputs}
    masks = dict(answer.masks)
    found = []
    for box in answer.boxes:
        output, edges = outputs[box.key], (box.left, box.top, box.right, box.bottom)
        mask = _cut(masks[box.key], edges) if box.key in masks else None
        found.append(
            Finding(
                key=output.key,
                name=output.name,
                code=output.code.code(),
                score=box.score,
                region=Region(image.sop_instance_uid, *edges),
                site=output.site.code() if output.site else None,
                laterality=side_as_declared(image) if field is None else side_in_chest(image, field, edges, mask),
            )
        )
    return found


def _is_inside(output: Output, field: ChestField, edges: tuple[float, float, float, float]) -> bool:
    in_body = field.share_in_body(edges) >= _INSIDE
    if output.site is None or (output.site.value, output.site.scheme) not in LUNGS:
        return in_body
    in_lungs = field.share_in_lungs(edges)
    return in_body and (in_lungs is None or in_lungs >= _INSIDE)


def _in_body(heat: HeatMap, field: ChestField) -> HeatMap:
    """A heat map without what lies beside the body."""
    rows, columns = heat.values.shape
    across = heat.left + (np.arange(columns) + 0.5) * (heat.right - heat.left) / columns
    down = heat.top + (np.arange(rows) + 0.5) * (heat.bottom - heat.top) / rows
    return replace(heat, values=np.where(field.is_body(across, down), heat.values, np.float32(0.0)))


def _cut(mask: NDArray[np.bool_], edges: tuple[float, float, float, float]) -> NDArray[np.bool_]:
    """The part of a mask in a box, on the whole image."""
    return mask & _boxed(mask.shape, [MarkedBox("", 0.0, *edges)])


def _boxed(shape: tuple[int, ...], boxes: Sequence[MarkedBox]) -> NDArray[np.bool_]:
    """The pixels of an image (rows, columns) that boxes touch."""
    inside = np.zeros(shape, dtype=bool)
    for box in boxes:
        inside[floor(box.top) : ceil(box.bottom), floor(box.left) : ceil(box.right)] = True
    return inside
