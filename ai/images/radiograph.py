"""A DICOM file -> a radiograph as a viewer displays it, for a model to read; and the header, for the selection.

What the header says of sides is read here; `ai.anatomy.side` decides the side of a finding.

Stored pixels pass the modality stage (PS3.3 section C.11.1), the VOI stage (C.11.2) and the presentation stage (C.11.6)
and become greys from 0 to 1, where 1 is white. Missing stages are replaced as viewers do: without a VOI stage, the
window comes from the image's own percentiles. Padding is black.

Files are not trusted. Every fault raises a `ReadingError` that says what is wrong and what was expected. It never
quotes element values that can hold patient text, nor messages of the libraries, because those quote such values.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from ai.contract import Content, ReadingError
from ai.images import pixels
from ai.images.elements import frame_count, guarded, open_dataset, text_of, texts_of, whole_of
from ai.images.frames import load_display
from ai.images.grayscale import FORM, PIPELINE, grey_form, grey_of
from ai.images.voi import Grey, Window, as_bytes, render

__all__ = [
    "Header",
    "Radiograph",
    "display_uint8",
    "load_display",
    "load_radiograph",
    "read_header",
]

_ADULT = 18
_DATES = ("PatientBirthDate", "StudyDate")

HEADER = [
    "SOPInstanceUID",
    "SOPClassUID",
    "ImageType",
    "Modality",
    "PresentationIntentType",
    "BodyPartExamined",
    "ViewPosition",
    "SeriesNumber",
    "InstanceNumber",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BurnedInAnnotation",
    "SeriesDescription",
    "PatientOrientation",
    "PatientAge",
    "PatientBirthDate",
    "StudyDate",
]
_IMAGE = [
    *HEADER,
    *FORM,
    *PIPELINE,
    "Laterality",
    "ImageLaterality",
    "PixelSpacing",
    "ImagerPixelSpacing",
    "PixelSpacingCalibrationType",
    "FloatPixelData",
    "DoubleFloatPixelData",
    "PixelData",
]


@dataclass(frozen=True, slots=True)
class Header:
    """The header elements that the selection uses.

    Texts are stripped, and empty if they are missing or unreadable. Missing numbers are 0, except ``frames``, which is
    1, and ``series_number`` and ``instance_number``, which are None. ``age`` is the patient's in years at the study,
    None if it is not told. ``from_the_side`` is true if the rows of the image run from front to back or back to front.
    """

    sop_instance_uid: str
    sop_class_uid: str
    modality: str
    body_part: str
    view: str
    image_type: tuple[str, ...]
    presentation_intent: str
    burned_in_annotation: str
    series_number: int | None
    instance_number: int | None
    frames: int
    photometric: str
    samples_per_pixel: int
    rows: int
    columns: int
    has_pixels: bool
    description: str
    age: float | None = None
    from_the_side: bool = False


@dataclass(frozen=True, slots=True)
class Radiograph:
    """One image, ready for display.

    ``display`` is float32 (rows, columns) from 0 to 1, where 1 is white and bone is white, however the file stores it.
    Spacings are mm between pixel centres. ``spacing_source`` names their attribute, and ``spacing_calibrated`` is true
    if they are valid in the patient and not only at the detector (PS3.3 section 10.7.1).
    ``patient_left_is_right_of_image`` is None if the rows do not run across the patient, or the columns not to the
    feet. ``image_laterality`` is Image Laterality (0020,0062), ``series_laterality`` Laterality (0020,0060). ``voi``
    names the VOI stage: ``"VOI LUT"``, ``"window LINEAR"`` (``LINEAR_EXACT``, ``SIGMOID``) or ``"automatic"``.
    """

    sop_instance_uid: str
    sop_class_uid: str
    rows: int
    columns: int
    display: NDArray[np.float32]
    row_spacing_mm: float | None
    column_spacing_mm: float | None
    spacing_source: str | None
    spacing_calibrated: bool
    patient_left_is_right_of_image: bool | None
    image_laterality: str
    series_laterality: str
    modality: str
    body_part: str
    view: str
    photometric: str
    bits_stored: int
    voi: str
    inverted: bool
    transfer_syntax_uid: str

    @property
    def spacing_mm(self) -> tuple[float, float] | None:
        """The spacing of rows and of columns in mm. None if it is not told."""
        if self.row_spacing_mm is None or self.column_spacing_mm is None:
            return None
        return self.row_spacing_mm, self.column_spacing_mm


def read_header(content: Content) -> Header:
    """Read the header of a file for the selection, without the pixels.

    Raises:
        ReadingError: the file cannot be parsed as DICOM.
    """
    with guarded():
        dataset, has_pixels, _ = open_dataset(content, HEADER, pixels=False)
        return header_of(dataset, has_pixels=has_pixels)


def header_of(dataset: Dataset, *, has_pixels: bool) -> Header:
    """The header of a data set, from the elements in ``HEADER``."""
    return Header(
        sop_instance_uid=text_of(dataset, "SOPInstanceUID"),
        sop_class_uid=text_of(dataset, "SOPClassUID"),
        modality=text_of(dataset, "Modality"),
        body_part=text_of(dataset, "BodyPartExamined"),
        view=text_of(dataset, "ViewPosition"),
        image_type=texts_of(dataset, "ImageType"),
        presentation_intent=text_of(dataset, "PresentationIntentType"),
        burned_in_annotation=text_of(dataset, "BurnedInAnnotation"),
        series_number=whole_of(dataset, "SeriesNumber", lenient=True),
        instance_number=whole_of(dataset, "InstanceNumber", lenient=True),
        frames=frame_count(dataset),
        photometric=text_of(dataset, "PhotometricInterpretation"),
        samples_per_pixel=whole_of(dataset, "SamplesPerPixel", lenient=True) or 0,
        rows=whole_of(dataset, "Rows", lenient=True) or 0,
        columns=whole_of(dataset, "Columns", lenient=True) or 0,
        has_pixels=has_pixels,
        description=text_of(dataset, "SeriesDescription"),
        age=_age(dataset),
        from_the_side=text_of(dataset, "PatientOrientation")[:1].upper() in ("A", "P"),
    )


def load_radiograph(content: Content) -> Radiograph:
    """Read a single-frame grey image as a viewer displays it.

    Raises:
        ReadingError: the file cannot be parsed or decoded, is no single-frame grey image, or contradicts itself.
    """
    with guarded():
        dataset, _, syntax = open_dataset(content, _IMAGE, pixels=True)
        form = grey_form(dataset)
        element = _pixel_element(dataset)
        grey = grey_of(dataset, form, syntax)
        display = render(pixels.words(element.value, str(element.VR), form, syntax), grey)
        spacing, source, calibrated = _spacing(dataset)
        return Radiograph(
            sop_instance_uid=text_of(dataset, "SOPInstanceUID"),
            sop_class_uid=text_of(dataset, "SOPClassUID"),
            rows=form.rows,
            columns=form.columns,
            display=display,
            row_spacing_mm=spacing[0] if spacing else None,
            column_spacing_mm=spacing[1] if spacing else None,
            spacing_source=source,
            spacing_calibrated=calibrated,
            patient_left_is_right_of_image=_left_is_right(dataset),
            image_laterality=text_of(dataset, "ImageLaterality"),
            series_laterality=text_of(dataset, "Laterality"),
            modality=text_of(dataset, "Modality"),
            body_part=text_of(dataset, "BodyPartExamined"),
            view=text_of(dataset, "ViewPosition"),
            photometric=form.photometric,
            bits_stored=form.bits_stored,
            voi=_voi_name(grey),
            inverted=grey.inverse,
            transfer_syntax_uid=str(syntax),
        )


def display_uint8(radiograph: Radiograph) -> NDArray[np.uint8]:
    """The display greys as bytes (rows, columns), where 255 is white."""
    return as_bytes(radiograph.display)


def _age(dataset: Dataset) -> float | None:
    """Years of age from Patient's Age (0010,1010), else from Patient's Birth Date and Study Date. None if untold.

    An age string (PS3.5 section 6.2) is a number of days, weeks, months or years. Some files leave the unit out: only
    a number that cannot be meant otherwise, 18 or more, then counts as years. Some write 0 years for an unknown age, so
    that a birth date counts before it.
    """
    told = re.fullmatch(r"(\d{1,3})([DWMY]?)", text_of(dataset, "PatientAge").upper())
    if told is not None and not (told[2] == "Y" and int(told[1]) == 0):
        number, unit = int(told[1]), told[2]
        if unit:
            return number / {"D": 365.25, "W": 52.18, "M": 12.0, "Y": 1.0}[unit]
        if number >= _ADULT:
            return float(number)
    born, seen = (re.fullmatch(r"(\d{4})(\d{2})(\d{2})", text_of(dataset, key)) for key in _DATES)
    nothing = 0.0 if told is not None and told[2] == "Y" else None  # here the age is untold, or 0 years
    if born is None or seen is None:
        return nothing
    years, months, days = (
        int(later) - int(earlier) for later, earlier in zip(seen.groups(), born.groups(), strict=True)
    )
    age = years - ((months, days) < (0, 0))
    return float(age) if age >= 0 else nothing


def _spacing(dataset: Dataset) -> tuple[tuple[float, float] | None, str | None, bool]:
    at_detector = _pair(dataset, "ImagerPixelSpacing")
    if (spacing := _pair(dataset, "PixelSpacing")) is not None:
        # Equal to the detector's spacing and without a calibration type, it is the detector's (PS3.3 section 10.7.1.3).
        calibrated = "PixelSpacingCalibrationType" in dataset or (at_detector is not None and at_detector != spacing)
        return spacing, "PixelSpacing", calibrated
    return at_detector, "ImagerPixelSpacing" if at_detector else None, False


def _pair(dataset: Dataset, keyword: str) -> tuple[float, float] | None:
    try:
        values = [float(value) for value in dataset.get(keyword) or ()]
    except (TypeError, ValueError):
        return None
    if len(values) != 2 or not all(isfinite(value) and value > 0.0 for value in values):
        return None  # some files write 0 for "unknown"
    return values[0], values[1]


def _left_is_right(dataset: Dataset) -> bool | None:
    """Whether the right edge is the patient's left, from the direction of the rows (PS3.3 section C.7.6.1.1.1).

    None if it is not told, or if the columns do not run to the feet: such a picture is turned, and not as it seems.
    """
    directions = texts_of(dataset, "PatientOrientation")
    if not directions or (len(directions) > 1 and directions[1][:1].upper() not in ("F", "")):
        return None
    return {"L": True, "R": False}.get(directions[0][:1].upper())


def _pixel_element(dataset: Dataset) -> Any:
    if "PixelData" not in dataset:
        if "FloatPixelData" in dataset or "DoubleFloatPixelData" in dataset:
            raise ReadingError("the pixels are floating point; integer PixelData was expected")
        raise ReadingError("the file has no PixelData")
    element = dataset["PixelData"]
    if not element.value or not isinstance(element.value, bytes):
        raise ReadingError("PixelData is empty")
    return element


def _voi_name(grey: Grey) -> str:
    if isinstance(grey.voi, Window):
        return f"window {grey.voi.function}"
    return "automatic" if grey.voi is None else "VOI LUT"
