"""The result of a pass on a volume -> the model's answer on the frames of its source, by a function for each task."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage  # type: ignore[import-untyped]

from ai.bundle.files import BundleInfo
from ai.bundle.manifest import Output
from ai.contract import Code, Finding, Region, Segment, Segmentation
from ai.inference.detector_boxes import detected_boxes
from ai.inference.forward import ForwardResult, label_map, probabilities
from ai.inference.image_answer import is_present, strongest_channel
from ai.inference.measuring import axes_of, moved
from ai.inference.regions import SCORE_QUANTILE, drop_small_regions
from ai.mask import CutMask
from ai.volumes.resample import to_frames
from ai.volumes.volume import Volume

# CID 7150 Segmentation Property Category (PS3.16).
ANATOMY = Code("123037004", "SCT", "Anatomical Structure")
ABNORMALITY = Code("49755003", "SCT", "Morphologically Abnormal Structure")

_MOST = 5  # the most parts of a segment that become findings, the largest first


@dataclass(frozen=True, slots=True, eq=False)
class VolumeAnswer:
    """The answer of a model on one volume. ``scores`` are in the order of the outputs in ``reading.json``."""

    scores: tuple[float, ...]
    findings: tuple[Finding, ...] = ()
    segmentations: tuple[Segmentation, ...] = ()


def answer_volume(info: BundleInfo, result: ForwardResult, volume: Volume) -> VolumeAnswer:
    """The answer on a volume, from the result of its pass.

    Raises:
        BundleError: the output is not what ``task`` in ``reading.json`` says.
        ReadingError: the output cannot be resampled to the volume's frames.
    """
    return _TASKS[info.spec.task](info, result, volume)


def segment(output: Output, mask: NDArray[np.bool_] | CutMask) -> Segment:
    """An outline (frames, rows, columns) with the coded meaning of its output."""
    category = output.category.code() if output.category else ABNORMALITY if output.finding else ANATOMY
    site = output.site.code() if output.site else None
    return Segment(output.key, output.name, output.code.code(), category, mask, site)


def _classification(info: BundleInfo, result: ForwardResult, _volume: Volume) -> VolumeAnswer:
    found = probabilities(info, result.map_values)
    return VolumeAnswer(tuple(float(found[strongest_channel(output, found)]) for output in info.spec.outputs))


# --- detection ------------------------------------------------------------------------------------------------------


def _detection(info: BundleInfo, result: ForwardResult, volume: Volume) -> VolumeAnswer:
    scores = dict.fromkeys((output.channel for output in info.spec.outputs), 0.0)
    findings = []
    to_index = np.linalg.inv(volume.affine)
    for one in detected_boxes(info, result, axes=3):
        # On the input, a corner is the edge of a voxel, half a voxel before its centre.
        affine, shift = (np.eye(4), 0.0) if one.in_world else (result.input_affine, -0.5)
        corners = np.array([(*corner, 1.0) for corner in product(*zip(one.low, one.high, strict=True))])
        corners[:, :3] += shift
        index = corners @ (to_index @ affine).T
        region = _in_the_middle(volume, index[:, :3].min(axis=0) + 0.5, index[:, :3].max(axis=0) + 0.5)
        if region is None:
            continue
        scores[one.output.channel] = max(scores[one.output.channel], one.score)
        if is_present(one.output, one.score) and one.output.finding:
            findings.append(_finding(one.output, one.score, region))
    findings.sort(key=lambda finding: -finding.score)
    return VolumeAnswer(tuple(scores[output.channel] for output in info.spec.outputs), tuple(findings))


def _in_the_middle(volume: Volume, low: NDArray[np.float64], high: NDArray[np.float64]) -> Region | None:
    """A box (voxel edges of the volume) as a region on its middle slice. None if it lies outside the volume."""
    sides = volume.values.shape
    middle = int(np.floor((low[2] + high[2]) / 2.0))
    (left, top), (right, bottom) = np.maximum(low[:2], 0.0), np.minimum(high[:2], sides[:2])
    if high[2] <= 0 or low[2] >= sides[2] or right <= left or bottom <= top:
        return None
    instance, frame = volume.frames[min(max(middle, 0), sides[2] - 1)]
    return Region(instance.sop_instance_uid, float(left), float(top), float(right), float(bottom), frame)


def _finding(output: Output, score: float, region: Region) -> Finding:
    site = output.site.code() if output.site else None
    return Finding(output.key, output.name, output.code.code(), score, region, site)


# --- segmentation ---------------------------------------------------------------------------------------------------


def _segmentation(info: BundleInfo, result: ForwardResult, volume: Volume) -> VolumeAnswer:
    voxel_ml = _voxel_ml(volume)
    scores: list[float] = []
    findings: list[Finding] = []
    segments: list[Segment] = []
    for output, certain, mask in _outlined(info, result, volume):
        here = certain[mask] if certain is not None else np.ones(min(int(mask.sum()), 1), dtype=np.float32)
        score = float(np.quantile(here, SCORE_QUANTILE)) if here.size else 0.0
        if mask.sum() * voxel_ml < output.min_volume_ml or not mask.any() or score < output.threshold:
            # A segment that is too small or too faint counts as absent, so its score stays below the threshold.
            scores.append(min(score, output.threshold * 0.999))
            continue
        scores.append(score)
        if output.undetermined:
            continue
        if not output.finding:
            segments.append(replace(segment(output, CutMask.of(mask)), volume_ml=float(mask.sum()) * voxel_ml))
            continue
        for found, outline in _parts(output, certain, mask, volume, measures=info.spec.measures):
            segments.append(outline)
            findings += [] if found is None else [found]
    findings.sort(key=lambda finding: -finding.score)
    drawn = (Segmentation("binary", volume.frames, tuple(segments)),) if segments else ()
    return VolumeAnswer(tuple(scores), tuple(findings), drawn)


def _outlined(
    info: BundleInfo, result: ForwardResult, volume: Volume
) -> Iterator[tuple[Output, NDArray[np.float32] | None, NDArray[np.bool_]]]:
    """For each output: probabilities (None for labels) and outline, both on the volume's frames."""
    values = result.map_values
    if info.spec.prediction == "labels":
        labels = label_map(info, values)
        whole = to_frames(volume, labels, result.affine)
        for output in info.spec.outputs:
            if output.min_area > 1:
                kept = drop_small_regions((labels == output.channel).astype(np.float32), output) > 0.0
                yield output, None, to_frames(volume, kept, result.affine)
            else:
                yield output, None, whole == output.channel
        return
    channels = probabilities(info, values)
    for output in info.spec.outputs:
        certain = to_frames(volume, drop_small_regions(channels[output.channel], output), result.affine)
        yield output, certain, certain >= output.map_threshold


def _parts(
    output: Output,
    certain: NDArray[np.float32] | None,
    mask: NDArray[np.bool_],
    volume: Volume,
    *,
    measures: bool,
) -> Iterator[tuple[Finding | None, Segment]]:
    """The largest connected parts of an outline, each as a finding and the segment that outlines it.

    A finding has its box, and its axes if outlines can be measured, on the slice where the part is largest. What is
    left of the outline is a last segment without a finding.
    """
    voxel_ml = _voxel_ml(volume)
    labels, _ = ndimage.label(mask, structure=np.ones((3, 3, 3), dtype=int))
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    largest = [int(number) for number in np.argsort(-sizes, kind="stable")[:_MOST] if sizes[number]]
    kept = [number for number in largest if sizes[number] * voxel_ml >= output.min_volume_ml] or largest[:1]
    places = ndimage.find_objects(labels)
    across, down = (float(np.linalg.norm(volume.affine[:3, axis])) for axis in (0, 1))
    for order, number in enumerate(kept):
        place = places[number - 1]
        own = labels[place] == number
        frame = int(own.sum(axis=(1, 2)).argmax())
        rows, columns = own[frame].any(axis=1).nonzero()[0], own[frame].any(axis=0).nonzero()[0]
        score = 1.0 if certain is None else float(np.quantile(certain[place][own], SCORE_QUANTILE))
        instance, of_instance = volume.frames[place[0].start + frame]
        top, left = place[1].start, place[2].start
        region = Region(
            instance.sop_instance_uid,
            float(left + columns[0]),
            float(top + rows[0]),
            float(left + columns[-1] + 1),
            float(top + rows[-1] + 1),
            of_instance,
        )
        part = f"{output.key} {order + 1}"
        axes = moved(axes_of(own[frame], down, across), left, top) if measures else None
        start = (place[0].start, top, left)
        outline = segment(output, CutMask((mask.shape[0], mask.shape[1], mask.shape[2]), start, own))
        yield (
            replace(_finding(output, score, region), part=part, axes=axes),
            replace(outline, part=part, volume_ml=float(sizes[number]) * voxel_ml),
        )
    left_over = mask & ~np.isin(labels, kept)
    if left_over.any():
        outline = segment(output, CutMask.of(left_over))
        yield None, replace(outline, volume_ml=float(left_over.sum()) * voxel_ml)


def _voxel_ml(volume: Volume) -> float:
    return abs(float(np.linalg.det(volume.affine[:3, :3]))) / 1000.0


_TASKS: Mapping[str, Callable[[BundleInfo, ForwardResult, Volume], VolumeAnswer]] = {
    "classification": _classification,
    "detection": _detection,
    "segmentation": _segmentation,
}
