"""What all result objects share: patient and study copied, times, identities, the bytes of the file."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any

from highdicom import ContributingEquipment
from highdicom.sr import CodedConcept
from pydicom import config
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_file_meta_info
from pydicom.sr.codedict import codes
from pydicom.uid import UID, ExplicitVRLittleEndian

from ai.contract import Code, Reading
from dicom_node import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION, __version__
from dicom_node.results.run import ROLES, Run
from dicom_node.results.source import Source
from dicom_node.results.source_bytes import copy_attributes, copy_optional, element_pieces, tag_of, text_of
from dicom_node.results.source_text import fit, holds_any_text, in_utf8, own_charset, within
from dicom_node.results.uids import derived_uid, device_uid, series_uid

_OFFSET = re.compile(r"([+-])(\d{2})([0-5]\d)")


# Copied into every object; what the source lacks stays as highdicom leaves it: empty where type 2, absent otherwise.
_PATIENT_AND_STUDY = (
    "SpecificCharacterSet",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    # highdicom's sc/sop.py misspells this one's keyword and raises where the source has it, so it is never told of it.
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
)


def in_the_wanted_characters(run: Run, headers: Sequence[Dataset]) -> tuple[Run, list[Dataset]]:
    """The run and the headers of its sources as builders take them: in UTF-8 where the profile or its language wants.

    A language other than English needs a character set that holds it. A source that has another one is converted; where
    that cannot be done without doubt, its attributes stay as they are and the run speaks English.
    """
    always, foreign = run.profile.character_set == "utf-8", run.language != "en"
    if not (always or foreign):
        return run, list(headers)
    wanted = [always or not holds_any_text(header) for header in headers]
    converted = [in_utf8(h, _PATIENT_AND_STUDY) if want else h for h, want in zip(headers, wanted, strict=True)]
    usable = [h if after is None else after for h, after in zip(headers, converted, strict=True)]
    speaks = not foreign or all(map(holds_any_text, usable))
    return (run if speaks else dataclasses.replace(run, in_english=True)), usable


def fitted(run: Run, header: Dataset) -> Run:
    """The run with every text of its reading passed through :func:`fit`."""

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


def shown_time(at: datetime) -> str:
    """A time as every object says it."""
    return f"{at:%Y-%m-%d %H:%M} UTC{at:%z}"


def local_time(run: Run, header: Dataset) -> datetime:
    """When the run was created, in the source's TimezoneOffsetFromUTC, which then holds for the whole object."""
    return in_zone_of(header, run.created)


def in_zone_of(header: Dataset, time: datetime) -> datetime:
    """A time in the source's zone; one that says nothing of its zone leaves the time's own, which is the best guess."""
    offset = _offset(header)
    return time if offset is None else time.astimezone(timezone(offset))


def _offset(header: Dataset) -> timedelta | None:
    found = _OFFSET.fullmatch(text_of(header, "TimezoneOffsetFromUTC"))
    if found is None:
        return None
    offset = timedelta(hours=int(found[2]), minutes=int(found[3]))
    return None if offset > timedelta(hours=14) else -offset if found[1] == "-" else offset


def identity(run: Run, source: Source, role: str, index: int) -> dict[str, Any]:
    """The arguments that every highdicom constructor takes in the same way; ``run`` is fitted to the source."""
    model, at, kind = run.reading.model, local_time(run, source.header), ROLES[role]
    research = " - not for diagnostic use" if run.research else ""
    return {
        "series_instance_uid": series_uid(run.objects_key, role),
        "series_number": run.profile.series_number_base + kind.offset,
        "sop_instance_uid": derived_uid(run.objects_key, role, index),
        "instance_number": index + 1,
        "manufacturer": within(model.manufacturer, 64),
        "manufacturer_model_name": within(f"{model.name} {model.version}", 64),
        "software_versions": __version__,
        "device_serial_number": within(model.digest, 64),
        "series_description": within(f"{kind.description}{research}: {model.name}", 64),
        "series_date": at.date(),
        "series_time": at.time(),
        "content_date": at.date(),
        "content_time": at.time(),
        "content_qualification": run.profile.content_qualification,
    }


def of_nobody(source: Source) -> dict[str, Any]:
    """The patient and study that highdicom's base class wants, all empty: `finish` puts the source's own there."""
    patient = ["patient_id", "patient_name", "patient_birth_date", "patient_sex"]
    study = ["study_id", "accession_number", "study_date", "study_time"]
    return {"study_instance_uid": source.stand_in.StudyInstanceUID, **dict.fromkeys([*patient, *study], "")}


def finish(dataset: Dataset, run: Run, sources: Sequence[Source]) -> None:
    """Make a highdicom object ours, in place: time, equipment, references, patient and study (of the first source)."""
    header, model = sources[0].header, run.reading.model
    at = local_time(run, header)
    # highdicom stamps the clock's time, which no second encoding would repeat.
    dataset.InstanceCreationDate, dataset.InstanceCreationTime = at.strftime("%Y%m%d"), at.strftime("%H%M%S.%f")
    # highdicom names itself as the equipment, with the clock's time and without the Device UID that AIR wants.
    equipment = ContributingEquipment(
        manufacturer=within(model.manufacturer, 64),
        purpose_of_reference=codes.DCM.ProcessingEquipment,
        manufacturer_model_name=within(f"{model.name} {model.version}", 64),
        software_versions=__version__,
        device_serial_number=within(model.digest, 64),
        # Without a zone it is local, as all other times here; dcmpschk 3.6.7 calls +0000 a fault, and nothing else.
        contribution_datetime=at.strftime("%Y%m%d%H%M%S.%f%z").removesuffix("+0000"),
        contribution_description="AI reading of the source images",
    )
    equipment.DeviceUID = device_uid(run.site, model)
    dataset.ContributingEquipmentSequence = [equipment]
    _restore_references(dataset, sources)
    copy_attributes(header, dataset, _PATIENT_AND_STUDY)
    copy_optional(header, dataset, ["PatientAge"])
    if _offset(header) is not None:  # a malformed one would make our own times unreadable
        copy_attributes(header, dataset, ["TimezoneOffsetFromUTC"])


def _restore_references(dataset: Dataset, sources: Sequence[Source]) -> None:
    """Put the sources' own UIDs, well-formed or not, where highdicom wrote the stand-ins'."""
    uids = {}
    classes = {}
    for source in sources:
        uids[source.stand_in.SOPInstanceUID] = source.sop_instance_uid
        uids[source.stand_in.SeriesInstanceUID] = source.series_instance_uid
        uids[source.stand_in.StudyInstanceUID] = source.study_instance_uid
        classes[source.stand_in.SOPInstanceUID] = source.sop_class_uid
    for item in _items(dataset):
        if "ReferencedSOPInstanceUID" in item and item.ReferencedSOPInstanceUID in classes:
            _set_uid(item, "ReferencedSOPClassUID", classes[item.ReferencedSOPInstanceUID])
        for keyword in ("ReferencedSOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"):
            # A source without a study or series of its own keeps the stand-in's: the object needs one to be stored.
            if keyword in item and uids.get(item[keyword].value):
                _set_uid(item, keyword, uids[item[keyword].value])


def _items(dataset: Dataset) -> Iterator[Dataset]:
    yield dataset
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value:
                yield from _items(item)


def _set_uid(item: Dataset, keyword: str, uid: str) -> None:
    item[keyword] = DataElement(tag_of(keyword), "UI", uid, validation_mode=config.IGNORE)


def to_bytes(dataset: Dataset) -> bytes:
    """A finished object as a DICOM Part 10 file in explicit VR little endian (PS3.10 7.1)."""
    return b"".join(to_pieces(dataset))


def to_pieces(dataset: Dataset) -> tuple[bytes | memoryview, ...]:
    """`to_bytes` before it is joined: a few pieces, of which a picture's pixels are one.

    The elements are written one by one: pydicom's ``write_dataset`` would decode the copied ones and encode them anew.
    """
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
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
