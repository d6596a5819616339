"""Withdrawing: what the key object says, that every attempt sends the same one, and what an archive makes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ComputedRadiographyImageStorage, KeyObjectSelectionDocumentStorage

from dicom_node.delivery.send_job import Sender
from dicom_node.delivery.withdraw_job import Withdrawer
from dicom_node.errors import Permanent, Retryable
from dicom_node.index.index import Index
from dicom_node.index.rows import Job, NewInstance, NewReading, NewResult
from dicom_node.jobs.worker import Done
from dicom_node.results import encode
from dicom_node.storage.spool import Spool
from tests.results.test_common import BOXES, Held, run_of
from tests.support.archive import HidingArchive, hiding_archive
from tests.support.nodes import settings_for
from tests.support.peers import Orthanc, Pacs
from tests.support.samples import make_image, reading_text
from tests.support.validators import judge, missing

SITE = "AINODE/test"


class Bench:
    """An index and a spool, with the results of a patient's image that a destination has or is to get."""

    def __init__(self, folder: Path) -> None:
        self.spool = Spool(folder)
        self.spool.open()
        self.index = Index(folder / "index.sqlite", create=True)
        self.now = 1000.0
        self.workers: list[Sender | Withdrawer] = []
        self.image = make_image(PatientName="Müller^Jürgen", IssuerOfPatientID="HOSP")
        self.study = str(self.image.StudyInstanceUID)
        self.new = NewInstance(
            *(str(self.image.SOPInstanceUID), ComputedRadiographyImageStorage, "1.2", self.study),
            *(str(self.image.SeriesInstanceUID), "CR", "CHEST", "", "", "MOD", "f", 9),
        )
        self.index.add_instance(self.new, 1.0)

    def read(self, key: str, **changes: Any) -> list[str]:
        """Read the image, and queue the results and what they withdraw; the results' UIDs."""
        for name, value in changes.items():
            setattr(self.image, name, value)
        made = encode(run_of(self.image, boxes=BOXES["one"], key=key), Held(self.image))
        parts = self.spool.write_parts([[each.content] for each in made])
        names = self.spool.adopt([(part, each.sop_instance_uid) for part, each in zip(parts, made, strict=True)])
        rows = [
            NewResult(
                *(each.sop_instance_uid, each.sop_class_uid, each.series_instance_uid, number, each.role),
                *(name, len(each.content), "p"),
            )
            for number, (each, name) in enumerate(zip(made, names, strict=True))
        ]
        text = reading_text(sources=[self.new.sop_instance_uid])
        job = Job(1, "read", f"{self.study}/1", self.study, 1, "r", "m", key, 1, 1.0, "t")
        with self.index.transaction():
            self.index.add_reading(NewReading(key, self.study, "m", "1", "d", 1.0, text), rows)
            self.index.supersede(job, key, [("pacs", "p")], 1.0)
            self.index.queue_sends(job, key, [("pacs", "p")], 1.0)
            self.index.queue_withdrawals(job, key, [("pacs", "p")], 1.0)
        return [each.sop_instance_uid for each in made]

    def worker(self, kind: type[Sender] | type[Withdrawer], port: int) -> Sender | Withdrawer:
        settings = settings_for(self.spool.root, pacs_port=port)
        common = (settings, settings.peer("pacs"), self.index, self.spool)
        one = Sender(*common) if kind is Sender else Withdrawer(*common, SITE, clock=self.clock)
        self.workers.append(one)
        return one

    def clock(self) -> float:
        self.now += 100.0
        return self.now

    def send(self, port: int) -> None:
        sender = self.worker(Sender, port)
        while job := self.index.claim("send", "pacs", 1e6, 60.0):
            self.finish(job, sender(job))
        sender.close()

    def finish(self, job: Job, done: Done) -> None:
        with self.index.transaction():
            assert self.index.finish(job, 2.0, outcome=done.outcome, reason=done.reason)

    def due(self) -> Job:
        job = self.index.claim("withdraw", "pacs", 1e6, 60.0)
        assert job is not None
        return job

    def withdraw(self, port: int) -> str:
        job = self.due()
        done = self.worker(Withdrawer, port)(job)
        self.finish(job, done)
        return done.reason


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path / "node")
    yield bench
    for worker in bench.workers:
        worker.close()
    bench.index.close()
    bench.spool.close()


@pytest.fixture
def archive() -> Iterator[HidingArchive]:
    with hiding_archive() as archive:
        yield archive


def code(items: Any) -> tuple[str, str]:
    return items[0].CodeValue, items[0].CodeMeaning


def told(note: Dataset) -> dict[str, Dataset]:
    return {
        item.ConceptNameCodeSequence[0].CodeValue: item
        for item in note.ContentSequence
        if "ConceptNameCodeSequence" in item
    }


def test_the_old_results_are_hidden_and_the_new_ones_seen(bench: Bench, archive: HidingArchive) -> None:
    old = bench.read("a")
    bench.send(archive.port)
    assert archive.visible(bench.study) == set(old)
    new = bench.read("b")
    bench.send(archive.port)
    count = len(old)
    assert bench.withdraw(archive.port) == f"withdrawn at pacs: {count} objects (Rejected for Quality Reasons)"
    assert archive.visible(bench.study) == set(new)
    assert archive.rejected == dict.fromkeys(old, "113001")
    (note,) = archive.notes
    assert archive.order == [*old, *new, note.SOPInstanceUID]
    assert archive.refusals == []
    assert code(note.ConceptNameCodeSequence) == ("113001", "Rejected for Quality Reasons")
    assert code(told(note)["113011"].ConceptCodeSequence) == ("111220", "Other failure")
    assert "corrected" not in told(note)["113012"].TextValue
    assert note.ContentTemplateSequence[0].TemplateIdentifier == "2010"
    kinds = {
        item.ReferencedSOPSequence[0].ReferencedSOPClassUID.name: item.ValueType
        for item in note.ContentSequence
        if "ReferencedSOPSequence" in item
    }
    assert kinds["Secondary Capture Image Storage"] == "IMAGE"
    assert kinds["Comprehensive SR Storage"] == "COMPOSITE"
    (row,) = bench.index.studies_with_state(bench.study)
    assert bench.index.received(note.SOPInstanceUID) is None
    assert row.state != "failed"


def test_a_corrected_patient_is_a_matter_of_safety_and_the_note_is_of_the_rejected_one(
    bench: Bench, archive: HidingArchive
) -> None:
    old = bench.read("a", TimezoneOffsetFromUTC="-0330")
    bench.send(archive.port)
    bench.index.correct_instance(bench.new, 2, 3.0, change="safety")
    bench.read("b", PatientID="TEST-2", PatientName="Doe^Jane")
    bench.send(archive.port)
    assert bench.withdraw(archive.port).endswith("(Rejected for Patient Safety Reasons)")
    (note,) = archive.notes
    first = archive.held[old[0]]
    assert code(note.ConceptNameCodeSequence) == ("113037", "Rejected for Patient Safety Reasons")
    assert "113011" not in told(note)
    assert told(note)["113012"].TextValue.endswith("corrected in patient, side or pixels.")
    for keyword in (
        "PatientName",
        "PatientID",
        "IssuerOfPatientID",
        "StudyInstanceUID",
        "StudyDate",
        "SpecificCharacterSet",
    ):
        assert note[keyword].value == first[keyword].value, keyword
    assert (str(note.PatientName), note.PatientID) == ("Müller^Jürgen", "TEST-1")
    assert (note.ContentDate, note.ContentTime) == ("19691231", "204820"), "1100 s, in the zone of the study"
    assert archive.rejected == dict.fromkeys(old, "113037")


def test_a_rejected_object_never_comes_back(bench: Bench, archive: HidingArchive) -> None:
    old = bench.read("a")
    bench.send(archive.port)
    bench.read("b")
    bench.send(archive.port)
    bench.withdraw(archive.port)
    sent = len(archive.order)
    assert bench.index.revive(bench.study, 9.0) == 0
    bench.send(archive.port)
    assert len(archive.order) == sent
    file = bench.index.result(old[0])
    assert file is not None
    job = Job(9, "send", old[0], bench.study, 1, "r", "pacs", "a", 1, 1.0, "t")
    with pytest.raises(Permanent, match="C000"):  # the archive would refuse it: the node must not even try
        bench.worker(Sender, archive.port)(job)


@pytest.mark.parametrize("kill", ["before it is recorded", "before it is sent", "before the answer"])
def test_a_node_that_dies_meanwhile_rejects_once_under_one_uid(
    bench: Bench, archive: HidingArchive, monkeypatch: pytest.MonkeyPatch, kill: str
) -> None:
    bench.read("a")
    bench.send(archive.port)
    bench.read("b")
    bench.send(archive.port)
    job = bench.due()
    withdrawer = bench.worker(Withdrawer, archive.port)
    if kill == "before the answer":
        archive.lost = {str(KeyObjectSelectionDocumentStorage)}
        with pytest.raises(Retryable):
            withdrawer(job)
        archive.lost = set()
    else:
        where = (Index, "add_note") if kill == "before it is recorded" else (Withdrawer, "_send")

        def dies(*_: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(*where, dies)
            with pytest.raises(KeyboardInterrupt):
                withdrawer(job)
    assert bench.index.requeue_running(5.0) == 1
    bench.withdraw(archive.port)
    assert archive.refusals == [], "not even other bytes under the same UID"
    assert len(archive.notes) == 1
    assert len({note.SOPInstanceUID for note in archive.notes}) == 1
    assert bench.index.claim("withdraw", "pacs", 1e6, 60.0) is None


def test_results_whose_files_retention_removed_are_rejected_by_their_uids(bench: Bench, archive: HidingArchive) -> None:
    old = bench.read("a")
    bench.send(archive.port)
    for uid in old:
        result = bench.index.result(uid)
        assert result is not None
        bench.spool.delete(result.file)
    bench.index._run("UPDATE results SET removed = 1.0")
    bench.read("b")
    bench.send(archive.port)
    bench.withdraw(archive.port)
    assert archive.rejected.keys() == set(old)


def test_without_the_new_results_nothing_is_rejected(bench: Bench, archive: HidingArchive) -> None:
    old = bench.read("a")
    bench.send(archive.port)
    new = bench.read("b")
    while job := bench.index.claim("send", "pacs", 1e6, 60.0):
        bench.index.fail(job, 2.0, "refused")
    with pytest.raises(Permanent, match=f"the earlier results stay at pacs: {len(new)} of the {len(new)} results"):
        bench.worker(Withdrawer, archive.port)(bench.due())
    assert archive.visible(bench.study) == set(old)


def test_what_never_arrived_needs_no_rejection(bench: Bench, archive: HidingArchive) -> None:
    bench.read("a")
    job = bench.index.claim("send", "pacs", 1e6, 60.0)
    assert job is not None
    bench.read("b")
    bench.index.retry_later(job, 0.0, "no answer")
    bench.send(archive.port)
    assert bench.withdraw(archive.port) == "pacs has none of the earlier results"
    assert archive.notes == []


def test_a_pacs_that_takes_no_key_objects_or_refuses_this_one(
    bench: Bench, archive: HidingArchive, start_pacs: Callable[..., Pacs]
) -> None:
    bench.read("a")
    bench.send(archive.port)
    bench.read("b")
    bench.send(archive.port)
    job = bench.due()
    pacs = start_pacs()
    for status, kind in ((0xC000, Permanent), (0xA700, Retryable)):
        pacs.answer = lambda _uid, status=status: status
        with pytest.raises(kind, match=f"{status:04X}"):
            bench.worker(Withdrawer, pacs.port)(job)
    withdrawal = bench.index.withdrawal(job)
    assert withdrawal is not None
    assert withdrawal.note is not None
    note = bench.index.result(withdrawal.note)
    assert note is not None
    bench.spool.delete(note.file)
    with pytest.raises(Permanent, match="file is gone"):
        bench.worker(Withdrawer, pacs.port)(job)


def notes_of(bench: Bench, folder: Path, port: int) -> list[Path]:
    """The files of a key object of each title; the image that the results are of is written, too."""
    bench.image.save_as(folder / "image.dcm", enforce_file_format=True)
    bench.read("a")
    bench.send(port)
    bench.read("b")
    bench.send(port)
    bench.withdraw(port)
    bench.index.correct_instance(bench.new, 2, 3.0, change="safety")
    bench.read("c", PatientID="TEST-2")
    bench.send(port)
    bench.withdraw(port)
    bench.withdraw(port)
    for worker in bench.workers:
        worker.close()  # Orthanc waits for whoever keeps an association
    files = bench.index._rows("SELECT file FROM results WHERE role = 'rejection' ORDER BY file")
    return [bench.spool.path(row[0]) for row in files]


@pytest.mark.programs
def test_every_validator_takes_the_key_objects(bench: Bench, archive: HidingArchive, tmp_path: Path) -> None:
    if missing():
        pytest.skip(f"not installed: {', '.join(missing())}")
    files = notes_of(bench, tmp_path, archive.port)
    titles = sorted(str(pydicom.dcmread(file).ConceptNameCodeSequence[0].CodeValue) for file in files)
    assert titles == ["113001", "113037", "113037"], "a for quality, then for safety; b for safety"
    verdicts = judge(dict.fromkeys(files, (tmp_path / "image.dcm",)), jobs=2)
    assert [verdict.faults for verdict in verdicts.values()] == [[], [], []]


@pytest.mark.programs
def test_orthanc_stores_the_key_objects(bench: Bench, orthanc: Orthanc, tmp_path: Path) -> None:
    files = notes_of(bench, tmp_path, orthanc.dicom)
    held = orthanc.objects(bench.study)
    for file in files:
        made = pydicom.dcmread(file)
        found = held[made.SOPInstanceUID]
        assert found.ConceptNameCodeSequence == made.ConceptNameCodeSequence
        named = [
            item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
            for item in found.ContentSequence
            if "ReferencedSOPSequence" in item
        ]
        assert named
        assert set(named) <= held.keys(), "Orthanc keeps and shows what is rejected: it knows nothing of IOCM"
