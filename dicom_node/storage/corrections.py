"""Decides whether a repeated instance is a correction: the same SOP Instance UID with other content that matters.

A PACS that forwards an image often adds or changes attributes that no reading uses (who retrieves it, its own dates).
Such a copy is a repetition. It is a correction if the patient, the study or series, the geometry or the pixels differ:
what a reading or its result objects are made of.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import BinaryIO

from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from ai.images.element_walk import Walk


class Correction(StrEnum):
    """What a corrected instance differs in; it decides why the results of the former one are withdrawn."""

    SAFETY = "safety"  # patient, side or pixels: what the former one said may be of somebody else, or of the other side
    OTHER = "other"


# The patient's name, ID, issuer of it, birth date, sex and age: a model may read adults alone.
_PATIENT = frozenset({0x00100010, 0x00100020, 0x00100021, 0x00100030, 0x00100040, 0x00101010})
# Which side is which: view position, patient orientation, image orientation, laterality of the series and of the image.
_SIDE = frozenset({0x00185101, 0x00200020, 0x00200037, 0x00200060, 0x00200062})
# Size and format of the pixels: other numbers of them, or another meaning of their values.
_PIXELS = frozenset(
    {
        *(0x00280002, 0x00280004, 0x00280006, 0x00280008, 0x00280010, 0x00280011),
        *(0x00280100, 0x00280101, 0x00280102, 0x00280103, 0x00281052, 0x00281053),
    }
)
_SAFETY_TAGS = _PATIENT | _SIDE | _PIXELS
_COMPARED_TAGS = _SAFETY_TAGS | {
    *(0x00080050, 0x00080060),  # accession number, modality
    *(0x00180015, 0x00181164),  # body part, imager pixel spacing
    *(0x0020000D, 0x0020000E, 0x00200032, 0x00200052),  # study, series, position, frame of reference
    *(0x00280030, 0x00280034, 0x00280A02),  # pixel spacing, aspect ratio and how the spacing was calibrated
}
_LAST_BEFORE_PIXELS = 0x7FDFFFFF  # the pixels begin with group 7FE0
_COMPARED_AT_ONCE = 1024 * 1024  # bytes


def correction(kept: Path, came: Path, data_set_bytes: tuple[int, int], transfer_syntax_uid: str) -> Correction | None:
    """What two files of one instance differ in that a reading or its results use: attributes, or the pixels.

    Args:
        kept: the file that is stored.
        came: the file that was received now.
        data_set_bytes: lengths of the two data sets, with which the files end.
        transfer_syntax_uid: the transfer syntax of both data sets.

    Returns:
        None if they do not differ in it; None for a deflated transfer syntax, too: such data sets are not inflated
        here, and so not compared.

    Raises:
        ValueError, struct.error: a data set cannot be parsed.
        OSError: a file cannot be read.
    """
    if transfer_syntax_uid == DeflatedExplicitVRLittleEndian:
        return None
    with kept.open("rb") as one, came.open("rb") as other:
        one.seek(-data_set_bytes[0], 2)
        other.seek(-data_set_bytes[1], 2)
        before, after = _compared_values(one, transfer_syntax_uid), _compared_values(other, transfer_syntax_uid)
        differing = {tag for tag in before.keys() | after.keys() if before.get(tag) != after.get(tag)}
        if differing & _SAFETY_TAGS or _differs(one, other):
            return Correction.SAFETY
    return Correction.OTHER if differing else None


def _differs(one: BinaryIO, other: BinaryIO) -> bool:
    """Whether two files differ from here to their ends: in the pixels, and in what stands behind them."""
    while piece := one.read(_COMPARED_AT_ONCE):
        if other.read(len(piece)) != piece:
            return True
    return bool(other.read(1))


def _compared_values(data_set: BinaryIO, transfer_syntax_uid: str) -> dict[int, bytes]:
    """The compared attributes by tag, without padding. Leaves the file at the first element behind them: the pixels."""
    implicit, little = transfer_syntax_uid == ImplicitVRLittleEndian, transfer_syntax_uid != ExplicitVRBigEndian
    found = Walk(data_set, implicit=implicit, little=little).read(_COMPARED_TAGS, _LAST_BEFORE_PIXELS)
    return {int(tag): (element.value or b"").strip(b" \0") for tag, element in found.items()}
