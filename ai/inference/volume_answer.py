"""A pass over a volume -> what the model says of it, on the frames of its source: one function for each task."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage  # type: ignore[import-untyped]

from ai.bundle.files import BundleInfo
from ai.bundle.manifest import Output
from ai.contract import Code, Finding, Region, Segment, Segmentation
from ai.inference.detector_boxes import detected
from ai.inference.forward import Passed, labels_of, probabilities
from ai.inference.image_answer import called
from ai.inference.regions import SHARE, without_small
from ai.mask import CutMask
from ai.volumes.resample import to_frames
from ai.volumes.volume import Volume

# CID 7150 Segmentation Property Category (PS3.16).
ANATOMY = Code("123037004", "SCT", "Anatomical Structure")
ABNORMALITY = Code("49755003", "SCT", "Morphologically Abnormal Structure")

_MOST = 5  # parts of one segment that are findings of their own, the largest ones


@dataclass(frozen=True, slots=True, eq=False)
class VolumeAnswer:
    """All that a model says of one volume; ``scores`` are in the order of the outputs in ``reading.json``."""

    scores: tuple[float, ...]
    findings: tuple[Finding, ...] = ()
    segmentations: tuple[Segmentation, ...] = ()


def answer_volume(info: BundleInfo, passed: Passed, volume: Volume) -> VolumeAnswer:
    """What a pass says of a volume.

    Raises:
        BundleError: the output is not what ``task`` in ``reading.json`` says.
        ReadingError: it cannot be brought onto the volume's frames.
    """
    return _TASKS[info.spec.task](info, passed, volume)


def segment(output: Output, mask: NDArray[np.bool_] | CutMask) -> Segment:
    """An outline (frames x rows x columns) with the meaning of its output."""
    category = output.category.code() if output.category else ABNORMALITY if output.finding else ANATOMY
    site = output.site.code() if output.site else None
    return Segment(output.key, output.name, output.code.code(), category, mask, site)


def _classification(info: BundleInfo, passed: Passed, _volume: Volume) -> VolumeAnswer:
    found = probabilities(info, passed.answered)
    return VolumeAnswer(tuple(float(found[output.channel]) for output in info.spec.outputs))


# --- detection ------------------------------------------------------------------------------------------------------


def _detection(info: BundleInfo, passed: Passed, volume: Volume) -> VolumeAnswer:
    scores = dict.fromkeys((output.channel for output in info.spec.outputs), 0.0)
    findings = []
    to_index = np.linalg.inv(volume.affine)
    for one in detected(info, passed, axes=3):
        # On the input a corner is an edge of a voxel, half of one before its centre.
        affine, shift = (np.eye(4), 0.0) if one.in_world else (passed.input_affine, -0.5)
        corners = np.array([(*corner, 1.0) for corner in product(*zip(one.low, one.high, strict=True))])
        corners[:, :3] += shift
        index = corners @ (to_index @ affine).T
        region = _in_the_middle(volume, index[:, :3].min(axis=0) + 0.5, index[:, :3].max(axis=0) + 0.5)
        if region is None:
            continue
        scores[one.output.channel] = max(scores[one.output.channel], one.score)
        if called(one.output, one.score) and one.output.finding:
            findings.append(_finding(one.output, one.score, region))
    findings.sort(key=lambda finding: -finding.score)
    return VolumeAnswer(tuple(scores[output.channel] for output in info.spec.outputs), tuple(findings))


def _in_the_middle(volume: Volume, low: NDArray[np.float64], high: NDArray[np.float64]) -> Region | None:
    """A box (voxel edges of the volume) on the slice in its middle; None where it lies beside the volume."""
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


def _segmentation(info: BundleInfo, passed: Passed, volume: Volume) -> VolumeAnswer:
    voxel_ml = abs(float(np.linalg.det(volume.affine[:3, :3]))) / 1000.0
    scores: list[float] = []
    findings: list[Finding] = []
    segments: list[Segment] = []
    for output, certain, mask in _outlined(info, passed, volume):
        here = certain[mask] if certain is not None else np.ones(min(int(mask.sum()), 1), dtype=np.float32)
        score = float(np.quantile(here, SHARE)) if here.size else 0.0
        if mask.sum() * voxel_ml < output.min_volume_ml or not mask.any() or score < output.threshold:
            # What is too small or too faint is not there, and its score says so.
            scores.append(min(score, output.threshold * 0.999))
            continue
        scores.append(score)
        if output.undetermined:
            continue
        segments.append(segment(output, CutMask.of(mask)))
        if output.finding:
            findings += _parts(output, certain, mask, volume, voxel_ml)
    findings.sort(key=lambda finding: -finding.score)
    drawn = (Segmentation("binary", volume.frames, tuple(segments)),) if segments else ()
    return VolumeAnswer(tuple(scores), tuple(findings), drawn)


def _outlined(
    info: BundleInfo, passed: Passed, volume: Volume
) -> Iterator[tuple[Output, NDArray[np.float32] | None, NDArray[np.bool_]]]:
    """Of each output the probabilities (none of labels) and the outline on the volume's frames."""
    values = passed.answered
    if info.spec.prediction == "labels":
        labels = labels_of(info, values)
        whole = to_frames(volume, labels, passed.affine)
        for output in info.spec.outputs:
            if output.min_area > 1:
                kept = without_small((labels == output.channel).astype(np.float32), output) > 0.0
                yield output, None, to_frames(volume, kept, passed.affine)
            else:
                yield output, None, whole == output.channel
        return
    channels = probabilities(info, values)
    for output in info.spec.outputs:
        certain = to_frames(volume, without_small(channels[output.channel], output), passed.affine)
        yield output, certain, certain >= output.map_threshold


def _parts(
    output: Output,
    certain: NDArray[np.float32] | None,
    mask: NDArray[np.bool_],
    volume: Volume,
    voxel_ml: float,
) -> list[Finding]:
    """The largest connected parts of an outline, each as a box on the slice where it is largest."""
    labels, _ = ndimage.label(mask, structure=np.ones((3, 3, 3), dtype=int))
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    largest = [int(number) for number in np.argsort(-sizes, kind="stable")[:_MOST] if sizes[number]]
    kept = [number for number in largest if sizes[number] * voxel_ml >= output.min_volume_ml] or largest[:1]
    places = ndimage.find_objects(labels)
    findings = []
    for number in kept:
        place = places[number - 1]
        own = labels[place] == number
        frame = int(own.sum(axis=(1, 2)).argmax())
        rows, columns = own[frame].any(axis=1).nonzero()[0], own[frame].any(axis=0).nonzero()[0]
        score = 1.0 if certain is None else float(np.quantile(certain[place][own], SHARE))
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
        findings.append(_finding(output, score, region))
    return findings


_TASKS: Mapping[str, Callable[[BundleInfo, Passed, Volume], VolumeAnswer]] = {
    "classification": _classification,
    "detection": _detection,
    "segmentation": _segmentation,
}
