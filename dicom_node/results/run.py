"""What every result object shares: identity, time, the copied patient and study, equipment, and how it becomes bytes.

Two rules hold here. *Nothing is random and no clock is read*: every UID derives from the run's key and every time from
:attr:`Run.created`, so that the same run always encodes to the same bytes. *A source is copied, never interpreted*: the
patient and study attributes travel as the bytes that the modality wrote, under the character set that it declared, and
pydicom never decodes or validates them: a value that breaks the standard arrives as it was sent and is never logged.

Where highdicom 0.28 has to be mended stands in this module and says why (search for "highdicom"); the largest mend is
the stand-in of :class:`source.Source`, which keeps it from ever seeing a patient.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

import numpy as np
from highdicom import ContributingEquipment
from highdicom.sr import CodedConcept
from numpy.typing import NDArray
from pydicom import config
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_file_meta_info
from pydicom.sr.codedict import codes
from pydicom.uid import UID, ExplicitVRLittleEndian

from ai.contract import ClassResult, Code, Finding, ModelIdentity, Presence, Reading, Segment
from dicom_node import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION, __version__
from dicom_node.config.settings import Language, Profile
from dicom_node.results.source import (
    Source,
    copy_attributes,
    copy_optional,
    element_pieces,
    fit,
    holds_any_text,
    in_utf8,
    own_charset,
    tag_of,
    text_of,
    within,
)
from dicom_node.results.words.texts import WORDS, Words

ENCODER_VERSION = 3
"""Raised with every change to the encoded objects, so that other bytes never travel under a UID already sent."""

_NAMESPACE = uuid.UUID("6f0c4d0e-6d0f-5b0a-9d6e-3c8f6a1b7e52")
_OFFSET = re.compile(r"([+-])(\d{2})([0-5]\d)")


@dataclass(frozen=True, slots=True)
class Role:
    """One kind of result object: a series of its own in the source study, numbered from the profile's base."""

    offset: int
    description: str


ROLES: dict[str, Role] = {
    "sr": Role(0, "AI report"),
    "sc": Role(1, "AI picture"),
    "gsps": Role(2, "AI marks"),
    "seg": Role(3, "AI segmentation"),
    "pdf": Role(4, "AI page"),
    "kos": Role(5, "AI key images"),
}
"""The roles in the order in which their objects are sent."""


@dataclass(frozen=True, slots=True)
class Predecessor:
    """The report that a run's report replaces; ``created`` (timezone-aware) is when its reading was made."""

    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    created: datetime


@dataclass(frozen=True, slots=True)
class Run:
    """One reading on its way into DICOM, for the destinations of one profile.

    ``key`` is :func:`run_key` (hex); ``created`` is timezone-aware, taken once when the run is created, and the only
    time in its result objects; ``site`` names the installation. ``in_english`` overrides the profile's language: a
    source whose character set can neither hold the other language nor be converted.
    """

    key: str
    created: datetime
    site: str
    reading: Reading
    profile: Profile = field(default_factory=Profile)
    predecessor: Predecessor | None = None
    in_english: bool = False

    def __post_init__(self) -> None:
        if self.created.tzinfo is None:
            raise ValueError("Run.created has no time zone: its local time would depend on the machine")

    @property
    def objects_key(self) -> str:
        """What UIDs derive from: other settings make other objects of the same reading."""
        return _digest("objects", self.key, self.profile.digest)

    @property
    def language(self) -> Language:
        """The language of every text that a person reads."""
        return "en" if self.in_english else self.profile.language

    @property
    def words(self) -> Words:
        """The texts in the run's language."""
        return WORDS[self.language]

    @property
    def research(self) -> bool:
        """Whether the objects must say that they are not for diagnosis."""
        return self.profile.content_qualification == "RESEARCH"

    @property
    def warnings(self) -> tuple[str, ...]:
        """The sentences that every object must show: not for diagnosis while RESEARCH, and the model's own notice."""
        research = (self.words.not_for_diagnosis,) if self.research else ()
        notice = self.words.notice(self.reading.model.notice)
        return (*research, notice) if notice else research


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


# --- identity -------------------------------------------------------------------------------------------------------


def run_key(site: str, model: ModelIdentity, source_uids: Iterable[str], circumstances: str) -> str:
    """The identity of a run as 64 hex digits (SHA-256): the same question to the same model has the same key.

    The order of ``source_uids`` does not matter. ``circumstances`` tell a reading that failed, in part or as a whole,
    from the one that was to be; they are empty for that one. Settings are no part of the question: see
    :attr:`Run.objects_key`. The encoding is a JSON array, so that no two inputs run together.
    """
    return _digest(
        "run", ENCODER_VERSION, site, sorted(set(source_uids)), model.name, model.version, model.digest, circumstances
    )


def derived_uid(key: str, role: str, index: int) -> str:
    """The SOP Instance UID of a role's ``index``-th object: ``2.25.`` and a UUIDv5 (PS3.5 B.2).

    ``key`` is :attr:`Run.objects_key`.
    """
    return _uid("sop", key, role, index)


def series_uid(key: str, role: str) -> str:
    """The Series Instance UID of the objects of one role, ``key`` being :attr:`Run.objects_key`."""
    return _uid("series", key, role)


def tracking_uid(key: str, finding: int) -> str:
    """The Tracking UID (PS3.16 TID 4108) of a run's ``finding``-th finding, the same in every object that shows it."""
    return _uid("tracking", key, finding)


def segment_uid(key: str, segmentation: int, segment: int) -> str:
    """The Tracking UID of a segment by its numbers in the reading (from 0), of a kind of its own: no finding has it."""
    return _uid("tracking segment", key, segmentation, segment)


def device_uid(site: str, model: ModelIdentity) -> str:
    """The Device UID of a model at a site; other weights are another device (IHE AI Results 6.5.3.1)."""
    return _uid("device", site, model.name, model.version, model.digest)


def _uid(*parts: object) -> str:
    return f"2.25.{uuid.uuid5(_NAMESPACE, json.dumps(parts)).int}"


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, separators=(",", ":")).encode("ascii")).hexdigest()


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


def percent(score: float) -> float:
    """A probability in percent with one decimal: the one rounding, so that all objects say the same."""
    return round(100.0 * score, 1)


def tracking_id(run: Run, finding: int) -> str:
    """The Tracking ID of a run's ``finding``-th finding, the same in every object that shows it."""
    return f"AI {finding + 1}: {finding_name(run, run.reading.findings[finding])}"


def finding_name(run: Run, finding: Finding | ClassResult | Segment) -> str:
    """What a class is called in the run's language."""
    return run.words.name(finding.code, finding.name)


def summary(run: Run) -> str:
    """The verdict on the whole study in words, without a full stop."""
    reading, say = run.reading, run.words
    if reading.failure:
        return say.failed(say.reason(reading.failure))
    verdicts = [say.findings(len(reading.findings))] if reading.findings else []
    if unplaced(reading):
        without = say.findings_without_region
        verdicts.append(without[:1].lower() + without[1:] if verdicts else without)
    if not verdicts and reading.classes and not any(each.finding for each in reading.classes):
        # It looks for no findings, so it has none to miss.
        verdicts.append(say.outlined(sum(each.presence is Presence.PRESENT for each in reading.classes)))
    if not verdicts:
        return say.incomplete_without_findings if is_incomplete(reading) else say.no_findings
    return "; ".join([*verdicts, *([say.incomplete] if is_incomplete(reading) else [])])


def is_incomplete(reading: Reading) -> bool:
    """Whether a reading leaves open what it should have answered."""
    left_open = (each for each in reading.classes if each.presence is Presence.UNDETERMINED and not each.not_assessed)
    return bool(reading.failed) or any(left_open)


def unplaced(reading: Reading) -> list[ClassResult]:
    """The classes that are present without a finding that says where; anatomy is no finding."""
    placed = {finding.key for finding in reading.findings}
    return [
        each
        for each in reading.classes
        if each.presence is Presence.PRESENT and each.finding and each.key not in placed
    ]


def cautions(run: Run) -> list[str]:
    """What keeps a reading from being taken for more negative than it is.

    It failed, failed in part, or there are classes that the model does not assess.
    """
    reading, say = run.reading, run.words
    lines = []
    if reading.failed:
        counted = Counter(say.reason(each.reason) for each in reading.failed).most_common()
        lines.append(say.unreadable(len(reading.failed), "; ".join(reason for reason, _ in counted)))
    if names := [finding_name(run, each) for each in reading.classes if each.not_assessed]:
        lines.append(say.not_assessed(names))
    nothing = not reading.findings and not unplaced(reading)
    open_still = bool(reading.failure) or is_incomplete(reading)
    return [*lines, say.no_negative_result] if nothing and open_still else lines


def not_read(run: Run) -> list[tuple[str, int]]:
    """Why parts of the study were passed over, and how many each time: the most frequent reason first."""
    return Counter(run.words.reason(each.reason) for each in run.reading.passed_over).most_common()


def not_read_sentence(run: Run) -> str:
    """What was passed over, with every reason and without a full stop; empty where nothing was."""
    counted = not_read(run)
    reasons = "; ".join(f"{reason} ({count})" for reason, count in counted)
    return run.words.not_read(sum(count for _, count in counted), reasons) if counted else ""


def shown_score(result: ClassResult) -> float:
    """A class's score in percent; cut instead of rounded where rounding would lift an absent class to its threshold."""
    rounded = percent(result.score)
    if result.presence is not Presence.PRESENT and rounded >= percent(result.threshold):
        return math.floor(1000.0 * result.score + 1e-6) / 10.0
    return rounded


def is_faint(result: ClassResult) -> bool:
    """Whether a class is set back in pictures and tables: there is nothing to look for."""
    return result.presence is Presence.ABSENT or bool(result.not_assessed)


def verdict(run: Run, result: ClassResult) -> tuple[str, str, str]:
    """Score, threshold and presence of a class in words; what is not assessed has neither of the first two."""
    if result.not_assessed:
        return "-", "-", run.words.not_assessed_class
    return (
        f"{shown_score(result):.1f} %",
        f"{percent(result.threshold):.1f} %",
        run.words.presence[result.presence],
    )


def check(reading: Reading) -> None:
    """Refuse a reading that says two things at once.

    Raises:
        ValueError: it failed and has an answer all the same, failed in part and calls a class absent, or has a verdict
            on a class or a finding of it that it does not assess.
    """
    silent = {each.key for each in reading.classes if each.not_assessed}
    if any(each.not_assessed and each.presence is not Presence.UNDETERMINED for each in reading.classes):
        raise ValueError("a class that is not assessed can only be undetermined")
    if silent & {each.key for each in reading.findings} or silent & {each.key for each in reading.heat_maps}:
        raise ValueError("a class that is not assessed can have neither findings nor heat maps")
    if reading.failure and (reading.findings or reading.classes):
        raise ValueError("a reading that failed as a whole cannot have findings or classes")
    if reading.failed and any(each.presence is Presence.ABSENT for each in reading.classes):
        raise ValueError("a reading that failed in part cannot call a class absent")


# --- the object -----------------------------------------------------------------------------------------------------


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


# --- what highdicom gets wrong --------------------------------------------------------------------------------------


def mend_secondary_capture(dataset: Dataset, run: Run, source: Source) -> None:
    """Set what highdicom's SCImage sets otherwise or not at all, in place."""
    at = local_time(run, source.header)
    # It stamps the clock's time.
    dataset.DateOfSecondaryCapture, dataset.TimeOfSecondaryCapture = at.strftime("%Y%m%d"), at.strftime("%H%M%S.%f")
    dataset.ImageType = ["DERIVED", "SECONDARY"]  # it adds OTHER, a value of no defined meaning
    dataset.ConversionType = "WSD"  # it says DI, digitized interface: the picture was made on a workstation
    dataset.BurnedInAnnotation = "YES"  # it leaves this open, and the scores are burned in
    # It demands an orientation: the source's, and empty (type 2C) where the source does not know it.
    dataset.PatientOrientation = None


def set_picture(dataset: Dataset, rgb: NDArray[np.uint8]) -> None:
    """Put the pixels (rows x columns x 3) into a finished Secondary Capture: highdicom copies a picture twice.

    They are not copied here either: the picture is not to be written to any more.
    """
    dataset.Rows, dataset.Columns = rgb.shape[:2]
    pixels: Any = np.ascontiguousarray(rgb).data.cast("B")
    tag = tag_of("PixelData")
    # 8 bits allocated are bytes (PS3.5 A.2); highdicom leaves OB or OW open.
    dataset[tag] = RawDataElement(tag, "OB", len(pixels), pixels, 0, False, True)


def add_inferred_from(measurement: Dataset, region: Dataset) -> None:
    """Hang a region under the measurement that was inferred from it (PS3.16 TID 320), in place.

    TID 320 gives that SCOORD no concept name; highdicom can neither build one without a name nor collect the evidence
    of a document that holds one, and it allows none in a planar ROI at all: so it is added to the finished document.
    """
    inferred = Dataset()
    inferred.RelationshipType = "INFERRED FROM"
    inferred.ValueType = "SCOORD"
    inferred.GraphicType = region.GraphicType
    inferred.GraphicData = region.GraphicData
    inferred.ContentSequence = list(region.ContentSequence)
    # Its content items refuse an unnamed child when it is assigned as an attribute.
    tag = tag_of("ContentSequence")
    measurement[tag] = DataElement(tag, "SQ", [inferred])
