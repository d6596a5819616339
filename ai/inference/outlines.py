"""Which part of an outline on an image is which finding: each finding gets a segment of its own, and is measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage  # type: ignore[import-untyped]

from ai.bundle.manifest import ReadingSpec
from ai.contract import Axes, Finding, Region, Segment
from ai.inference.measuring import axes_of, moved
from ai.inference.volume_answer import segment

_Mask = NDArray[np.bool_]


def outlined(
    spec: ReadingSpec,
    masks: Sequence[tuple[str, _Mask]],
    findings: Sequence[Finding],
    row_spacing: float = 1.0,
    column_spacing: float = 1.0,
) -> tuple[tuple[Finding, ...], tuple[Segment, ...]]:
    """The findings of one image with their outlines, and the segments.

    A connected part of an outline belongs to the finding of its class whose box it shares the largest area with. What
    belongs to none is a segment without a finding.

    Args:
        spec: the bundle's; axes are measured if it ``measures``.
        masks: (key, rows x columns) of the classes that were outlined.
        findings: of this image.
        row_spacing: the distance between the centres of neighbouring rows; only its ratio to the other one counts.
        column_spacing: the distance between the centres of neighbouring columns.
    """
    outputs = {output.key: output for output in spec.outputs}
    known = list(findings)
    segments: list[Segment] = []
    for key, mask in masks:
        own = [number for number, finding in enumerate(findings) if finding.key == key]
        for place, part in _parts(mask, [findings[number].region for number in own]):
            outline = segment(outputs[key], part[None])
            if place is not None:
                finding = known[own[place]]
                name = f"{key} {place + 1} of {finding.region.sop_instance_uid}"
                axes = _measured(part, row_spacing, column_spacing) if spec.measures else None
                known[own[place]] = replace(finding, part=name, axes=axes)
                outline = replace(outline, part=name)
            segments.append(outline)
    return tuple(known), tuple(segments)


def _parts(mask: _Mask, boxes: Sequence[Region]) -> list[tuple[int | None, _Mask]]:
    """What of a mask belongs to each box, with the box's place; what belongs to none comes last, with None."""
    if not boxes:
        return [(None, mask)]
    labels, count = ndimage.label(mask, structure=np.ones((3, 3), dtype=int))
    owner = np.full(count + 1, -1)
    for number, (rows, columns) in enumerate(ndimage.find_objects(labels), start=1):
        shared = [
            max(min(box.right, columns.stop) - max(box.left, columns.start), 0.0)
            * max(min(box.bottom, rows.stop) - max(box.top, rows.start), 0.0)
            for box in boxes
        ]
        if max(shared) > 0.0:
            owner[number] = int(np.argmax(shared))
    parts: list[tuple[int | None, _Mask]] = []
    for place in range(len(boxes)):
        numbers = np.flatnonzero(owner == place)
        if numbers.size:
            parts.append((place, np.isin(labels, numbers)))
    rest = np.flatnonzero(owner == -1)[1:]  # 0 is the background
    return [*parts, (None, np.isin(labels, rest))] if rest.size else parts


def _measured(mask: _Mask, row_spacing: float, column_spacing: float) -> Axes | None:
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    part = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return moved(axes_of(part, row_spacing, column_spacing), float(columns[0]), float(rows[0]))
