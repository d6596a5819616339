"""Pixels of the source images, asked for when an encoder needs them."""

from __future__ import annotations

from functools import lru_cache
from typing import BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from ai.contract import InstanceRef, ReadingError
from dicom_node.results.source_bytes import tag_of

# What results need of a header whose other sequences are nested too deep to be read.
_SEQUENCES = frozenset(
    map(
        tag_of,
        (
            "IssuerOfAccessionNumberSequence",
            "IssuerOfPatientIDQualifiersSequence",
            "ModalityLUTSequence",
            "PerFrameFunctionalGroupsSequence",
            "PixelValueTransformationSequence",
            "ReferencedRequestSequence",
            "RequestAttributesSequence",
            "SharedFunctionalGroupsSequence",
            "VOILUTSequence",
        ),
    )
)
# What a report on an image needs that cannot be read otherwise.
_IDENTITY = frozenset(
    map(
        tag_of,
        (
            "SpecificCharacterSet",
            "SOPClassUID",
            "SOPInstanceUID",
            "StudyDate",
            "StudyTime",
            "AccessionNumber",
            "Modality",
            "TimezoneOffsetFromUTC",
            "ReferringPhysicianName",
            "StudyDescription",
            "PatientName",
            "PatientID",
            "IssuerOfPatientID",
            "PatientBirthDate",
            "PatientSex",
            "PatientAge",
            "BodyPartExamined",
            "StudyInstanceUID",
            "SeriesInstanceUID",
            "StudyID",
            "Rows",
            "Columns",
        ),
    )
)


class Images(Protocol):
    """Where the sources' headers and pictures come from."""

    def header(self, ref: InstanceRef) -> Dataset:
        """The header of an instance, without its pixels."""

    def pixels(self, ref: InstanceRef, frame: int) -> NDArray[np.uint8]:
        """A frame (from 1) as it is displayed: rows x columns of grey, or rows x columns x 3 where it has colours."""


class StoredImages:
    """The files of a reading's sources; each header, and the last few pictures, are read once for all objects."""

    def __init__(self) -> None:
        self._header = lru_cache(maxsize=None)(self._read_header)
        self._pixels = lru_cache(maxsize=4)(self._read_pixels)

    def header(self, ref: InstanceRef) -> Dataset:
        """The header of a stored instance; builders only read it."""
        return self._header(ref)

    def pixels(self, ref: InstanceRef, frame: int) -> NDArray[np.uint8]:
        """A frame of a stored instance; it cannot be written to."""
        return self._pixels(ref, frame)

    @staticmethod
    def _read_header(ref: InstanceRef) -> Dataset:
        from ai.images.content import open_content  # noqa: PLC0415 - as in `_read_pixels`
        from ai.images.elements import read_part10, refuse_bomb  # noqa: PLC0415 - as above

        # pydicom and the walk raise nearly anything on a damaged file, and their messages quote it.
        try:
            with open_content(ref.content) as file:
                refuse_bomb(file)
                try:
                    return read_part10(file, _SEQUENCES, stop_before_pixels=True, force=True)[0]
                except Exception:
                    return _whole_elements(file)
        except Exception as error:
            raise ReadingError(f"the header of instance {ref.sop_instance_uid} cannot be parsed") from error

    @staticmethod
    def _read_pixels(ref: InstanceRef, frame: int) -> NDArray[np.uint8]:
        from ai.images import radiograph  # noqa: PLC0415 (what reads pixels is heavy, and only an encoder needs it)

        pixels = radiograph.load_display(ref.content, frame)
        pixels.flags.writeable = False
        return pixels


def _whole_elements(file: BinaryIO) -> Dataset:
    """Of a header that pydicom cannot read, the elements in front of the place where it is broken.

    They are enough for a report that the image could not be read. An element that is cut off, or longer than what is
    needed can be, is not among them.
    """
    from ai.images.element_walk import LONGEST_VALUE, Walk  # noqa: PLC0415 - as in `_read_pixels`
    from ai.images.elements import file_meta  # noqa: PLC0415 - as above

    syntax = file_meta(file).TransferSyntaxUID
    if syntax == DeflatedExplicitVRLittleEndian:
        raise ValueError("a deflated data set is read as a whole or not at all")
    walk = Walk(file, implicit=syntax == ImplicitVRLittleEndian, little=syntax != ExplicitVRBigEndian)
    found = walk.read(_IDENTITY, max(_IDENTITY), lenient=True)
    header = Dataset({tag: element for tag, element in found.items() if element.length <= LONGEST_VALUE})
    header.set_original_encoding(walk.implicit, walk.little)
    return header
