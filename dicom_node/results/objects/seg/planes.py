"""The planes of the source's frames in the patient (PS3.3 C.7.6.2): the source's own numbers, checked, never changed.

Start here for: why a segmentation has no object (:class:`NoPlaneError`), the tolerances for orientation and spacing,
and the order of frames along their normal (:func:`ordered`).

A header is hostile: a position may be missing, not a number, or not a possible position. A plane is accepted if every
reader understands it in the same way. Everything else is refused with a reason that a person can act on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.valuerep import format_number_as_ds

from dicom_node.results.source import Source
from dicom_node.results.source_bytes import frames_of, sequence_items, tag_of, text_of, unsigned_of

_DECIMAL = re.compile(r" *[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)? *")
_UID = re.compile(r"[!-\[\]-~]{1,64}")  # well-formed or not: whatever can stand in a UI value and be compared

_UNIT = 0.01
"""How far direction cosines may be from unit length and from a right angle: sources write them with few digits."""

_PARALLEL = 1e-4
"""How far the direction cosines of two planes may differ: sources round them for each slice anew."""

_SAME = 1e-6
"""How far (relative) the pixel spacings of two planes may differ: less than a micrometre at the edge of an image."""


class NoPlaneError(Exception):
    """A frame has no place in the patient; the message says why, in plain words and without patient data."""


@dataclass(frozen=True, slots=True)
class Decimals:
    """A DS attribute (PS3.5 6.2): its numbers, and its characters as the source wrote them, without padding."""

    keyword: str
    numbers: tuple[float, ...]
    text: str

    def element(self) -> RawDataElement:
        """The attribute with the source's own characters.

        A number longer than the 16 characters of a DS is written anew, with all digits that fit.
        """
        parts = self.text.split("\\")
        if any(len(part) > 16 for part in parts):
            parts = [format_number_as_ds(number) for number in self.numbers]
        value = "\\".join(parts).encode("ascii")
        value += b" " * (len(value) % 2)
        return RawDataElement(tag_of(self.keyword), "DS", len(value), value, 0, False, True)


@dataclass(frozen=True, slots=True, eq=False)
class Plane:
    """One frame of a source in the patient's coordinates (mm, LPS).

    ``frame`` counts from 1 and is None if the source has a single frame. Position, orientation (row cosines, column
    cosines) and spacing (between rows, between columns) are the Image Plane attributes of PS3.3 C.7.6.2.
    """

    source: Source
    frame: int | None
    rows: int
    columns: int
    frame_of_reference: str
    position: Decimals
    orientation: Decimals
    spacing: Decimals
    thickness: Decimals | None

    @property
    def number(self) -> int:
        """The frame number; 1 if the source has a single frame."""
        return self.frame or 1


class Planes:
    """The planes of a reading's sources; each header is parsed once, for all its frames."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = {source.sop_instance_uid: source for source in sources}
        self._groups: dict[str, tuple[list[Dataset], list[Dataset]]] = {}

    def of(self, sop_instance_uid: str, number: int) -> Plane:
        """The plane of frame ``number`` (from 1) of a source.

        Raises:
            NoPlaneError: the header does not say where the frame lies.
            ValueError: there is no such source, or the source has no such frame.
        """
        source = self._sources.get(sop_instance_uid)
        if source is None:
            raise ValueError(f"a segmentation lies on {sop_instance_uid}, which is no source of the reading")
        header = source.header
        shared, per_frame = self._functional_groups(source)
        many = bool(shared or per_frame)
        count = max(len(per_frame), 1) if many else frames_of(header)
        if not 1 <= number <= count:
            raise ValueError(f"a segmentation lies on frame {number} of a source that has frames 1 to {count}")
        if not many and count > 1:
            raise NoPlaneError(f"it has {count} frames and no functional groups that say where each of them lies")
        groups = [*per_frame[number - 1 : number], *shared]
        rows, columns = unsigned_of(header, "Rows"), unsigned_of(header, "Columns")
        if not rows or not columns:
            raise NoPlaneError("the size of its matrix (Rows, Columns) is missing")
        frame_of_reference = text_of(header, "FrameOfReferenceUID")
        if not frame_of_reference:
            raise NoPlaneError("it has no Frame of Reference UID")
        if _UID.fullmatch(frame_of_reference) is None:
            raise NoPlaneError("its Frame of Reference UID is malformed")

        def find(sequence: str, keyword: str) -> Dataset:
            """The data set that has an attribute: the image itself, or the frame's functional group."""
            if not many:
                return header
            items = (item for group in groups for item in sequence_items(group, tag_of(sequence))[:1])
            return next((item for item in items if text_of(item, keyword)), Dataset())

        measures = find("PixelMeasuresSequence", "PixelSpacing")
        plane = Plane(
            source,
            number if many else None,
            rows,
            columns,
            frame_of_reference,
            _decimals(find("PlanePositionSequence", "ImagePositionPatient"), "ImagePositionPatient", 3),
            _decimals(find("PlaneOrientationSequence", "ImageOrientationPatient"), "ImageOrientationPatient", 6),
            _decimals(measures, "PixelSpacing", 2),
            _optional(measures, "SliceThickness"),
        )
        _check(plane)
        return plane

    def _functional_groups(self, source: Source) -> tuple[list[Dataset], list[Dataset]]:
        uid = source.sop_instance_uid
        if uid not in self._groups:
            self._groups[uid] = (
                sequence_items(source.header, tag_of("SharedFunctionalGroupsSequence")),
                sequence_items(source.header, tag_of("PerFrameFunctionalGroupsSequence")),
            )
        return self._groups[uid]


def one_grid(planes: Sequence[Plane]) -> None:
    """Refuse planes that cannot be the frames of one object.

    Raises:
        NoPlaneError: they differ in series, study, matrix, frame of reference, orientation or pixel spacing.
    """
    first = planes[0]
    orientation, spacing = np.array(first.orientation.numbers), np.array(first.spacing.numbers)
    for plane in planes:
        if plane.source.series_instance_uid != first.source.series_instance_uid:
            raise NoPlaneError("its images are of more than one series")
        if plane.source.study_instance_uid != first.source.study_instance_uid:
            raise NoPlaneError("its images are of more than one study")
        if (plane.rows, plane.columns) != (first.rows, first.columns):
            raise NoPlaneError("its images differ in the size of their matrix (Rows, Columns)")
        if plane.frame_of_reference != first.frame_of_reference:
            raise NoPlaneError("its images differ in their Frame of Reference UID")
        if np.abs(np.array(plane.orientation.numbers) - orientation).max() > _PARALLEL:
            raise NoPlaneError("its images are not parallel (Image Orientation (Patient) differs)")
        if np.abs(np.array(plane.spacing.numbers) / spacing - 1).max() > _SAME:
            raise NoPlaneError("its images differ in Pixel Spacing")


def normal(plane: Plane) -> NDArray[np.float64]:
    """The unit normal of a plane: row cosines x column cosines."""
    cosines = np.array(plane.orientation.numbers)
    across = np.cross(cosines[:3], cosines[3:])
    return np.asarray(across / np.linalg.norm(across))


def _decimals(dataset: Dataset, keyword: str, count: int) -> Decimals:
    text = text_of(dataset, keyword)
    if not text:
        raise NoPlaneError(f"its {keyword} is missing")
    parts = text.split("\\")
    if len(parts) != count or any(_DECIMAL.fullmatch(part) is None for part in parts):
        raise NoPlaneError(f"its {keyword} is not {count} numbers")
    numbers = tuple(map(float, parts))
    if not all(abs(number) < 1e6 for number in numbers):
        raise NoPlaneError(f"its {keyword} is beyond every patient")
    return Decimals(keyword, numbers, text)


def _optional(dataset: Dataset, keyword: str) -> Decimals | None:
    """One positive number. None if it is absent or invalid."""
    try:
        found = _decimals(dataset, keyword, 1)
    except NoPlaneError:
        return None
    return found if found.numbers[0] > 0 else None


def _check(plane: Plane) -> None:
    if not min(plane.spacing.numbers) > 1e-6:
        raise NoPlaneError("its PixelSpacing is not positive")
    row, column = np.array(plane.orientation.numbers).reshape(2, 3)
    for off in (np.linalg.norm(row) - 1, np.linalg.norm(column) - 1, row @ column):
        if abs(off) > _UNIT:
            raise NoPlaneError("its ImageOrientationPatient is not two unit vectors at a right angle")


def ordered(planes: Sequence[Plane]) -> Iterator[tuple[int, int]]:
    """The planes along their normal: index into ``planes``, and the ordinal (from 1) of the plane's position.

    Planes at the same position keep the given order and share their ordinal.
    """
    across = normal(planes[0])
    keys = [(round(float(across @ plane.position.numbers), 6), plane.position.numbers) for plane in planes]
    ordinal, before = 0, None
    for index in sorted(range(len(planes)), key=lambda index: keys[index]):
        if keys[index] != before:
            ordinal, before = ordinal + 1, keys[index]
        yield index, ordinal
