"""The answer of a model on one image, in the image's own pixels, and the verdicts on its classes."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ai.bundle.manifest import ClassFigures, Output, ReadingSpec
from ai.contract import ClassResult, HeatMap, Presence


@dataclass(frozen=True, slots=True)
class MarkedBox:
    """A box around a region of a class. ``key`` is the output's key, ``score`` a probability.

    The edges are pixel edges as in `ai.contract`, columns first, and lie inside the image.
    """

    key: str
    score: float
    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True, slots=True, eq=False)
class ImageAnswer:
    """The answer of a model on one image.

    ``scores`` are probabilities in the order of the outputs in ``reading.json``, also of ``undetermined`` outputs.
    ``boxes``, best first, and ``heat_maps`` are of classes that reach their threshold. Anatomy has no boxes. The heat
    maps' ``sop_instance_uid`` is empty; `BundleModel.read` sets it. ``masks`` are (key, bool (rows, columns)) of the
    classes that a segmentation finds present. ``dropped`` counts the boxes that were left out, because nothing can be
    there (`ai.inference.places`).
    """

    scores: tuple[float, ...]
    boxes: tuple[MarkedBox, ...]
    heat_maps: tuple[HeatMap, ...] = ()
    masks: tuple[tuple[str, NDArray[np.bool_]], ...] = ()
    dropped: int = 0


def only(answer: ImageAnswer, keys: Container[str]) -> ImageAnswer:
    """The answer without the places of other classes; the scores stay, since they are in the order of the outputs."""
    return replace(
        answer,
        boxes=tuple(one for one in answer.boxes if one.key in keys),
        heat_maps=tuple(one for one in answer.heat_maps if one.key in keys),
        masks=tuple(one for one in answer.masks if one[0] in keys),
    )


def class_results(spec: ReadingSpec, scores: Sequence[float], *, complete: bool) -> tuple[ClassResult, ...]:
    """The verdict on each class, in the order of the outputs.

    Args:
        spec: the outputs with the thresholds that count.
        scores: the best score of each output.
        complete: false if not everything was read that was to be read: then no class is absent.
    """
    return tuple(
        _class_result(output, spec.figures(output.key), score, complete=complete)
        for output, score in zip(spec.outputs, scores, strict=True)
    )


def _class_result(output: Output, figures: ClassFigures | None, score: float, *, complete: bool) -> ClassResult:
    below = Presence.ABSENT if complete else Presence.UNDETERMINED
    presence = Presence.PRESENT if score >= output.threshold else below
    return ClassResult(
        key=output.key,
        name=output.name,
        code=output.code.code(),
        score=score,
        threshold=output.threshold,
        presence=Presence.UNDETERMINED if output.undetermined else presence,
        not_assessed=output.undetermined,
        finding=output.finding,
        calibrated=output.calibrated,
        differential=tuple(code.code() for code in output.differential),
        sensitivity=None if figures is None else figures.sensitivity,
        specificity=None if figures is None else figures.specificity,
        specificity_other=None if figures is None else figures.specificity_other,
    )
