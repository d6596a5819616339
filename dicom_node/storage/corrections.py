"""Whether an instance that came again was corrected: the same UID with another patient, geometry or pixels.

A PACS that passes an image on often adds or changes what matters to nobody here (who retrieves it, dates of its own):
such an image is the one that we have. What leads to another reading is what a reading or its results are made of.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from dicom_node.dicom.element_walk import Walk

_MEANS = frozenset(
    {
        *(0x00080050, 0x00080060),  # accession number, modality
        *(0x00100010, 0x00100020, 0x00100021, 0x00100030, 0x00100040),  # the patient's name, ID, issuer, birth, sex
        *(0x00180015, 0x00181164, 0x00185101),  # body part, imager pixel spacing, view position
        *(0x0020000D, 0x0020000E, 0x00200032, 0x00200037, 0x00200052),  # study, series, position, orientation, frame
        *(0x00200060, 0x00200062),  # laterality of the series, of the image
        *(0x00280002, 0x00280004, 0x00280006, 0x00280008, 0x00280010, 0x00280011, 0x00280030, 0x00280034),
        *(0x00280100, 0x00280101, 0x00280102, 0x00280103, 0x00281052, 0x00281053),  # the pixels' form and meaning
    }
)
_LAST_BEFORE_PIXELS = 0x7FDFFFFF
_COMPARED_AT_ONCE = 1024 * 1024


def is_corrected(kept: Path, came: Path, data_set_bytes: tuple[int, int], transfer_syntax_uid: str) -> bool:
    """Whether two files of one instance differ in what a reading or its results are made of.

    ``data_set_bytes`` are the lengths of the two data sets, with which the files end; both are in one transfer syntax.
    Nothing is said of a deflated one, which would have to be inflated: it counts as not corrected.

    Raises:
        ValueError, struct.error: one of the data sets cannot be walked through.
        OSError: a file cannot be read.
    """
    if transfer_syntax_uid == DeflatedExplicitVRLittleEndian:
        return False
    with kept.open("rb") as one, came.open("rb") as other:
        one.seek(-data_set_bytes[0], 2)
        other.seek(-data_set_bytes[1], 2)
        if _meaning(one, transfer_syntax_uid) != _meaning(other, transfer_syntax_uid):
            return True
        while piece := one.read(_COMPARED_AT_ONCE):  # from the pixels to the end
            if other.read(len(piece)) != piece:
                return True
        return bool(other.read(1))


def _meaning(data_set: BinaryIO, transfer_syntax_uid: str) -> dict[int, bytes]:
    """The values that mean something, without their padding; the file stands at the pixels then."""
    implicit, little = transfer_syntax_uid == ImplicitVRLittleEndian, transfer_syntax_uid != ExplicitVRBigEndian
    found = Walk(data_set, implicit=implicit, little=little).wanted(_MEANS, _LAST_BEFORE_PIXELS)
    return {int(tag): (element.value or b"").strip(b" \0") for tag, element in found.items()}
