"""A DICOM file -> what a radiologist sees: single-frame radiographs as they are really stored.

Stored pixels go through the modality stage (PS3.3 C.11.1), the VOI stage (C.11.2) and the presentation stage (C.11.6)
to a grey between 0 and 1 where 1 is white. What the file leaves open is filled as viewers do it: no VOI stage gives a
window from the image's own percentiles, and padding is black.

A file comes from a stranger. Whatever pydicom or a codec makes of it is a `ReadingError` that says what is wrong and
what was expected; element values that can hold patient text are never repeated, and neither are messages of the
libraries, because those repeat them.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import uid
from pydicom.dataset import Dataset

from ai import _pixels
from ai._dicom import frame_count, guarded, number_of, open_dataset, or_missing, shown, text_of, texts_of, whole_of
from ai._voi import Depth, Grey, Lut, VoiFunction, Window, render
from ai.contract import Code, ReadingError

LEFT = Code("7771000", "SCT", "Left")
RIGHT = Code("24028007", "SCT", "Right")

_MIDLINE = 0.02

_HEADER = [
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
]
_IMAGE = [
    *_HEADER,
    "PatientOrientation",
    "Laterality",
    "ImageLaterality",
    "PixelSpacing",
    "ImagerPixelSpacing",
    "PixelSpacingCalibrationType",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "RescaleSlope",
    "RescaleIntercept",
    "ModalityLUTSequence",
    "VOILUTSequence",
    "LUTDescriptor",
    "LUTData",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    "PresentationLUTShape",
    "FloatPixelData",
    "DoubleFloatPixelData",
    "PixelData",
]


@dataclass(frozen=True, slots=True)
class Header:
    """What a model is chosen by; texts are stripped, and empty where the file has none or what cannot be read.

    ``frames`` is 1 where the file does not say; numbers are 0 and ``series_number`` and ``instance_number`` absent
    where the file has none.
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


@dataclass(frozen=True, slots=True)
class Radiograph:
    """One image, ready to look at.

    ``display`` is float32, rows x columns, in 0..1, and larger is whiter on the screen of a radiologist: bone is white
    however the file stores it. Spacings are in mm between centres; ``spacing_source`` names the attribute, and
    ``spacing_calibrated`` is true where the spacing holds in the patient and not merely at the detector (PS3.3
    10.7.1). ``patient_left_is_right_of_image`` is absent where the rows do not run across the patient. ``voi`` says
    what made the contrast: ``"VOI LUT"``, ``"window LINEAR"`` (``LINEAR_EXACT``, ``SIGMOID``) or ``"automatic"``.
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
    modality: str
    body_part: str
    view: str
    photometric: str
    bits_stored: int
    voi: str
    inverted: bool
    transfer_syntax_uid: str


def read_header(path: str | Path) -> Header:
    """Read what a selection needs, without the pixels.

    Raises:
        ReadingError: the file is no DICOM file that can be parsed.
    """
    with guarded():
        dataset, has_pixels, _ = open_dataset(Path(path), _HEADER, pixels=False)
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
        )


def load_radiograph(path: str | Path) -> Radiograph:
    """Read one single-frame grey image as a radiologist sees it.

    Raises:
        ReadingError: the file cannot be parsed or decoded, is no single-frame grey image, or contradicts itself.
    """
    with guarded():
        dataset, _, syntax = open_dataset(Path(path), _IMAGE, pixels=True)
        form = _form(dataset)
        element = _pixel_element(dataset)
        grey = _grey(dataset, form, syntax)
        display = render(_pixels.words(element.value, str(element.VR), form, syntax), grey)
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
            image_laterality=text_of(dataset, "ImageLaterality") or text_of(dataset, "Laterality"),
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
    """The display greys as bytes (rows x columns), 255 is white."""
    return np.asarray(np.rint(radiograph.display * np.float32(255.0)), dtype=np.uint8)


def laterality(radiograph: Radiograph, column: float) -> Code | None:
    """The patient's side of a column (in pixel edges), or None where the image does not tell it.

    It is told by the half of the image, given that the rows run across the patient (Patient Orientation, PS3.3
    C.7.6.1.1.1). Nothing is told close to the middle, nor where the image is declared to show one side only
    (Image Laterality, Laterality) and the half says the other: a wrong side does more harm than none.
    """
    if radiograph.patient_left_is_right_of_image is None:
        return None
    from_middle = column / radiograph.columns - 0.5
    if abs(from_middle) <= _MIDLINE:
        return None
    side = LEFT if (from_middle > 0) == radiograph.patient_left_is_right_of_image else RIGHT
    declared = {"L": LEFT, "R": RIGHT}.get(radiograph.image_laterality.upper())
    return side if declared in (None, side) else None


def _form(dataset: Dataset) -> _pixels.Form:
    """Check the Image Pixel attributes."""
    photometric = text_of(dataset, "PhotometricInterpretation")
    if photometric not in ("MONOCHROME1", "MONOCHROME2"):
        named = photometric if photometric == "PALETTE COLOR" else shown(photometric)
        raise ReadingError(f"PhotometricInterpretation is {named}; MONOCHROME1 or MONOCHROME2 was expected")
    if (samples := whole_of(dataset, "SamplesPerPixel")) != 1:
        raise ReadingError(f"SamplesPerPixel is {or_missing(samples)}; 1 was expected")
    if (frames := frame_count(dataset)) != 1:
        raise ReadingError(f"NumberOfFrames is {frames}; a single-frame image was expected")
    rows, columns = (whole_of(dataset, keyword) or 0 for keyword in ("Rows", "Columns"))
    if rows < 1 or columns < 1 or rows * columns > _pixels.MAX_PIXELS:
        raise ReadingError(f"Rows x Columns is {rows} x {columns}; 1 to {_pixels.MAX_PIXELS} pixels were expected")
    allocated = whole_of(dataset, "BitsAllocated")
    if allocated not in (1, 8, 16, 32):
        raise ReadingError(f"BitsAllocated is {or_missing(allocated)}; 1, 8, 16 or 32 was expected")
    stored = whole_of(dataset, "BitsStored")
    if stored is None or not 1 <= stored <= allocated:
        raise ReadingError(f"BitsStored is {or_missing(stored)}; 1 to {allocated} was expected")
    # Some files have none; the standard then leaves one possibility (PS3.5 8.1.1).
    high = whole_of(dataset, "HighBit")
    high = stored - 1 if high is None else high
    if not stored - 1 <= high < allocated:
        raise ReadingError(f"HighBit is {high}; {stored - 1} was expected for {stored} bits stored")
    representation = whole_of(dataset, "PixelRepresentation")
    if representation not in (None, 0, 1):
        raise ReadingError(f"PixelRepresentation is {representation}; 0 or 1 was expected")
    return _pixels.Form(rows, columns, allocated, stored, high, representation == 1, photometric)


def _pixel_element(dataset: Dataset) -> Any:
    if "PixelData" not in dataset:
        if "FloatPixelData" in dataset or "DoubleFloatPixelData" in dataset:
            raise ReadingError("the pixels are floating point; integer PixelData was expected")
        raise ReadingError("the file has no PixelData")
    element = dataset["PixelData"]
    if not element.value or not isinstance(element.value, bytes):
        raise ReadingError("PixelData is empty")
    return element


def _grey(dataset: Dataset, form: _pixels.Form, syntax: uid.UID) -> Grey:
    lossy = _pixels.is_lossy(syntax)
    depth = Depth(
        allocated=form.bits_allocated,
        stored=form.bits_stored,
        # A codec puts the pixel to the right of its word, whatever the header of the uncompressed image said.
        high=form.bits_stored - 1 if syntax.is_encapsulated and syntax != uid.RLELossless else form.high_bit,
        signed=form.signed,
        exact=not lossy,
    )
    modality = _modality(dataset, depth, little=bool(syntax.is_little_endian))
    grey = Grey(depth, modality, None, inverse=_inverse(dataset, form), padding=_padding(dataset, depth))
    lowest = float(grey.modality_values(np.array(depth.range, dtype=np.int64)).min())
    voi = _voi(dataset, signed=lowest < 0, little=bool(syntax.is_little_endian))
    return Grey(depth, modality, voi, grey.inverse, grey.padding)


def _inverse(dataset: Dataset, form: _pixels.Form) -> bool:
    """Whether the lowest value is white.

    Presentation LUT Shape says how the output becomes P-values, and MONOCHROME1 says the same thing once more: a shape
    of INVERSE goes with it (PS3.3 C.8.11.3, C.11.6.1), so the two are one inversion, never two. Where they disagree
    the shape holds, as in DCMTK and dcm4che.
    """
    shape = text_of(dataset, "PresentationLUTShape").upper()
    if shape in ("IDENTITY", "INVERSE"):
        return shape == "INVERSE"
    return form.photometric == "MONOCHROME1"


def _modality(dataset: Dataset, depth: Depth, *, little: bool) -> Lut | tuple[float, float]:
    if (item := _first_item(dataset, "ModalityLUTSequence")) is not None:
        return _lut(item, "ModalityLUTSequence", signed=depth.signed, little=little)
    slope, intercept = (number_of(dataset, keyword) for keyword in ("RescaleSlope", "RescaleIntercept"))
    slope = 1.0 if slope is None else slope
    if slope == 0.0:
        raise ReadingError("RescaleSlope is 0; another number was expected")
    return slope, intercept or 0.0


def _voi(dataset: Dataset, *, signed: bool, little: bool) -> Lut | Window | None:
    """The first table, else the first window: the first is the one that the device means by default."""
    if (item := _first_item(dataset, "VOILUTSequence")) is not None:
        return _lut(item, "VOILUTSequence", signed=signed, little=little)
    center, width = (number_of(dataset, keyword) for keyword in ("WindowCenter", "WindowWidth"))
    if center is None or width is None:
        return None
    name = text_of(dataset, "VOILUTFunction").upper() or VoiFunction.LINEAR.value
    if name not in VoiFunction.__members__:
        raise ReadingError(f"VOILUTFunction is {shown(name)}; {', '.join(VoiFunction)} was expected")
    function = VoiFunction(name)
    if width <= 0.0 or (function is VoiFunction.LINEAR and width < 1.0):
        expected = "at least 1" if function is VoiFunction.LINEAR else "more than 0"
        raise ReadingError(f"WindowWidth is {width:g}; {expected} was expected")
    return Window(center, width, function)


def _voi_name(grey: Grey) -> str:
    if isinstance(grey.voi, Window):
        return f"window {grey.voi.function}"
    return "automatic" if grey.voi is None else "VOI LUT"


def _lut(item: Dataset, where: str, *, signed: bool, little: bool) -> Lut:
    """A table of PS3.3 C.11.1.1.1 or C.11.2.1.1; ``signed`` says whether its input can be negative."""
    descriptor = [int(value) for value in item.LUTDescriptor]
    if len(descriptor) != 3:
        raise ReadingError(f"{where}: LUTDescriptor has {len(descriptor)} values, 3 were expected")
    count, first, bits = (descriptor[0] & 0xFFFF) or 1 << 16, descriptor[1], descriptor[2]
    if not 8 <= bits <= 16:
        raise ReadingError(f"{where}: LUTDescriptor says {bits} bits an entry, 8 to 16 were expected")
    # The VR of the descriptor, US or SS, is guessed by many writers.
    first = first - (1 << 16) if signed and first > 0x7FFF else first + (1 << 16) if not signed and first < 0 else first
    data = item.LUTData
    if isinstance(data, bytes):
        # 8-bit entries may lie one to a byte (PS3.3 C.11.1.1.1).
        width = 2 if len(data) >= 2 * count else 1
        entries = np.frombuffer(data, dtype=f"{'<' if little else '>'}u{width}").astype(np.float64)
    else:
        entries = np.atleast_1d(np.asarray(data, dtype=np.float64))
    if len(entries) < count or (isinstance(data, bytes) and width == 1 and bits > 8):
        raise ReadingError(f"{where}: LUTData has too few entries, {count} were expected")
    entries = entries[:count]
    return Lut(first, entries, top=max(float((1 << bits) - 1), float(entries.max())))


def _padding(dataset: Dataset, depth: Depth) -> tuple[int, int] | None:
    value = whole_of(dataset, "PixelPaddingValue", lenient=True)
    if value is None:
        return None
    limit = whole_of(dataset, "PixelPaddingRangeLimit", lenient=True)
    ends = sorted(_as_stored(end, depth) for end in (value, value if limit is None else limit))
    return ends[0], ends[1]


def _as_stored(value: int, depth: Depth) -> int:
    """A value of VR US or SS, which writers confuse, with the sign that the pixels have."""
    size = 1 << depth.allocated
    if depth.signed and value >= size // 2:
        return value - size
    return value + size if value < 0 and not depth.signed else value


def _spacing(dataset: Dataset) -> tuple[tuple[float, float] | None, str | None, bool]:
    at_detector = _pair(dataset, "ImagerPixelSpacing")
    if (spacing := _pair(dataset, "PixelSpacing")) is not None:
        # Equal to the detector's, and with no word of a calibration, it is the detector's (PS3.3 10.7.1.3).
        calibrated = "PixelSpacingCalibrationType" in dataset or (at_detector is not None and at_detector != spacing)
        return spacing, "PixelSpacing", calibrated
    return at_detector, "ImagerPixelSpacing" if at_detector else None, False


def _pair(dataset: Dataset, keyword: str) -> tuple[float, float] | None:
    try:
        values = [float(value) for value in dataset.get(keyword) or ()]
    except (TypeError, ValueError):
        return None
    if len(values) != 2 or not all(isfinite(value) and value > 0.0 for value in values):
        return None  # zeros stand for "unknown" in real files
    return values[0], values[1]


def _left_is_right(dataset: Dataset) -> bool | None:
    """The patient's side at the right edge, by the direction of the rows (PS3.3 C.7.6.1.1.1)."""
    directions = texts_of(dataset, "PatientOrientation")
    return {"L": True, "R": False}.get(directions[0][:1].upper()) if directions else None


def _first_item(dataset: Dataset, keyword: str) -> Dataset | None:
    items = dataset.get(keyword)
    return items[0] if items else None
