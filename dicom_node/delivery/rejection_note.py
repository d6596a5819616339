"""The key object that rejects results (IHE RAD, Imaging Object Change Management; PS3.3 A.35.4, PS3.16 TID 2010).

It names objects of this node and no others. It is made here, with pydicom alone, and not beside the results: what it
names is known when the destination has answered, and the process that delivers is kept free of highdicom.

Patient and study are those of the *rejected objects*, also where the patient was corrected meanwhile. A key object
belongs to the study whose objects it names, and a study to one patient (PS3.3 A.1.2). IHE keeps a Key Image Note
consistent with its objects in these attributes (RAD TF-2x, appendix A). With the corrected patient, an archive would
have to find the objects of one patient by a document of another. The attributes are copied byte for byte.
"""

from __future__ import annotations

import json
import re
import struct
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element
from pydicom.tag import Tag
from pydicom.uid import (
    ExplicitVRLittleEndian,
    KeyObjectSelectionDocumentStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32

from dicom_node import __version__
from dicom_node.dicom.attributes import LABEL_MAP
from dicom_node.dicom.file_meta import file_head
from dicom_node.index.rows import ResultRow, Withdrawal, WithdrawalReason

#: Document titles (PS3.16 CID 7010): code value and meaning of the scheme DCM.
TITLES: dict[WithdrawalReason, tuple[str, str]] = {
    "safety": ("113037", "Rejected for Patient Safety Reasons"),
    "quality": ("113001", "Rejected for Quality Reasons"),
}

_NAMESPACE = uuid.UUID("0d2f1d0b-6a53-5f0e-8b50-5a6f8c1d9e27")
_IMAGES = {
    str(SecondaryCaptureImageStorage),
    str(SegmentationStorage),
    str(LABEL_MAP),
}  # the others are composites without pixels
# Patient: the whole group 0010. Study, order and institution: these, where the rejected object has them.
_COPIED = {
    *(0x00080005, 0x00080020, 0x00080030, 0x00080050, 0x00080051, 0x00080080, 0x00080090, 0x00080201, 0x00081030),
    *(0x0020000D, 0x00200010, 0x0040A370),
}
_NEEDED = (  # type 2: empty where the rejected object lacks them
    *("StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName", "StudyID"),
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
)
_ZONE = re.compile(rb"([+-])(\d{2})([0-5]\d) ?")


@dataclass(frozen=True, slots=True)
class RejectionNote:
    """A finished key object: ``content`` is a DICOM Part 10 file in Explicit VR Little Endian."""

    sop_instance_uid: str
    series: str
    content: bytes


def rejection_note(
    withdrawal: Withdrawal, patient_of: Path, *, site: str, series_number: int, now: float
) -> RejectionNote:
    """The key object of a withdrawal.

    Args:
        withdrawal: what is rejected, where, and why.
        patient_of: the file of one of our results, whose patient and study are copied.
        site: names this installation, the observing device.
        series_number: the number of the key object's series.
        now: its time, epoch seconds.

    Returns:
        its UIDs derive from what it rejects, where, and why: the same rejection has the same UID.

    Raises:
        OSError, InvalidDicomError: the file of the result cannot be read.
    """
    parts = (withdrawal.reason, withdrawal.target, sorted(each.sop_instance_uid for each in withdrawal.objects))
    uid, series = _uid("rejection", *parts), _uid("rejection series", *parts)
    copied = _copied(patient_of)
    own = Dataset()
    for keyword in _NEEDED:
        setattr(own, keyword, None)
    own.StudyInstanceUID = study = withdrawal.study  # the result's own, where it has one, is copied over it
    own.SOPClassUID, own.SOPInstanceUID = KeyObjectSelectionDocumentStorage, uid
    own.Modality, own.SeriesInstanceUID, own.SeriesNumber = "KO", series, series_number
    own.SeriesDescription = "AI results withdrawn"
    own.ReferencedPerformedProcedureStepSequence = []
    own.InstanceNumber = 1
    at = _local(now, _value(copied, 0x00080201))
    own.InstanceCreationDate, own.InstanceCreationTime = at.strftime("%Y%m%d"), at.strftime("%H%M%S")
    own.ContentDate, own.ContentTime = own.InstanceCreationDate, own.InstanceCreationTime
    own.Manufacturer = own.ManufacturerModelName = "dicom-node"
    own.SoftwareVersions = __version__
    own.CurrentRequestedProcedureEvidenceSequence = [_evidence(study, withdrawal.objects)]
    _set_content(own, withdrawal, site)
    elements = {int(each.tag): each for each in own} | copied
    head = file_head(KeyObjectSelectionDocumentStorage, uid, ExplicitVRLittleEndian, "")
    return RejectionNote(uid, series, head + b"".join(_bytes(elements[tag]) for tag in sorted(elements)))


def _set_content(document: Dataset, withdrawal: Withdrawal, site: str) -> None:
    """Set the content tree (TID 2010), in place: title, its modifier, observer, description, and what is rejected."""
    document.ValueType = "CONTAINER"
    document.ConceptNameCodeSequence = [_code(*TITLES[withdrawal.reason])]
    document.ContinuityOfContent = "SEPARATE"
    template = Dataset()
    template.MappingResource, template.TemplateIdentifier = "DCMR", "2010"
    document.ContentTemplateSequence = [template]
    content = []
    if withdrawal.reason == "quality":
        # TID 2010 demands a reason of CID 7011 beside this title. Each of the others there blames the image.
        modifier = _code("113011", "Document Title Modifier")
        content.append(
            _item("HAS CONCEPT MOD", "CODE", modifier, ConceptCodeSequence=[_code("111220", "Other failure")])
        )
    device, context = _code("121007", "Device"), "HAS OBS CONTEXT"
    content += [
        _item(context, "CODE", _code("121005", "Observer Type"), ConceptCodeSequence=[device]),
        _item(context, "UIDREF", _code("121012", "Device Observer UID"), UID=_uid("node", site)),
        _item(context, "TEXT", _code("121013", "Device Observer Name"), TextValue="dicom-node"),
        _item("CONTAINS", "TEXT", _code("113012", "Key Object Description"), TextValue=_description(withdrawal)),
    ]
    for each in withdrawal.objects:
        kind = "IMAGE" if each.sop_class_uid in _IMAGES else "COMPOSITE"
        content.append(_item("CONTAINS", kind, None, ReferencedSOPSequence=[_reference(each)]))
    document.ContentSequence = content


def _description(withdrawal: Withdrawal) -> str:
    """Why, in English: ASCII, which every character set of a rejected object holds."""
    what = "The report of a reading that failed is" if withdrawal.failure else "Results of an earlier AI reading are"
    corrected = " The images that it read were corrected in patient, side or pixels." * (withdrawal.reason == "safety")
    return f"{what} withdrawn: results of a later reading take their place.{corrected}"


def _evidence(study: str, objects: Sequence[ResultRow]) -> Dataset:
    """The item of Current Requested Procedure Evidence Sequence (PS3.3 C.17.2) that names every rejected object."""
    by_series: dict[str, list[Dataset]] = {}
    for each in objects:
        by_series.setdefault(each.series, []).append(_reference(each))
    evidence = Dataset()
    evidence.StudyInstanceUID = study
    evidence.ReferencedSeriesSequence = []
    for series, references in by_series.items():
        item = Dataset()
        item.SeriesInstanceUID, item.ReferencedSOPSequence = series, references
        evidence.ReferencedSeriesSequence.append(item)
    return evidence


def _reference(result: ResultRow) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = result.sop_class_uid, result.sop_instance_uid
    return item


def _item(relationship: str, value_type: str, name: Dataset | None, **values: Any) -> Dataset:
    """A content item (PS3.3 C.17.3)."""
    item = Dataset()
    item.RelationshipType, item.ValueType = relationship, value_type
    if name is not None:
        item.ConceptNameCodeSequence = [name]
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return item


def _code(value: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", meaning
    return item


def _copied(path: Path) -> dict[int, RawDataElement | DataElement]:
    """Patient, study and order of one of our results, as they stand there."""
    result = dcmread(path, stop_before_pixels=True)
    copied: dict[int, RawDataElement | DataElement] = {}
    for tag in result.keys():  # noqa: SIM118 - to iterate over the data set itself would decode every element
        if tag.group == 0x0010 or int(tag) in _COPIED:
            copied[int(tag)] = result.get_item(tag)
    return copied


def _value(elements: dict[int, RawDataElement | DataElement], tag: int) -> bytes:
    """The bytes of an element that is not decoded yet; empty if there is none."""
    value = elements[tag].value if tag in elements else b""
    return value if isinstance(value, bytes) else b""


def _local(now: float, zone: bytes) -> datetime:
    """A time in the zone of the copied study, which holds for the whole object; else in that of this machine."""
    found = _ZONE.fullmatch(zone)
    at = datetime.fromtimestamp(now, UTC)
    if found is None:
        return at.astimezone()
    offset = timedelta(hours=int(found[2]), minutes=int(found[3]))
    return at.astimezone(timezone(-offset if found[1] == b"-" else offset)) if offset <= timedelta(hours=14) else at


def _bytes(element: RawDataElement | DataElement) -> bytes:
    """An element in Explicit VR Little Endian: a copied one byte for byte."""
    value = element.value
    if isinstance(element, RawDataElement) and isinstance(value, bytes) and element.VR:
        vr = element.VR.encode("ascii")
        head = struct.pack("<HH2s", Tag(element.tag).group, Tag(element.tag).element, vr)
        if element.VR in EXPLICIT_VR_LENGTH_32:
            return head + struct.pack("<2xI", len(value)) + value
        return head + struct.pack("<H", len(value)) + value
    out = DicomBytesIO()
    out.is_little_endian, out.is_implicit_VR = True, False
    write_data_element(out, element, ["ascii"])
    return out.getvalue()


def _uid(*parts: object) -> str:
    """A UID that derives from what it is for (PS3.5 B.2)."""
    return f"2.25.{uuid.uuid5(_NAMESPACE, json.dumps(parts)).int}"
