"""Reads the place in the patient of each frame of an image from its header. Pixels are not read.

A single-frame image has it in the Image Plane Module (PS3.3 section C.7.6.2), an enhanced image in its functional
groups (C.7.6.16), where the frame's own group precedes the shared group.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import isfinite, sqrt

from pydicom.dataset import Dataset

from ai.contract import InstanceRef, ReadingError
from ai.images.elements import frame_count, guarded, open_dataset, text_of, texts_of, whole_of
from ai.images.radiograph import HEADER, Header, header_of

Numbers = tuple[float, ...]

_FAR = 1e6
_UNIT = 0.01
_ENHANCED = ["SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"]

# What can distinguish images at the same place, the usual first: attributes of the image, and those of a frame.
_APART: dict[str, tuple[tuple[str, ...], tuple[tuple[str, str], ...]]] = {
    "acquisition": (("AcquisitionNumber",), (("FrameContentSequence", "FrameAcquisitionNumber"),)),
    "time point": (("TemporalPositionIdentifier",), (("FrameContentSequence", "TemporalPositionIndex"),)),
    "stack": ((), (("FrameContentSequence", "StackID"),)),
    "kind": (
        ("ImageType",),
        (
            ("CTImageFrameTypeSequence", "FrameType"),
            ("MRImageFrameTypeSequence", "FrameType"),
            ("MRImageFrameTypeSequence", "ComplexImageComponent"),
            ("PETFrameTypeSequence", "FrameType"),
        ),
    ),
    "echo": (("EchoNumbers", "EchoTime"), (("MREchoSequence", "EffectiveEchoTime"),)),
    "b-value": (("DiffusionBValue",), (("MRDiffusionSequence", "DiffusionBValue"),)),
    "kernel": (("ConvolutionKernel",), (("CTReconstructionSequence", "ConvolutionKernel"),)),
    "thickness": (("SliceThickness",), (("PixelMeasuresSequence", "SliceThickness"),)),
    "energy": (("KVP",), (("CTXRayDetailsSequence", "KVP"),)),
    "trigger": (
        ("TriggerTime",),
        (("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime"),),
    ),
    "time": (("AcquisitionDate", "AcquisitionTime"), (("FrameContentSequence", "FrameAcquisitionDateTime"),)),
}
APART = tuple(_APART)
"""The names of ``Slice.apart``."""

_PLANE = ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"]
_KEYWORDS = list(
    dict.fromkeys(
        [
            *HEADER,
            *_PLANE,
            *_ENHANCED,
            *(keyword for keywords, _ in _APART.values() for keyword in keywords),
            "FrameOfReferenceUID",
            "ContrastBolusAgent",
            "ContrastBolusAgentSequence",
            "AcquisitionDateTime",
            "ContentDate",
            "ContentTime",
        ]
    )
)


@dataclass(frozen=True, slots=True, eq=False)
class Slice:
    """A frame (from 1) of an instance, and its place in the patient (mm, LPS).

    ``position`` (3,) is the centre of its first pixel, ``orientation`` (6,) the cosines of a row and of a column,
    ``spacing`` (2,) the distance between rows and between columns. ``thickness`` is None if it is not given. ``apart``
    holds a value for each name in `APART`, empty if there is none.
    """

    instance: InstanceRef
    frame: int
    rows: int
    columns: int
    position: Numbers
    orientation: Numbers
    spacing: Numbers
    frame_of_reference: str
    thickness: float | None
    apart: tuple[str, ...]
    kernel: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Sheet:
    """An image with its frames. If a frame has no place, ``slices`` is empty and ``placeless`` says why.

    ``contrast`` says whether a contrast agent is named. ``acquired`` is the time of acquisition, as
    YYYYMMDDHHMMSS.FFFFFF or a beginning of that.
    """

    instance: InstanceRef
    header: Header
    contrast: bool
    acquired: str
    slices: tuple[Slice, ...]
    placeless: str = ""


def read_sheet(instance: InstanceRef) -> Sheet:
    """Read the header of an image.

    Raises:
        ReadingError: the file cannot be parsed as DICOM, or holds another instance.
    """
    with guarded():
        dataset, has_pixels, _ = open_dataset(instance.content, _KEYWORDS, pixels=False)
        header = header_of(dataset, has_pixels=has_pixels)
        if header.sop_instance_uid != instance.sop_instance_uid:
            raise ReadingError("the file holds another instance than the one that was stored under its name")
        agent = text_of(dataset, "ContrastBolusAgent")
        contrast = agent.casefold() not in ("", "no", "none") or bool(dataset.get("ContrastBolusAgentSequence"))
        slices: tuple[Slice, ...] = ()
        placeless = ""
        try:
            slices = _slices(dataset, instance)
        except ReadingError as error:
            placeless = str(error)
        return Sheet(instance, header, contrast, _acquired(dataset), slices, placeless)


def _slices(dataset: Dataset, instance: InstanceRef) -> tuple[Slice, ...]:
    frames = frame_count(dataset)
    shared, each = ([*(dataset.get(keyword) or [])] for keyword in _ENHANCED)
    if frames > 1 and len(each) < frames:
        raise ReadingError(f"it has {frames} frames and does not say where each of them lies")
    return tuple(
        _slice(dataset, [*each[number - 1 : number], *shared[:1]], instance, number) for number in range(1, frames + 1)
    )


def _slice(dataset: Dataset, groups: list[Dataset], instance: InstanceRef, frame: int) -> Slice:
    def holder(sequence: str, keyword: str) -> Dataset:
        """The data set with an attribute: the image, or the first functional group that has it."""
        if not groups:
            return dataset
        items = (group.get(sequence) or [] for group in groups)
        return next((found[0] for found in items if found and keyword in found[0]), Dataset())

    rows, columns = (whole_of(dataset, keyword) or 0 for keyword in ("Rows", "Columns"))
    if rows < 1 or columns < 1:
        raise ReadingError("the size of its matrix (Rows, Columns) is missing")
    orientation = _numbers(holder("PlaneOrientationSequence", "ImageOrientationPatient"), "ImageOrientationPatient", 6)
    row, column = orientation[:3], orientation[3:]
    off = (_dot(row, row) - 1, _dot(column, column) - 1, _dot(row, column))
    if max(map(abs, off)) > 2 * _UNIT:
        raise ReadingError("its ImageOrientationPatient is not two unit vectors at a right angle")
    row = tuple(value / sqrt(_dot(row, row)) for value in row)
    column = tuple(value / sqrt(_dot(column, column)) for value in column)
    measures = holder("PixelMeasuresSequence", "PixelSpacing")
    spacing = _numbers(measures, "PixelSpacing", 2)
    if min(spacing) <= 1e-6:
        raise ReadingError("its PixelSpacing is not positive")
    thicknesses = texts_of(holder("PixelMeasuresSequence", "SliceThickness"), "SliceThickness")
    return Slice(
        instance,
        frame,
        rows,
        columns,
        _numbers(holder("PlanePositionSequence", "ImagePositionPatient"), "ImagePositionPatient", 3),
        (*row, *column),
        spacing,
        text_of(dataset, "FrameOfReferenceUID"),
        _positive(thicknesses),
        tuple(_apart(dataset, groups, *where) for where in _APART.values()),
        texts_of(holder("CTReconstructionSequence", "ConvolutionKernel"), "ConvolutionKernel"),
    )


def _apart(dataset: Dataset, groups: list[Dataset], keywords: Iterable[str], places: Iterable[tuple[str, str]]) -> str:
    texts = [text for keyword in keywords for text in texts_of(dataset, keyword)]
    for sequence, keyword in places if groups else ():
        for group in groups:
            if items := group.get(sequence):
                texts += texts_of(items[0], keyword)
                break
    return "\\".join(texts)


def _numbers(dataset: Dataset, keyword: str, count: int) -> Numbers:
    texts = texts_of(dataset, keyword)
    if not texts:
        raise ReadingError(f"its {keyword} is missing")
    try:
        numbers = tuple(float(text) for text in texts)
    except ValueError:
        numbers = ()
    if len(numbers) != count:
        raise ReadingError(f"its {keyword} is not {count} numbers")
    if not all(isfinite(number) and abs(number) < _FAR for number in numbers):
        raise ReadingError(f"its {keyword} is beyond every patient")
    return numbers


def _positive(texts: tuple[str, ...]) -> float | None:
    try:
        number = float(texts[0]) if texts else 0.0
    except ValueError:
        return None
    return number if isfinite(number) and number > 0.0 else None


def _dot(one: Numbers, other: Numbers) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


def _acquired(dataset: Dataset) -> str:
    """The time of acquisition without time zone, from the most specific attribute."""
    whole = text_of(dataset, "AcquisitionDateTime").split("+")[0].split("-")[0]
    if whole:
        return whole
    for kind in ("Acquisition", "Content"):
        if date := text_of(dataset, f"{kind}Date"):
            return date.replace(".", "") + text_of(dataset, f"{kind}Time").replace(":", "")
    return ""
