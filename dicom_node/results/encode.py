"""What every result object shares: patient and study, identity, equipment, character set, and the file's bytes.

Start here for: which patient and study attributes are copied into a result (:func:`finish`), how its UIDs and numbers
are set (:func:`identity`), when it is written in UTF-8 (:func:`in_the_wanted_characters`), and how it becomes a DICOM
Part 10 file (:func:`to_pieces`, PS3.10 7.1).

Two rules hold here. *Nothing is random and no clock is read*: every UID derives from the run's key and every time from
:attr:`Run.created`, so the same run always encodes to the same bytes. *A source is copied, never interpreted*: patient
and study attributes are copied as the bytes that the modality wrote, with the character set that it declared. pydicom
neither decodes nor validates them, so a value that breaks the standard arrives as it was sent and is never logged.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from highdicom.sr import CodedConcept
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import UID, ExplicitVRLittleEndian

from ai.contract import Code, Reading
from dicom_node import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION, __version__
from dicom_node.results import highdicom_mends, orders
from dicom_node.results.run import ROLES, Run
from dicom_node.results.source import Source
from dicom_node.results.source_bytes import copy_attributes, copy_optional, element_pieces, is_encapsulated
from dicom_node.results.source_text import fit, holds_any_text, in_utf8, own_charset, within
from dicom_node.results.times import local_time, zone_offset
from dicom_node.results.uids import derived_uid, series_uid

# Copied into every object. What the source lacks stays as highdicom writes it: empty if type 2, otherwise absent.
_PATIENT_AND_STUDY = (
    "SpecificCharacterSet",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    # highdicom is never given this one: its sc/sop.py misspells the keyword, and raises if the source has it.
    "IssuerOfAccessionNumberSequence",
    "ReferringPhysicianName",
    "StudyDescription",
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "IssuerOfPatientIDQualifiersSequence",
    "PatientBirthDate",
    "PatientSex",
    "StudyID",
    "InstitutionName",
    "StationName",
)
_CONVERTED = (*_PATIENT_AND_STUDY, *orders.ATTRIBUTES)


def in_the_wanted_characters(run: Run, headers: Sequence[Dataset]) -> tuple[Run, list[Dataset]]:
    """The run and its sources' headers, in UTF-8 if the profile or its language needs it.

    A language other than English needs a character set that holds it. A source with another character set is converted.
    If the conversion is not certain, the source keeps its own and the run is written in English.
    """
    always, foreign = run.profile.character_set == "utf-8", run.language != "en"
    if not (always or foreign):
        return run, list(headers)
    wanted = [always or not holds_any_text(header) for header in headers]
    converted = [in_utf8(h, _CONVERTED) if want else h for h, want in zip(headers, wanted, strict=True)]
    usable = [h if after is None else after for h, after in zip(headers, converted, strict=True)]
    speaks = not foreign or all(map(holds_any_text, usable))
    return (run if speaks else dataclasses.replace(run, in_english=True)), usable


def fitted(run: Run, header: Dataset) -> Run:
    """The run with every text of its reading in characters that the source's character set holds (:func:`fit`)."""

    def walk(value: Any) -> Any:
        if type(value) is str:  # not a StrEnum
            return fit(value, header)
        if isinstance(value, tuple):
            return tuple(walk(part) for part in value)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return dataclasses.replace(
                value, **{f.name: walk(getattr(value, f.name)) for f in dataclasses.fields(value)}
            )
        return value

    reading: Reading = walk(run.reading)
    return dataclasses.replace(run, reading=reading)


def concept(code: Code) -> CodedConcept:
    """A code as highdicom takes it (its meaning is VR LO: 64 characters)."""
    return CodedConcept(code.value, within(code.scheme, 16), within(code.meaning, 64))


def identity(run: Run, source: Source, role: str, index: int) -> dict[str, Any]:
    """The arguments that every highdicom constructor shares: UIDs, numbers, device, dates and times.

    ``run`` is already :func:`fitted` to the source; ``index`` counts the objects of the role from 0.
    """
    model, at = run.reading.model, local_time(run, source.header)
    return {
        "series_instance_uid": series_uid(run.objects_key, role),
        "series_number": run.first_series + ROLES[role].offset,
        "sop_instance_uid": derived_uid(run.objects_key, role, index),
        "instance_number": index + 1,
        "manufacturer": within(model.manufacturer, 64),
        "manufacturer_model_name": within(f"{model.name} {model.version}", 64),
        "software_versions": __version__,
        "device_serial_number": within(model.digest, 64),
        "series_description": within(run.series_description(role), 64),
        "series_date": at.date(),
        "series_time": at.time(),
        "content_date": at.date(),
        "content_time": at.time(),
        "content_qualification": run.profile.content_qualification,
    }


def finish(dataset: Dataset, run: Run, sources: Sequence[Source]) -> None:
    """Complete a highdicom object, in place: time, equipment, references, and the first source's patient and study."""
    header = sources[0].header
    at = local_time(run, header)
    highdicom_mends.set_creation_time(dataset, at)
    highdicom_mends.set_equipment(dataset, run, at)
    highdicom_mends.restore_references(dataset, sources)
    highdicom_mends.name_coding_scheme(dataset)
    copy_attributes(header, dataset, _PATIENT_AND_STUDY)
    copy_optional(header, dataset, ["PatientAge"])
    if zone_offset(header) is not None:  # a malformed zone would make our own times unreadable
        copy_attributes(header, dataset, ["TimezoneOffsetFromUTC"])
    order = orders.set_referenced_requests if dataset.Modality in ("SR", "KO") else orders.copy_request_attributes
    order(header, dataset)


def to_bytes(dataset: Dataset) -> bytes:
    """A finished object as a DICOM Part 10 file (PS3.10 7.1): in Explicit VR Little Endian, unless it is compressed.

    Compressed pixels are encapsulated, and the object's file meta information names their transfer syntax.
    """
    return b"".join(to_pieces(dataset))


def to_pieces(dataset: Dataset) -> tuple[bytes | memoryview, ...]:
    """The file of :func:`to_bytes` in a few pieces, of which the pixels of a picture are one.

    Elements are written one by one: pydicom's ``write_dataset`` would decode the copied ones and encode them again.
    """
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = _transfer_syntax(dataset)
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION
    start = DicomBytesIO()
    start.is_little_endian, start.is_implicit_VR = True, False
    start.write(b"\0" * 128 + b"DICM")
    write_file_meta_info(start, meta)
    charset = [own_charset(dataset)]
    pieces: list[bytes | memoryview] = []
    small = [start.getvalue()]
    for tag in sorted(dataset.keys()):
        for piece in element_pieces(dataset.get_item(tag, keep_deferred=True), charset):
            if isinstance(piece, bytes):
                small.append(piece)
            else:
                pieces += [b"".join(small), piece]
                small = []
    return (*pieces, b"".join(small))


def _transfer_syntax(dataset: Dataset) -> UID:
    pixels = dataset.get_item("PixelData", keep_deferred=True)
    if pixels is None or not is_encapsulated(pixels):
        return ExplicitVRLittleEndian
    syntax: UID = dataset.file_meta.TransferSyntaxUID
    return syntax
