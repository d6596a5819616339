"""What models say in `matrix`: an outcome makes a reading out of any study of `matrix_sources`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np

from ai.contract import (
    Axes,
    ClassResult,
    Code,
    Finding,
    HeatMap,
    ModelIdentity,
    NotLookedFor,
    PassedOver,
    Presence,
    Reading,
    Region,
    Segment,
    Segmentation,
)
from dicom_node.config.settings import Profile
from dicom_node.results import Run, run_key
from dicom_node.results.run import Predecessor
from dicom_node.results.uids import derived_uid, series_uid
from tests.support.matrix_sources import Study

MODEL = ModelIdentity(
    "phantom_cxr", "1.2.0", "0123456789abcdef" * 4, "dicom-node project", "Shows the node at work.",
    "Demonstration model, trained on no patient",
)  # fmt: skip
NODULE = ("nodule", "Nodule", Code("27925004", "SCT", "Nodule"))
EFFUSION = ("effusion", "Pleural effusion", Code("60046008", "SCT", "Pleural effusion"))
PNEUMOTHORAX = ("pneumothorax", "Pneumothorax", Code("36118008", "SCT", "Pneumothorax"))
CLASSES = (NODULE, EFFUSION, PNEUMOTHORAX)
LUNG = Code("39607008", "SCT", "Lung")
SIDES = (None, Code("7771000", "SCT", "Left"), Code("24028007", "SCT", "Right"))
ABNORMALITY = Code("49755003", "SCT", "Morphologically Abnormal Structure")
CREATED = datetime(2026, 3, 1, 23, 30, 15, 123456, tzinfo=UTC)
NOT_READ = (
    PassedOver("1.2.3", "view LL is not among PA, AP"),
    PassedOver("1.2.4", "it is no image"),
    PassedOver("1.2.5", "view LL is not among PA, AP"),
)

Box = tuple[float, float, float, float]
"""Left, top, right, bottom as shares of an image."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """``make`` turns a study into a reading; ``fits`` says for which studies there can be such a one."""

    name: str
    make: Callable[[Study], Reading]
    fits: Callable[[Study], bool] = lambda study: study.readable
    superseding: bool = False


def finding(
    study: Study, number: int, box: Box, what: tuple[str, str, Code] = NODULE, score: float = 0.8731
) -> Finding:
    """The ``number``-th thing found: on the next image of a series, on the next frame of a loop."""
    ref = study.refs[number % len(study.refs)]
    left, top, right, bottom = box
    region = Region(
        ref.sop_instance_uid,
        left * study.columns,
        top * study.rows,
        right * study.columns,
        bottom * study.rows,
        frame=number % study.frames + 1,
    )
    key, name, code = what
    return Finding(key, name, code, score, region, LUNG if number % 2 == 0 else None, SIDES[number % 3])


def reading(study: Study, *findings: Finding, absent: Presence = Presence.ABSENT) -> Reading:
    """A reading of all of a study's images in which each class is present that something was found of."""
    best = {each.key: max(f.score for f in findings if f.key == each.key) for each in findings}
    classes = tuple(
        ClassResult(key, name, code, best.get(key, 0.123), 0.5, Presence.PRESENT if key in best else absent)
        for key, name, code in CLASSES
    )
    return Reading(MODEL, study.refs, findings, classes, NOT_READ, (("network", 0.5),))


def _twelve(study: Study) -> Reading:
    spots = [(0.05 + 0.3 * (n % 3), 0.05 + 0.23 * (n // 3)) for n in range(12)]
    return reading(
        study,
        *(finding(study, n, (x, y, x + 0.2, y + 0.15), CLASSES[n % 3], 0.5 + n / 25) for n, (x, y) in enumerate(spots)),
    )


def _overlapping(study: Study) -> Reading:
    boxes: list[Box] = [(0.2, 0.2, 0.4, 0.45), (0.3, 0.3, 0.55, 0.6), (0.35, 0.25, 0.5, 0.5)]
    every = len(study.refs) * study.frames  # all on one image and frame
    return reading(study, *(finding(study, n * every, box, CLASSES[n]) for n, box in enumerate(boxes)))


def _border(study: Study) -> Reading:
    boxes: list[Box] = [(0, 0, 0.2, 0.15), (0.8, 0.85, 1, 1), (-0.1, 0.7, 0.3, 1.2)]
    return reading(study, *(finding(study, n, box, CLASSES[n], 1.0) for n, box in enumerate(boxes)))


def _without_region(study: Study) -> Reading:
    said = reading(study)
    return replace(said, classes=(replace(said.classes[0], presence=Presence.PRESENT, score=0.9), *said.classes[1:]))


def _partial_failure(study: Study) -> Reading:
    said = reading(study, finding(study, 0, (0.3, 0.3, 0.6, 0.6)), absent=Presence.UNDETERMINED)
    return replace(said, failed=(PassedOver("1.2.6", "Rows x Columns is 0 x 0; 1 to 100000000 pixels were expected"),))


def _total_failure(study: Study) -> Reading:
    return replace(reading(study), classes=(), failure="no decoder is installed for the transfer syntax 1.2.840.1")


def _long_texts(study: Study) -> Reading:
    """As much text as a model may have, and in every script."""
    long = Code("12345678901234567890", "99VERYLONGSCHEMENAME", "m" * 80)
    name = "Überlanger Befund «結節» 결절 \\ ^ = \x07 " + "n" * 80
    said = reading(study, finding(study, 0, (0.3, 0.3, 0.6, 0.6), ("nodule", name, long), 0.99999))
    model = replace(MODEL, name="n" * 64, manufacturer="Größe " * 20, notice="N" * 200, intended_use="U" * 2000)
    classes = (replace(said.classes[0], name=name, code=long), *said.classes[1:])
    return replace(said, model=model, classes=classes)


def _not_assessed(study: Study) -> Reading:
    """A class that the model knows and gives no verdict on, and otherwise nothing."""
    said = reading(study)
    silent = replace(said.classes[2], presence=Presence.UNDETERMINED, score=0.93, not_assessed="too few examples")
    return replace(said, classes=(*said.classes[:2], silent))


def _asked(study: Study) -> Reading:
    """At an operating point with its figures, with a class not looked for and one that stands for two conditions."""
    said = reading(study, finding(study, 0, (0.3, 0.3, 0.6, 0.6)))
    measured = {"calibrated": True, "sensitivity": 0.9, "specificity": 0.8, "specificity_other": 0.4}
    nodule, effusion = (replace(each, **measured) for each in said.classes[:2])
    nodule = replace(nodule, differential=(Code("233604007", "SCT", "Pneumonia"), CLASSES[1][2]))
    key, name, code = CLASSES[2]
    return replace(
        said, classes=(nodule, effusion), operating_point="low_alarm", not_looked_for=(NotLookedFor(key, name, code),)
    )


def _heat_map(study: Study) -> Reading:
    values = np.linspace(0, 1, 7 * 7, dtype=np.float32).reshape(7, 7)
    spot = finding(study, 0, (0.3, 0.3, 0.6, 0.6))
    edges = {"left": -0.1 * study.columns, "right": 1.1 * study.columns, "top": 0.0, "bottom": float(study.rows)}
    maps = (
        HeatMap(spot.region.sop_instance_uid, "nodule", values, **edges, frame=spot.region.frame),
        HeatMap(spot.region.sop_instance_uid, "effusion", values[::-1], **edges, frame=spot.region.frame),
    )
    return replace(reading(study, spot, finding(study, 0, (0.1, 0.1, 0.2, 0.2), EFFUSION)), heat_maps=maps)


def _segmented(study: Study, *, fractional: bool) -> Reading:
    frames = tuple((ref, frame) for ref in study.refs for frame in range(1, study.frames + 1))[:6]
    distance = np.hypot(*np.meshgrid(np.linspace(-1, 1, study.rows), np.linspace(-1, 1, study.columns), indexing="ij"))
    soft = np.stack([(1 - distance - 0.1 * n).clip(0, 1).astype(np.float32) for n in range(len(frames))])
    masks = [soft, soft[:, ::-1]] if fractional else [soft > 0.5, np.roll(soft, study.columns // 3, 2) > 0.6]
    segments = tuple(
        Segment(key, name, code, ABNORMALITY, np.ascontiguousarray(mask), LUNG, SIDES[n])
        for n, ((key, name, code), mask) in enumerate(zip(CLASSES, masks, strict=False))
    )
    spot = finding(study, 0, (0.3, 0.3, 0.6, 0.6))
    if not fractional:  # outlined and measured
        left, top, right, bottom = spot.region.left, spot.region.top, spot.region.right, spot.region.bottom
        middle = (top + bottom) / 2
        axes = Axes(((left, middle), (right, middle)), ((left + 1, top), (left + 1, bottom)))
        spot = replace(spot, part="nodule 1", axes=axes)
        segments = (replace(segments[0], part=spot.part, volume_ml=1.2345), *segments[1:])
    outlined = Segmentation("fractional" if fractional else "binary", frames[::-1], segments)
    return replace(reading(study, spot), segmentations=(outlined,))


def _can_be_segmented(study: Study) -> bool:
    return study.located and study.readable


def outcomes() -> list[Outcome]:
    """Every outcome."""
    return [
        Outcome("none", reading),
        Outcome("one", lambda study: reading(study, finding(study, 0, (0.55, 0.3, 0.72, 0.45)))),
        Outcome("twelve", _twelve),
        Outcome("overlapping", _overlapping),
        Outcome("border", _border),
        Outcome("without-region", _without_region),
        Outcome("partial-failure", _partial_failure),
        # What does not say which study it is of cannot be received; a report on it would belong to nobody.
        Outcome("total-failure", _total_failure, fits=lambda study: study.name != "uids-empty"),
        Outcome("superseding", lambda study: reading(study, finding(study, 1, (0.1, 0.6, 0.3, 0.9))), superseding=True),
        Outcome("not-assessed", _not_assessed),
        Outcome("asked", _asked),
        Outcome("long-texts", _long_texts),
        Outcome("heat-map", _heat_map),
        Outcome("segments", lambda study: _segmented(study, fractional=False), fits=lambda s: s.located and s.readable),
        Outcome(
            "probabilities", lambda study: _segmented(study, fractional=True), fits=lambda s: s.located and s.readable
        ),
    ]


def run_of(study: Study, outcome: Outcome, profile: Profile) -> Run:
    """The run of an outcome: nothing in it depends on the day or the machine."""
    said = outcome.make(study)
    uids = [ref.sop_instance_uid for ref in study.refs]
    key = run_key("matrix", said.model, [*uids, outcome.name], profile.digest)
    before = None
    if outcome.superseding:
        old = run_key("matrix", replace(said.model, version="1.1.9"), uids, profile.digest)
        comprehensive = {"comprehensive": "1.2.840.10008.5.1.4.1.1.88.33"}
        sop_class = comprehensive.get(profile.sr_class, "1.2.840.10008.5.1.4.1.1.88.34")
        before = Predecessor(
            sop_class, derived_uid(old, "sr", 0), series_uid(old, "sr"), datetime(2026, 2, 1, 12, tzinfo=UTC)
        )
    return Run(key, CREATED, "matrix", said, profile, before)
