"""An instance that comes again: as it is, as a PACS passes it on, or corrected, which leads to another reading."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileDataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)
from pynetdicom.dsutils import split_dataset

from dicom_node.index.index import Index
from dicom_node.node import Node
from dicom_node.storage.corrections import correction
from dicom_node.storage.ingest import Store
from dicom_node.storage.spool import Spool
from tests.node.test_way import detail, ended, radiograph
from tests.support.nodes import settings_for
from tests.support.peers import Pacs, send
from tests.support.samples import make_image
from tests.support.waiting import wait_until

StartNode = Callable[..., Node]
StartPacs = Callable[..., Pacs]

OF_SAFETY: dict[str, dict[str, Any]] = {
    "another name": {"PatientName": "Doe^Jane"},
    "another patient ID": {"PatientID": "4711"},
    "another issuer": {"IssuerOfPatientID": "H2"},
    "another birth date": {"PatientBirthDate": "19500101"},
    "another age": {"PatientAge": "016Y"},
    "the other side": {"ImageLaterality": "R"},
    "another orientation": {"PatientOrientation": ["R", "F"]},
    "another view": {"ViewPosition": "AP"},
    "the other polarity": {"PhotometricInterpretation": "MONOCHROME1"},
    "other pixels": {"PixelData": np.arange(64 * 64, dtype=np.uint16)[::-1].tobytes()},
    "other pixels, and another accession number": {
        "AccessionNumber": "A1",
        "PixelData": np.arange(64 * 64, dtype=np.uint16)[::-1].tobytes(),
    },
}
OF_ANOTHER_KIND: dict[str, dict[str, Any]] = {
    "another accession number": {"AccessionNumber": "A1"},
    "another spacing": {"PixelSpacing": [0.1, 0.1]},
    "a spacing that is calibrated": {"PixelSpacingCalibrationType": "FIDUCIAL"},
    "another body part": {"BodyPartExamined": "ABDOMEN"},
    "a window": {"WindowCenter": 40, "WindowWidth": 400},
    "another description": {"StudyDescription": "Chest, two views, standing"},
}
CORRECTIONS = OF_SAFETY | OF_ANOTHER_KIND
OF_NO_MEANING: dict[str, dict[str, Any]] = {
    "what a PACS adds": {"RetrieveAETitle": "PACS", "InstanceAvailability": "ONLINE", "PatientComments": "X"},
    "an attribute that says nothing": {"InstitutionName": "", "PixelSpacing": None, "RequestAttributesSequence": []},
    "padding": {"PatientID": "1 ", "PatientName": "Doe^John^^ "},
    "a character set that changes no text": {"SpecificCharacterSet": "ISO_IR 192"},
}


def files(node: Node) -> list[Path]:
    return sorted((node.settings.node.data_dir / "spool").rglob("*.dcm"))


def revision(node: Node) -> int:
    assert node.index is not None
    return int(node.index.studies_with_state()[0].revision)


def data_set(path: Path) -> bytes:
    return path.read_bytes()[split_dataset(path)[1] :]


def changes_of(node: Node) -> list[str]:
    """What each correction changed, in the order in which they came."""
    assert node.index is not None
    return [row[0] for row in node.index._rows("SELECT change FROM corrections ORDER BY edition")]


def completed(node: Node) -> None:
    assert node.index is not None
    node.index._run("UPDATE studies SET completed = 1.0")


def image_in(syntax: str, **attributes: Any) -> FileDataset:
    identity = {"PatientName": "Doe^John", "PatientID": "1", "AccessionNumber": "A0", "ViewPosition": "PA"}
    image = make_image(**identity, **attributes)
    if syntax == RLELossless:
        image.compress(RLELossless, generate_instance_uid=False)
    image.file_meta.TransferSyntaxUID = syntax
    file = BytesIO()
    image.save_as(file, enforce_file_format=True, implicit_vr=syntax == ImplicitVRLittleEndian, little_endian=True)
    return pydicom.dcmread(BytesIO(file.getvalue()))


def changed(image: FileDataset, changes: dict[str, Any]) -> FileDataset:
    for name, value in changes.items():
        setattr(image, name, value)
    return image


@pytest.mark.slow
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian], ids=["explicit", "implicit"])
@pytest.mark.parametrize("changes", CORRECTIONS.values(), ids=CORRECTIONS.keys())
def test_a_corrected_instance_is_read_in_place_of_the_first_which_stays(
    start_node: StartNode, tmp_path: Path, changes: dict[str, Any], syntax: str
) -> None:
    node = start_node(settings_for(tmp_path / "node", node={"quiet_seconds": 60.0}))
    image = image_in(syntax)
    assert send(node.port, image) == [0x0000]
    (first,) = files(node)
    before = data_set(first)
    completed(node)
    for number in (2, 3):
        assert send(node.port, changed(image, changes)) == [0x0000]
        (now,) = set(files(node)) - {first}
        assert data_set(now) != before
        assert data_set(first) == before
        found = node.received(image.SOPInstanceUID)
        assert found is not None
        assert found[0] == now
        assert revision(node) == 2, f"sent {number} times, corrected once"
    completed(node)
    assert send(node.port, changed(image, {"PatientName": "Third^Name"})) == [0x0000]
    assert revision(node) == 3
    assert len(files(node)) == 3


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian], ids=["explicit", "implicit"])
@pytest.mark.parametrize("name", CORRECTIONS)
def test_a_correction_is_of_the_patient_the_side_or_the_pixels_or_not(tmp_path: Path, name: str, syntax: str) -> None:
    image, files = image_in(syntax), [tmp_path / "kept", tmp_path / "came"]
    for file, changes in zip(files, ({}, CORRECTIONS[name]), strict=True):
        changed(image, changes).save_as(file, enforce_file_format=True)
    assert correction(files[0], files[1], (syntax, syntax)) == ("safety" if name in OF_SAFETY else "quality")
    assert correction(files[0], files[0], (syntax, syntax)) is None


@pytest.mark.parametrize("changes", OF_NO_MEANING.values(), ids=OF_NO_MEANING.keys())
@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless], ids=["explicit", "implicit", "RLE"]
)
def test_what_changes_no_meaning_changes_nothing(
    start_node: StartNode, tmp_path: Path, changes: dict[str, Any], syntax: str
) -> None:
    node = start_node(settings_for(tmp_path / "node", node={"quiet_seconds": 60.0}))
    image = image_in(syntax)
    assert send(node.port, image) == [0x0000]
    (first,) = files(node)
    before = first.read_bytes()
    completed(node)
    assert send(node.port, changed(image, changes)) == [0x0000]
    assert files(node) == [first]
    assert first.read_bytes() == before
    assert revision(node) == 1


def test_a_compressed_image_with_other_pixels_is_a_correction(start_node: StartNode, tmp_path: Path) -> None:
    node = start_node(settings_for(tmp_path / "node", node={"quiet_seconds": 60.0}))
    image = image_in(RLELossless)
    send(node.port, image)
    completed(node)
    same = {name: image[name].value for name in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")}
    other = image_in(RLELossless, PixelData=bytes(64 * 64 * 2), **same)
    assert send(node.port, other) == [0x0000]
    assert revision(node) == 2


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, RLELossless])
def test_the_same_image_in_another_transfer_syntax_is_a_further_edition(
    start_node: StartNode, tmp_path: Path, syntax: str
) -> None:
    node = start_node(settings_for(tmp_path / "node", node={"quiet_seconds": 60.0}))
    image = image_in(ExplicitVRLittleEndian)
    send(node.port, image)
    (kept,) = files(node)
    completed(node)
    same = {name: image[name].value for name in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")}
    assert send(node.port, image_in(syntax, **same)) == [0x0000]
    assert revision(node) == 2
    (came,) = set(files(node)) - {kept}
    assert pydicom.dcmread(came).file_meta.TransferSyntaxUID == syntax
    assert changes_of(node) == [("none" if syntax == ImplicitVRLittleEndian else "unknown")]


def test_a_correction_that_cannot_be_recorded_leaves_the_first(
    start_node: StartNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = start_node(settings_for(tmp_path / "node", node={"quiet_seconds": 60.0}))
    image = image_in(ExplicitVRLittleEndian)
    send(node.port, image)
    (first,) = files(node)
    before = first.read_bytes()

    def fail(*_: Any, **__: Any) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as broken:
        broken.setattr(Index, "correct_instance", fail)
        assert send(node.port, changed(image, {"PatientName": "Doe^Jane"})) == [0x0110]
    assert files(node) == [first]
    assert first.read_bytes() == before
    assert send(node.port, image) == [0x0000]
    assert len(files(node)) == 2


def test_a_correction_amid_a_removal_is_kept(start_node: StartNode, tmp_path: Path) -> None:
    """Retention records that the files of a study are removed, a correction comes, and then it deletes them."""
    node = start_node(settings_for(tmp_path / "node", node={"quiet_seconds": 60.0}))
    image = image_in(ExplicitVRLittleEndian)
    send(node.port, image)
    completed(node)
    index, place = node.index, Index.correct_instance
    assert index is not None

    def removed_first(self: Index, *args: Any, **kwargs: Any) -> None:
        self._run("UPDATE instances SET removed = 1.0")
        place(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Index, "correct_instance", removed_first)
        assert send(node.port, changed(image, {"PatientName": "Doe^Jane"})) == [0x0000]
    assert [one.sop_instance_uid for one in index.instances_of(image.StudyInstanceUID)] == [image.SOPInstanceUID]
    assert index.removed_files(image.StudyInstanceUID) == ([image.SOPInstanceUID], [])
    assert Store(index, node._spool).remove(image.StudyInstanceUID, image.SOPInstanceUID) > 0
    (now,) = files(node)
    assert b"Doe^Jane" in now.read_bytes()


def test_every_edition_is_kept_however_many_come(start_node: StartNode, tmp_path: Path) -> None:
    node = start_node(settings_for(tmp_path / "node", node={"quiet_seconds": 60.0}))
    image = image_in(ExplicitVRLittleEndian)
    for number in range(15):
        assert send(node.port, changed(image, {"PatientName": f"Doe^{number}"})) == [0x0000]
        completed(node)
    names = {str(pydicom.dcmread(file).PatientName) for file in files(node)}
    assert names == {f"Doe^{number}" for number in range(15)}
    found = node.received(image.SOPInstanceUID)
    assert found is not None
    assert pydicom.dcmread(found[0]).PatientName == "Doe^14"


@pytest.mark.parametrize("recorded", [True, False])
def test_a_crash_amid_a_correction_leaves_one_of_the_two(tmp_path: Path, recorded: bool) -> None:
    """The partial file is there until all is done: what it names and the index does not know is deleted."""
    uid = "1.2.3"
    spool = Spool(tmp_path / "node")
    spool.open()
    names = []
    for edition in (1, 2):
        part = spool.part_for(uid)
        part.write([memoryview(os.urandom(100))])
        names.append(spool.place(part, uid, edition=edition))
        if edition == 1:
            part.discard()
    spool.close()
    again = Spool(tmp_path / "node")
    again.open()
    known = names[1] if recorded else names[0]
    assert again.recover(lambda there: {known} & set(there)) == 2
    assert [str(path.relative_to(tmp_path / "node")) for path in (tmp_path / "node/spool").rglob("*.dcm")] == [known]
    again.close()


@pytest.mark.slow
def test_a_patient_who_is_renamed_between_two_sends_gets_a_report_under_the_new_name(
    start_node: StartNode, start_pacs: StartPacs, tmp_path: Path
) -> None:
    pacs = start_pacs()
    node = start_node(settings_for(tmp_path / "node", pacs_port=pacs.port))
    image = radiograph(7, "nodule")
    study = image.StudyInstanceUID
    send(node.port, image)
    assert ended(node, study)["state"] == "delivered"
    # A second view, under the ID that the patient has now: no result can belong to both.
    late = radiograph(8, study_uid=study, patient_id="MERGED-1")
    late.PatientName = "Renamed^Patient"
    send(node.port, late)
    wait_until(lambda: detail(node, study)["revision"] == 2, "the second revision")
    found = ended(node, study)
    assert found["state"] == "failed"
    assert "more than one patient" in found["reason"]
    # The PACS sends the first view again, corrected: the same instance under the new identity.
    image.PatientID, image.PatientName = late.PatientID, late.PatientName
    assert send(node.port, image) == [0x0000]
    wait_until(lambda: detail(node, study)["revision"] == 3, "the third revision")
    found = ended(node, study)
    assert found["state"] == "delivered", found["reason"]
    first, last = found["readings"][0], found["readings"][-1]
    assert sorted(last["sources"]) == sorted([image.SOPInstanceUID, late.SOPInstanceUID])
    report = pydicom.dcmread(node.result_file(last["results"][0]["instance"]))
    assert (report.PatientID, str(report.PatientName)) == ("MERGED-1", "Renamed^Patient")
    (old,) = report.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence
    assert old.ReferencedSOPInstanceUID == first["results"][0]["instance"], "the failure in between replaced nothing"
    assert len(set(pacs.uids())) == len(pacs.uids())
