"""Applies the rules of ``reading.json`` to a series and to an image's header: the reason why it is passed over.

An empty reason means that it fits. Series descriptions are free text and are never quoted. The reasons stand in
results: `dicom_node.results.words.reasons` translates them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from pydicom import uid

from ai.bundle.manifest import InputSpec
from ai.contract import SeriesRef
from ai.images.elements import shown
from ai.images.radiograph import Header

TWICE = "the same instance is in the study twice"
NO_IMAGE = "it is no image"

ADULT = 18  # years

# SOP classes without images that may be in a series of images. Their files need not be opened.
NO_IMAGES = (
    "1.2.840.10008.5.1.4.1.1.11.",  # presentation states
    "1.2.840.10008.5.1.4.1.1.88.",  # structured reports, key objects
    "1.2.840.10008.5.1.4.1.1.104.",  # encapsulated documents
)
_PROJECTIONS = {"PROJECTION IMAGE", "PROJECTION", "MIP", "MINIP", "MIN_IP", "MAXIMUM", "MINIMUM"}


def of_series(spec: InputSpec, one: SeriesRef) -> str:
    """Why a whole series is passed over. Values that the index does not know are left to the headers."""
    reasons = (
        not_among("modality", one.modality, spec.modality) if one.modality else "",
        not_among("body part", one.body_part, spec.body_part) if one.body_part else "",
        _described(spec, one.description) if one.description else "",
    )
    return next((reason for reason in reasons if reason), "")


def of_header(spec: InputSpec, series: SeriesRef, header: Header) -> str:
    """Why an image is passed over, by the rules for single images and for slices."""
    kinds = {part.upper() for part in header.image_type}
    derived = bool(header.image_type) and header.image_type[0].upper() == "DERIVED"
    one_by_one = spec.kind == "image"
    reasons = (
        not_among("modality", header.modality or series.modality, spec.modality),
        not_among("body part", header.body_part or series.body_part, spec.body_part),
        _described(spec, header.description or series.description),
        "" if header.has_pixels else "it has no pixels",
        f"it has {header.frames} frames, the model reads single images" if one_by_one and header.frames != 1 else "",
        "" if header.photometric in ("MONOCHROME1", "MONOCHROME2") else "it is no grey image",
        "it is a localizer" if "LOCALIZER" in kinds else "",
        # Results as pictures, ours and others'. DERIVED alone is not enough: lossy copies of originals are derived too.
        "it is a derived secondary capture"
        if derived and header.sop_class_uid == uid.SecondaryCaptureImageStorage
        else "",
        "it is derived and has annotations burned in" if derived and header.burned_in_annotation == "YES" else "",
        "it is for processing, not for presentation" if header.presentation_intent == "FOR PROCESSING" else "",
        not_among("view", header.view, spec.view) if one_by_one else "",
        _no_adult_frontal_chest(header) if spec.adult_frontal_chest else "",
        "it is a projection through the body, no slice" if not one_by_one and kinds & _PROJECTIONS else "",
    )
    return next((reason for reason in reasons if reason), "")


def _no_adult_frontal_chest(header: Header) -> str:
    """What the header says against a frontal chest radiograph of an adult, beside body part and view."""
    if header.age is not None and header.age < ADULT:
        return f"the patient is under {ADULT}, the model reads adults"
    return "it is a view from the side" if header.from_the_side else ""


def not_among(what: str, value: str, admitted: tuple[str, ...]) -> str:
    """Why a value is not in a list of admitted values, empty if it is. A list without names admits everything."""
    names = ", ".join(text for text in admitted if text.strip())
    if not names or value.strip().casefold() in (text.strip().casefold() for text in admitted):
        return ""
    if not value.strip():
        return f"no {what} is given, and the model takes {names}"
    return f"{what} {shown(value.strip())} is not among {names}"


def matches(value: str, pattern: str) -> bool:
    """Whether a text fits a pattern: ``*`` is any text, ``?`` any character. Upper and lower case are equal."""
    parts = (".*" if each == "*" else "." if each == "?" else re.escape(each) for each in _folded(pattern))
    return re.fullmatch("".join(parts), _folded(value), re.DOTALL) is not None


def first_match(values: Iterable[str], patterns: tuple[str, ...]) -> int | None:
    """The place of the first pattern that one of the values fits. No value counts as an empty text."""
    texts = tuple(values) or ("",)
    return next((at for at, each in enumerate(patterns) if any(matches(text, each) for text in texts)), None)


def _folded(text: str) -> str:
    return text.strip().casefold()


def _described(spec: InputSpec, description: str) -> str:
    if first_match([description], spec.description) is None:
        return "the series description is none that the model takes"
    if first_match([description], spec.not_description) is not None:
        return "the series description is one that the model does not take"
    return ""
