"""A source of a reading: what a result object copies from it, the checks against it, and the stand-in for highdicom.

Start here for: why a reading is refused (:func:`check_patient`, :func:`check_findings`), where a box is cut at the
image's border (:func:`on_image`), and what highdicom is given in place of a hospital's image (:class:`Source`).

Hospital images break the standard in every way: missing type 2 attributes, dates that are not dates, names in another
character set than the one declared. None of this may stop a result, be corrected silently, or reach a log. So
attributes are copied as the bytes that the modality wrote (:mod:`source_bytes`), never decoded and never validated, and
what the node itself needs to know of a source is read as plain characters.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pydicom.dataset import Dataset
from pydicom.uid import SecondaryCaptureImageStorage

from ai.contract import Finding, InstanceRef, ReadingError, Region
from dicom_node.results.source_bytes import frames_of, text_of, unsigned_of

_NAMESPACE = uuid.UUID("a3f2c7d8-4a51-5c0e-8e7b-0d5f9b7c2e14")


@dataclass(frozen=True, slots=True)
class Source:
    """An image that was read: its ``header`` as it came, its UIDs as plain text, and its ``stand_in`` for highdicom.

    highdicom validates, decodes and copies whatever data set it is given. A source that breaks the standard would make
    it raise, or log patient data. So it is given the stand-in, which has an empty patient and well-formed UIDs of our
    own. :func:`encode.finish` replaces them by the source's, byte for byte.
    """

    header: Dataset
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    study_instance_uid: str
    stand_in: Dataset


def read_sources(refs: Sequence[InstanceRef], headers: Sequence[Dataset]) -> tuple[Source, ...]:
    """The sources of a reading; ``headers`` are in the order of ``refs``.

    Raises:
        ReadingError: the headers are not all of one patient.
        ValueError: the headers are not those of the reading's sources.
    """
    check_patient(headers)
    if not refs or len(refs) != len(headers):
        raise ValueError(f"a reading of {len(refs)} images cannot be encoded from {len(headers)} headers")
    return tuple(read_source(header, ref) for header, ref in zip(headers, refs, strict=True))


def check_patient(headers: Sequence[Dataset]) -> None:
    """Refuse images of more than one patient: every result object carries the identity of the first image.

    Raises:
        ReadingError: the headers differ in PatientID or IssuerOfPatientID, byte for byte except for padding.
    """
    patients = {tuple(text_of(header, keyword) for keyword in ("PatientID", "IssuerOfPatientID")) for header in headers}
    if len(patients) > 1:
        raise ReadingError(
            "the study holds images of more than one patient: PatientID or IssuerOfPatientID differ among the images "
            "read, and no result can belong to both"
        )


def check_findings(findings: Iterable[Finding], sources: Sequence[Source]) -> None:
    """Refuse findings that no object can point at.

    Raises:
        ValueError: a finding lies on an image that is no source of the reading, on a frame that the source does not
            have, or wholly outside the image.
    """
    frames = {source.sop_instance_uid: frames_of(source.header) for source in sources}
    for finding in findings:
        uid, frame = finding.region.sop_instance_uid, finding.region.frame
        if uid not in frames:
            raise ValueError(f"a finding lies on {uid}, which is no source of the reading")
        if not 1 <= frame <= frames[uid]:
            raise ValueError(f"a finding lies on frame {frame} of {uid}, which has {frames[uid]}")
        box = finding.region
        # Written so that a comparison with NaN fails.
        if not (box.left < box.right and box.top < box.bottom and box.right > 0 and box.bottom > 0):
            raise ValueError(f"a finding lies outside {uid}: its box covers no part of the image")


def on_image(region: Region, header: Dataset) -> tuple[float, float, float, float]:
    """A region's left, top, right and bottom edge, cut at the image's border; all objects use these values.

    Edges are in pixels, from 0 at the outer edge of the first pixel.
    """
    columns, rows = (unsigned_of(header, side) or math.inf for side in ("Columns", "Rows"))
    left, right = (min(max(edge, 0.0), columns) for edge in (region.left, region.right))
    top, bottom = (min(max(edge, 0.0), rows) for edge in (region.top, region.bottom))
    return left, top, right, bottom


def read_source(header: Dataset, ref: InstanceRef) -> Source:
    """One source; ``ref`` supplies the identity that the header lacks.

    Raises:
        ValueError: ``header`` is that of another instance than ``ref``.
    """
    instance = text_of(header, "SOPInstanceUID") or ref.sop_instance_uid
    if instance != ref.sop_instance_uid:
        raise ValueError(f"the header of {instance} was given for the source {ref.sop_instance_uid}")
    series, study = text_of(header, "SeriesInstanceUID"), text_of(header, "StudyInstanceUID")
    stand_in = Dataset()
    # highdicom looks up the module tables of the source's SOP class, and knows no private or retired classes.
    stand_in.SOPClassUID = SecondaryCaptureImageStorage
    stand_in.SOPInstanceUID = _stand_in(instance)
    stand_in.SeriesInstanceUID = _stand_in(series or f"series of {instance}")
    stand_in.StudyInstanceUID = _stand_in(study or f"study of {instance}")
    stand_in.PatientName = stand_in.PatientID = stand_in.PatientBirthDate = stand_in.PatientSex = ""
    stand_in.AccessionNumber = stand_in.StudyID = stand_in.StudyDate = stand_in.StudyTime = ""
    return Source(header, text_of(header, "SOPClassUID") or ref.sop_class_uid, instance, series, study, stand_in)


def _stand_in(uid: str) -> str:
    return f"2.25.{uuid.uuid5(_NAMESPACE, uid).int}"
