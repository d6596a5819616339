"""Which instances of a study a model reads, by headers alone, and why it passes over the others."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from pydicom import uid

from ai._dicom import shown
from ai.contract import InstanceRef, PassedOver, ReadingError, Selection, SeriesRef
from ai.images import Header, read_header
from ai.manifest import InputSpec

_SECONDARY_CAPTURE = uid.SecondaryCaptureImageStorage
# SOP classes that may lie in a series of radiographs and hold no radiograph even though they cannot be opened.
_NO_IMAGE = (
    "1.2.840.10008.5.1.4.1.1.11.",  # presentation states
    "1.2.840.10008.5.1.4.1.1.88.",  # structured reports, key objects
    "1.2.840.10008.5.1.4.1.1.104.",  # encapsulated documents
)

_Order = tuple[float, str, float, str]


def select(spec: InputSpec, series: Sequence[SeriesRef]) -> Selection:
    """Choose what ``spec`` takes, in reading order: by series number, then instance number.

    A series of the wrong modality or body part is one entry of ``passed_over`` and no file of it is opened; else each
    instance is judged by its own header. A file whose header cannot be read is chosen: it may be the very image that
    was asked for, and reading it then fails visibly, while passing it over would leave a study half read.
    """
    passed: list[PassedOver] = []
    eligible: list[tuple[_Order, InstanceRef]] = []
    seen: set[str] = set()
    for one in series:
        if reason := _of_series(spec, one):
            passed.append(PassedOver(one.series_instance_uid, reason))
            continue
        for instance in one.instances:
            order, reason = _judge(spec, one, instance)
            if instance.sop_instance_uid in seen:
                reason = "the same instance is in the study twice"
            seen.add(instance.sop_instance_uid)
            if reason:
                passed.append(PassedOver(instance.sop_instance_uid, reason))
            else:
                eligible.append((order, instance))
    eligible.sort(key=lambda entry: entry[0])
    chosen = tuple(instance for _, instance in eligible)
    surplus = f"the model reads at most {spec.max_images} image{'s' if spec.max_images > 1 else ''} of a study"
    left = tuple(PassedOver(instance.sop_instance_uid, surplus) for instance in chosen[spec.max_images :])
    return Selection(chosen[: spec.max_images], tuple(passed), left)


def _judge(spec: InputSpec, series: SeriesRef, instance: InstanceRef) -> tuple[_Order, str]:
    """Where the instance stands in the reading order, and why it is passed over (empty: it is not)."""
    last = (inf, series.series_instance_uid, inf, instance.sop_instance_uid)
    if instance.sop_class_uid.startswith(_NO_IMAGE):
        return last, "it is no image"
    try:
        header = read_header(instance.path)
    except ReadingError:
        return last, ""
    order = (
        inf if header.series_number is None else header.series_number,
        series.series_instance_uid,
        inf if header.instance_number is None else header.instance_number,
        instance.sop_instance_uid,
    )
    return order, _of_header(spec, series, header)


def _of_series(spec: InputSpec, series: SeriesRef) -> str:
    """Why a whole series is passed over; what the index does not know is left to the headers."""
    if series.modality and (reason := _not_among("modality", series.modality, spec.modality)):
        return reason
    return _not_among("body part", series.body_part, spec.body_part) if series.body_part else ""


def _of_header(spec: InputSpec, series: SeriesRef, header: Header) -> str:
    derived = bool(header.image_type) and header.image_type[0].upper() == "DERIVED"
    reasons = (
        _not_among("modality", header.modality or series.modality, spec.modality),
        _not_among("body part", header.body_part or series.body_part, spec.body_part),
        "" if header.has_pixels else "it has no pixels",
        f"it has {header.frames} frames, the model reads single images" if header.frames != 1 else "",
        "" if header.photometric in ("MONOCHROME1", "MONOCHROME2") else "it is no grey image",
        "it is a localizer" if "LOCALIZER" in (part.upper() for part in header.image_type) else "",
        # Results as pictures, ours and others'. DERIVED alone does not tell: lossy copies of originals are derived too.
        "it is a derived secondary capture" if derived and header.sop_class_uid == _SECONDARY_CAPTURE else "",
        "it is derived and has annotations burned in" if derived and header.burned_in_annotation == "YES" else "",
        "it is for processing, not for presentation" if header.presentation_intent == "FOR PROCESSING" else "",
        _not_among("view", header.view, spec.view),
    )
    return next((reason for reason in reasons if reason), "")


def _not_among(what: str, value: str, admitted: tuple[str, ...]) -> str:
    if value.strip().casefold() in (text.strip().casefold() for text in admitted):
        return ""
    names = ", ".join(text for text in admitted if text)
    if not value.strip():
        return f"no {what} is given, and the model takes {names}"
    return f"{what} {shown(value.strip())} is not among {names}"
