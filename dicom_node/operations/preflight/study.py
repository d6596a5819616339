"""The test study of a pre-flight: a drawn radiograph of no patient, and the results that the node would make of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
from highdicom.ko import KeyObjectSelection, KeyObjectSelectionDocument
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import UID, generate_uid

from ai.anatomy.side import LEFT, RIGHT
from ai.contract import (
    ClassResult,
    Code,
    Finding,
    InstanceRef,
    ModelIdentity,
    Presence,
    Reading,
    Region,
    Segment,
    Segmentation,
)
from ai.phantom import dicom, draw
from dicom_node import __version__
from dicom_node.config.settings import Profile
from dicom_node.results import Run, encode, run_key

PATIENT_ID = "TEST-DICOM-NODE"
PATIENT_NAME = "TEST^DICOM-NODE"

_SEED = 20260
_ROWS, _COLUMNS = 512, 420
_MODEL = ModelIdentity(
    "preflight", __version__, "0" * 64, "dicom-node", "Shows whether a PACS takes results.", "Test object, no reading"
)
_LUNG = Code("39607008", "SCT", "Lung")
_MORPHOLOGY = Code("49755003", "SCT", "Morphologically Abnormal Structure")
_PLEURA = Code("3120008", "SCT", "Pleura")
_TUBERCULOSIS = Code("tb_susp", "99DICOMNODE", "Imaging finding suspicious for pulmonary tuberculosis")
_PNEUMONIA = Code("pneumonia_susp", "99DICOMNODE", "Imaging finding suspicious for pneumonia")
# Those of ``phantom_cxr``; see docs/reference/codes.md.
_CLASSES = {
    "nodule": ("Nodule", Code("27925004", "SCT", "Nodule"), _LUNG),
    "tuberculosis": ("Suspected tuberculosis", _TUBERCULOSIS, _LUNG),
    "pneumothorax": ("Pneumothorax", Code("36118008", "SCT", "Pneumothorax"), _PLEURA),
    "pneumonia": ("Suspected pneumonia", _PNEUMONIA, _LUNG),
}


@dataclass(frozen=True, slots=True)
class Sample:
    """One object to send; ``path`` is a DICOM Part 10 file.

    ``role`` is that of a result, "source" or "rejection"; ``label`` tells the objects apart.
    """

    role: str
    label: str
    sop_class: UID
    sop_instance: str
    series: str
    path: Path

    def read(self) -> Dataset:
        """The data set."""
        return pydicom.dcmread(self.path)


@dataclass(frozen=True, slots=True)
class TestStudy:
    """The source image and the results; ``unmade`` are the configured outputs that led to no object."""

    __test__ = False  # otherwise pytest collects it as a class of tests

    uid: str
    source: Sample
    results: tuple[Sample, ...]
    unmade: tuple[str, ...]

    @property
    def samples(self) -> tuple[Sample, ...]:
        """Every object in the order in which it is sent."""
        return (self.source, *self.results)


def make(folder: Path, profiles: Sequence[tuple[str, Profile]], now: datetime) -> TestStudy:
    """Draw the image and encode an invented reading of it for each profile, with new UIDs each time.

    Args:
        folder: the files are written here.
        profiles: the routes (for the labels) and the profile of their results.
        now: timezone-aware.
    """
    drawn = draw.draw_phantom(_SEED, _ROWS, _COLUMNS, findings=tuple(_CLASSES), view="PA")
    image = dicom.to_dicom(
        drawn,
        seed=_SEED,
        now=now,
        study_uid=generate_uid(prefix=None),  # new each time: a PACS would take the same UID for the same object
        series_uid=generate_uid(prefix=None),
        sop_uid=generate_uid(prefix=None),
        patient_id=PATIENT_ID,
        patient_name=PATIENT_NAME,
        accession_number=f"TEST{now:%y%m%d%H%M%S}",
    )
    image.QualityControlSubject = image.QualityControlImage = "YES"
    image.PatientComments = "TEST of dicom-node: no patient, may be deleted"
    image.StudyDescription = "TEST of dicom-node, no patient"
    image.StudyID = "TEST"
    image.ReferringPhysicianName = "TEST^REFERRER"
    # A frame of reference, which a radiograph does not need: without it there would be no segmentation to send.
    image.FrameOfReferenceUID = generate_uid(prefix=None)
    image.PositionReferenceIndicator = ""
    image.ImagePositionPatient = [0, 0, 0]
    image.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
    image.SliceThickness = 1
    source = Sample(
        "source",
        "source image",
        UID(image.SOPClassUID),
        image.SOPInstanceUID,
        image.SeriesInstanceUID,
        folder / "source.dcm",
    )
    image.save_as(source.path, enforce_file_format=True)
    reading = _reading(drawn, source)
    results, unmade = [], []
    for number, (routes, profile) in enumerate(profiles):
        key = run_key("preflight", _MODEL, [source.sop_instance], profile.digest)
        objects = encode(Run(key, now, "preflight", reading, profile))
        made = [one.role for one in objects]
        of = f" ({routes})" if len(profiles) > 1 else ""
        for one in objects:
            path = folder / f"{number}-{one.role}-{one.index}.dcm"
            path.write_bytes(one.content)
            count = f" {one.index + 1}" if made.count(one.role) > 1 else ""
            label = f"{one.role}{count}{of}"
            results.append(
                Sample(one.role, label, UID(one.sop_class_uid), one.sop_instance_uid, one.series_instance_uid, path)
            )
        unmade += [f"{role}{of}" for role in profile.made if role not in made]
    return TestStudy(image.StudyInstanceUID, source, tuple(results), tuple(unmade))


def _reading(drawn: draw.Phantom, source: Sample) -> Reading:
    """The reading of a model that finds everything in the phantom."""
    ref = InstanceRef(source.sop_instance, str(source.sop_class), str(source.path))
    findings, classes, segments = [], [], []
    for number, seen in enumerate(drawn.findings):
        name, code, site = _CLASSES[seen.key]
        score = 0.9 - number / 10
        # In a PA radiograph the patient's left is on the right of the image.
        side = LEFT if seen.left + seen.right > _COLUMNS else RIGHT
        region = Region(source.sop_instance, seen.left, seen.top, seen.right, seen.bottom)
        findings.append(Finding(seen.key, name, code, score, region, site, side, part=str(number)))
        classes.append(ClassResult(seen.key, name, code, score, 0.5, Presence.PRESENT))
        segments.append(Segment(seen.key, name, code, _MORPHOLOGY, np.asarray([seen.mask]), site, side, str(number)))
    segmentation = Segmentation("binary", ((ref, 1),), tuple(segments))
    return Reading(
        _MODEL, (ref,), tuple(findings), tuple(classes), (), (("preflight", 0.0),), segmentations=(segmentation,)
    )


def rejection_note(folder: Path, study: TestStudy, stored: Sequence[Sample], now: datetime) -> Sample:
    """A Key Object Selection that rejects every object of ``stored`` (IHE RAD TF-2 4.66, IOCM; PS3.16 TID 2010).

    Its title is (113001, DCM, "Rejected for Quality Reasons"). An archive that supports IOCM then hides the objects.
    """
    evidence = [sample.read() for sample in stored]
    title = codes.DCM.RejectedForQualityReasons
    document = KeyObjectSelectionDocument(
        evidence=evidence,
        content=KeyObjectSelection(title, evidence, description="TEST objects of dicom-node, no patient"),
        series_instance_uid=generate_uid(prefix=None),
        series_number=9999,
        sop_instance_uid=generate_uid(prefix=None),
        instance_number=1,
        manufacturer="dicom-node",
        manufacturer_model_name="dicom-node",
        software_versions=__version__,
        device_serial_number="preflight",
        series_description="TEST: rejection of the test objects",
        content_date=now.date(),
        content_time=now.time(),
    )
    document.StudyDescription = evidence[0].StudyDescription
    for item in document.ContentSequence:
        # highdicom gives the references a concept name, which TID 2010 does not allow.
        if item.ValueType in {"IMAGE", "COMPOSITE"}:
            del item.ConceptNameCodeSequence
    path = folder / "rejection.dcm"
    buffer = BytesIO()
    document.save_as(buffer)
    path.write_bytes(buffer.getvalue())
    return Sample(
        "rejection",
        "rejection note",
        UID(document.SOPClassUID),
        str(document.SOPInstanceUID),
        str(document.SeriesInstanceUID),
        path,
    )
