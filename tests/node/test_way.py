"""The whole way: a study is pushed, read by the shipped model, and its results arrive. Nothing is a stand-in here."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.uid import Comprehensive3DSRStorage, ComprehensiveSRStorage, SecondaryCaptureImageStorage, generate_uid
from typer.testing import CliRunner

from ai.bundle.files import shipped
from ai.phantom import dicom, draw
from dicom_node.cli.main import app
from dicom_node.index.index import INDEX_FILE, Index
from dicom_node.jobs.patience import Patience
from dicom_node.node import Node
from dicom_node.operations import study_status
from dicom_node.reading.loading import loads
from dicom_node.reading.messages import ReadRequest
from dicom_node.reading.warm_process import read
from dicom_node.results.objects.report_text import report_text
from dicom_node.storage.spool import Spool
from tests.support import programs
from tests.support.nodes import settings_for
from tests.support.peers import Orthanc, Pacs, free_port, listens, send
from tests.support.programs import run_tool
from tests.support.samples import make_image
from tests.support.waiting import scaled, wait_until

pytestmark = pytest.mark.slow  # each starts a reading process

StartNode = Callable[..., Node]
StartPacs = Callable[..., Pacs]
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def radiograph(seed: int, *findings: str, rows: int = 1250, columns: int = 1024, **identity: str) -> Any:
    """A phantom as DICOM, in a study of its own unless told otherwise."""
    drawn = draw.draw_phantom(seed, rows, columns, findings=findings, view="PA")
    names = {name: generate_uid(None) for name in ("study_uid", "series_uid", "sop_uid")} | identity
    return dicom.to_dicom(drawn, seed=seed, now=NOW, **names)


def detail(node: Node, study: str) -> dict[str, Any]:
    assert node.index is not None
    found = study_status.detail(node.index, study)
    assert found is not None
    return found


def ended(node: Node, study: str, seconds: float = 90.0) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        found = detail(node, study)
        return found if found["state"] in {"delivered", "failed", "no route", "no eligible series"} else None

    found: dict[str, Any] = wait_until(look, "the study to end", seconds)
    return found


@pytest.fixture(scope="module")
def sick() -> Any:
    return radiograph(7, "nodule")


@pytest.fixture(scope="module")
def healthy() -> Any:
    return radiograph(8)


def test_a_study_comes_back_with_its_finding(
    start_node: StartNode, start_pacs: StartPacs, tmp_path: Path, sick: Any
) -> None:
    pacs = start_pacs()
    node = start_node(settings_for(tmp_path / "node", pacs_port=pacs.port))
    assert send(node.port, sick) == [0x0000]
    found = ended(node, sick.StudyInstanceUID)
    assert found["state"] == "delivered", found["reason"]
    (reading,) = found["readings"]
    assert [result["role"] for result in reading["results"]] == ["sr", "sc", "sc", "gsps", "kos"]
    assert pacs.uids() == [result["instance"] for result in reading["results"]]
    assert {one["key"]: one["presence"] for one in reading["classes"]}["nodule"] == "present"
    drawn = next(one for one in draw.draw_phantom(7, 1250, 1024, findings=["nodule"], view="PA").findings)
    box = next(one["region"] for one in reading["findings"] if one["key"] == "nodule")
    assert box["left"] < (drawn.left + drawn.right) / 2 < box["right"]
    assert box["top"] < (drawn.top + drawn.bottom) / 2 < box["bottom"]
    times = found["times"]
    assert times["received"] <= times["complete"] <= times["read"] <= times["delivered"]


def test_what_a_route_does_not_look_for_is_said_and_is_neither_present_nor_absent(
    start_node: StartNode, start_pacs: StartPacs, tmp_path: Path, sick: Any
) -> None:
    pacs = start_pacs()
    route = {"name": "tb", "models": ["phantom_cxr"], "to": ["pacs"], "findings": ["tuberculosis"], "outputs": ["sr"]}
    node = start_node(settings_for(tmp_path / "node", pacs_port=pacs.port, routes=[route]))
    send(node.port, sick)
    (reading,) = ended(node, sick.StudyInstanceUID)["readings"]
    assert [one["key"] for one in reading["classes"]] == ["tuberculosis"]
    assert reading["findings"] == []
    assert [one["key"] for one in reading["not_looked_for"]] == ["nodule", "pneumothorax", "pneumonia"]
    path = node.result_file(reading["results"][0]["instance"])
    assert path is not None
    names = ", ".join(one["name"] for one in reading["not_looked_for"])
    assert f"Not looked for: {names}." in report_text(pydicom.dcmread(path))
    file = tmp_path / "node.toml"
    file.write_text(f'[node]\ndata_dir = "{tmp_path / "node"}"\n', encoding="utf-8")
    told = CliRunner().invoke(app, ["studies", sick.StudyInstanceUID, "--config", str(file)]).stdout
    assert re.search(r"absent +\w.*  score 0\.\d\d \(threshold 0\.\d\d\)", told)
    assert "not looked for: Nodule" in told
    assert "%" not in told


def test_a_study_without_findings_says_so(
    start_node: StartNode, start_pacs: StartPacs, tmp_path: Path, healthy: Any
) -> None:
    pacs = start_pacs()
    node = start_node(settings_for(tmp_path / "node", pacs_port=pacs.port))
    send(node.port, healthy)
    found = ended(node, healthy.StudyInstanceUID)
    assert found["state"] == "delivered"
    (reading,) = found["readings"]
    assert reading["findings"] == []
    assert {one["presence"] for one in reading["classes"]} == {"absent"}
    path = node.result_file(reading["results"][0]["instance"])
    assert path is not None
    assert "without findings" in str(pydicom.dcmread(path))


def test_a_second_process_reads_while_many_studies_wait_and_then_rests(
    start_node: StartNode, start_pacs: StartPacs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dicom_node.reading.processes._SPARE_WORTH", 3)
    monkeypatch.setattr("dicom_node.reading.processes._SPARE_REST_SECONDS", 5.0)
    pacs = start_pacs()
    node = start_node(settings_for(tmp_path / "node", pacs_port=pacs.port, node={"device": "cpu"}))
    wait_until(lambda: node.warm, "the models to be loaded", 60)
    assert node.spare_pid is None
    assert node._processes is not None
    spare = node._processes._spare
    assert spare is not None
    taken: list[object] = []
    submit = spare.submit
    monkeypatch.setattr(spare, "submit", lambda fn, *args: taken.append(fn) or submit(fn, *args))
    images = [radiograph(20 + number, rows=250, columns=200) for number in range(8)]
    assert node.reading_pid is not None
    os.kill(node.reading_pid, signal.SIGSTOP)  # so that studies wait, however fast this machine is
    try:
        send(node.port, *images)
        wait_until(lambda: spare.warm, "the second process to be loaded", 90)
        assert taken[:1] == [loads], "it took a study before it was warm"
        wait_until(lambda: read in taken, "the second process to read")
        niceness = [
            os.getpriority(os.PRIO_PROCESS, pid or 0) for pid in (os.getpid(), node.reading_pid, node.spare_pid)
        ]
        assert niceness[0] < niceness[1] < niceness[2] or niceness[0] > 4, "reading does not yield to receiving"
    finally:
        os.kill(node.reading_pid, signal.SIGCONT)
    assert {ended(node, image.StudyInstanceUID)["state"] for image in images} == {"delivered"}
    assert len(set(pacs.uids())) == len(pacs.uids()) >= 16, "two results of each study or more, and each once"
    wait_until(lambda: node.spare_pid is None, "the second process to rest", 30)


def test_a_late_image_is_read_as_the_next_revision_and_nothing_is_sent_twice(
    start_node: StartNode, start_pacs: StartPacs, tmp_path: Path, sick: Any
) -> None:
    pacs = start_pacs()
    node = start_node(settings_for(tmp_path / "node", pacs_port=pacs.port))
    study = sick.StudyInstanceUID
    send(node.port, sick)
    ended(node, study)
    late = radiograph(9, study_uid=study, patient_id=sick.PatientID)
    send(node.port, late)
    wait_until(lambda: detail(node, study)["revision"] == 2, "the second revision")
    assert ended(node, study)["state"] == "delivered"
    first, second = detail(node, study)["readings"]
    assert (first["superseded"], second["superseded"]) == (second["created"], None)
    report = pydicom.dcmread(node.result_file(second["results"][0]["instance"]))
    (old,) = report.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence
    assert old.ReferencedSOPInstanceUID == first["results"][0]["instance"]
    # An object that the model does not read: the same images, so the same results are found and not sent again.
    sent = pacs.uids()
    send(node.port, make_image(StudyInstanceUID=study, Modality="SR", SOPClassUID=ComprehensiveSRStorage))
    wait_until(lambda: detail(node, study)["revision"] == 3, "the third revision")
    assert ended(node, study)["state"] == "delivered"
    assert pacs.uids() == sent
    assert len(set(sent)) == len(sent)


def test_results_that_the_pacs_sends_back_are_not_read(
    start_node: StartNode, start_pacs: StartPacs, tmp_path: Path, healthy: Any
) -> None:
    pacs = start_pacs()
    node = start_node(settings_for(tmp_path / "node", pacs_port=pacs.port))
    send(node.port, healthy)
    (reading,) = ended(node, healthy.StudyInstanceUID)["readings"]
    files = [node.result_file(result["instance"]) for result in reading["results"]]
    assert send(node.port, *(pydicom.dcmread(file) for file in files if file)) == [0x0000, 0x0000]
    found = detail(node, healthy.StudyInstanceUID)
    assert (found["revision"], found["state"]) == (1, "delivered")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"Modality": "CT"}, "CT"),
        ({"ViewPosition": "LL"}, "LL"),
        ({"NumberOfFrames": 2, "PixelData": b"\0" * 64 * 64 * 4}, "frame"),
    ],
)
def test_a_study_that_the_model_does_not_take_ends_with_the_reason(
    start_node: StartNode, start_pacs: StartPacs, tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    node = start_node(settings_for(tmp_path / "node", pacs_port=start_pacs().port))
    image = make_image(**changes)
    send(node.port, image)
    found = ended(node, image.StudyInstanceUID)
    assert found["state"] == "no eligible series"
    assert reason in found["reason"]


def test_an_image_that_cannot_be_read_fails_with_the_reason_and_is_never_negative(
    start_node: StartNode, start_pacs: StartPacs, tmp_path: Path
) -> None:
    pacs = start_pacs()
    node = start_node(settings_for(tmp_path / "node", pacs_port=pacs.port))
    image = make_image(PixelData=b"\0" * 100)
    send(node.port, image)
    found = ended(node, image.StudyInstanceUID)
    assert found["state"] == "failed"
    assert image.SOPInstanceUID in found["reason"]
    (reading,) = found["readings"]
    assert (reading["failure"], reading["classes"], reading["findings"]) == (found["reason"], [], [])
    report = pydicom.dcmread(node.result_file(reading["results"][0]["instance"]))
    assert "111245" in str(report)  # no algorithm succeeded
    assert "Absent" not in str(report)
    assert "This is not a negative result." in report_text(report)
    wanted = [result["instance"] for result in reading["results"]]
    wait_until(lambda: pacs.uids() == wanted, "the report of the failure")
    # Tried again with the same end: the report is there, and nothing is sent twice.
    assert node.index is not None
    assert node.index.revive(image.StudyInstanceUID, time.time()) == 1
    wait_until(lambda: detail(node, image.StudyInstanceUID)["jobs"][0]["state"] == "failed", "the second failure")
    assert detail(node, image.StudyInstanceUID)["state"] == "failed"
    assert pacs.uids() == wanted


def test_the_report_of_a_failure_can_be_switched_off(
    start_node: StartNode, start_pacs: StartPacs, tmp_path: Path
) -> None:
    pacs = start_pacs()
    routes = [{"name": "all", "models": ["phantom_cxr"], "to": ["pacs"], "report_failures": False}]
    node = start_node(settings_for(tmp_path / "node", pacs_port=pacs.port, routes=routes))
    image = make_image(PixelData=b"\0" * 100)
    send(node.port, image)
    found = ended(node, image.StudyInstanceUID)
    assert (found["state"], found["readings"], pacs.uids()) == ("failed", [], [])


def test_one_image_that_cannot_be_read_leaves_an_incomplete_reading(
    start_node: StartNode, start_pacs: StartPacs, tmp_path: Path, healthy: Any
) -> None:
    pacs = start_pacs()
    node = start_node(settings_for(tmp_path / "node", pacs_port=pacs.port))
    study = healthy.StudyInstanceUID
    broken = make_image(StudyInstanceUID=study, PatientID=healthy.PatientID, PixelData=b"\0" * 100)
    send(node.port, healthy, broken)
    found = ended(node, study)
    assert found["state"] == "delivered"
    assert found["reason"].startswith("incomplete: 1 of the images could not be read: PixelData is truncated")
    (reading,) = found["readings"]
    assert [one["uid"] for one in reading["failed"]] == [broken.SOPInstanceUID]
    assert {one["presence"] for one in reading["classes"]} == {"undetermined"}
    report = pydicom.dcmread(node.result_file(reading["results"][0]["instance"]))
    assert "Incomplete reading: no findings in what could be read" in report_text(report)


def test_each_destination_gets_results_made_for_it(
    start_node: StartNode, start_pacs: StartPacs, tmp_path: Path, healthy: Any
) -> None:
    seoul, archive = start_pacs(ae_title="SEOUL"), start_pacs(ae_title="ARCHIVE")
    node = start_node(
        settings_for(
            tmp_path / "node",
            peers=[
                {"name": "seoul", "ae_title": "SEOUL", "host": "127.0.0.1", "port": seoul.port, "destination": True,
                 "language": "ko", "sr_class": "comprehensive3d", "outputs": ["sr"], "series_number_base": 700},
                {"name": "archive", "ae_title": "ARCHIVE", "host": "127.0.0.1", "port": archive.port,
                 "destination": True},
            ],
            routes=[{"name": "all", "models": ["phantom_cxr"], "to": ["seoul", "archive"], "outputs": ["sr", "sc"]}],
        )
    )  # fmt: skip
    assert node.index is not None
    node.index.note_accepted("seoul", {Comprehensive3DSRStorage: frozenset({"1.2.840.10008.1.2.1"})}, time.time())
    send(node.port, healthy)
    found = ended(node, healthy.StudyInstanceUID)
    assert found["state"] == "delivered"
    assert len(found["readings"]) == 1, "one reading serves both"
    results = {uid: pydicom.dcmread(node.result_file(uid)) for uid in (*seoul.uids(), *archive.uids())}
    (korean,) = (results[uid] for uid in seoul.uids())
    assert (korean.SOPClassUID, korean.SeriesNumber) == (Comprehensive3DSRStorage, 700)
    assert "AI - 진단 목적으로 사용할 수 없음" in report_text(korean)
    english, picture = (results[uid] for uid in archive.uids())
    assert (english.SOPClassUID, picture.SOPClassUID) == (ComprehensiveSRStorage, SecondaryCaptureImageStorage)
    assert "AI - not for diagnostic use" in report_text(english)
    assert len(results) == 3


def test_a_destination_that_is_added_takes_nothing_from_the_others(
    start_node: StartNode, start_pacs: StartPacs, tmp_path: Path, healthy: Any
) -> None:
    first, second = start_pacs(ae_title="FIRST"), start_pacs(ae_title="SECOND")
    peers = [
        {"name": name, "ae_title": name.upper(), "host": "127.0.0.1", "port": pacs.port, "destination": True, **more}
        for name, pacs, more in (
            ("first", first, {"outputs": ["sr", "sc"]}),
            ("second", second, {"outputs": ["sc", "sr"], "language": "ko"}),
        )
    ]

    def settings(*to: str) -> Any:
        route = {"name": "all", "models": ["phantom_cxr"], "to": list(to)}
        return settings_for(tmp_path / "node", peers=[dict(peer) for peer in peers], routes=[route])

    node = start_node(settings("first"))
    send(node.port, healthy)
    study = healthy.StudyInstanceUID
    assert ended(node, study)["state"] == "delivered"
    sent = first.uids()
    node.stop()
    node = start_node(settings("first", "second"))
    send(node.port, make_image(StudyInstanceUID=study, Modality="SR", SOPClassUID=ComprehensiveSRStorage))
    wait_until(lambda: detail(node, study)["revision"] == 2, "the second revision")
    assert ended(node, study)["state"] == "delivered"
    assert first.uids() == sent
    assert len(second.uids()) == len(sent) == 2
    assert not set(second.uids()) & set(sent)


def test_a_file_that_was_damaged_here_leads_to_no_report_on_nobody(
    start_node: StartNode, start_pacs: StartPacs, tmp_path: Path, healthy: Any
) -> None:
    pacs = start_pacs()
    settings = settings_for(tmp_path / "node", pacs_port=pacs.port, node={"quiet_seconds": 1.0})
    node = start_node(settings)
    send(node.port, healthy)
    kept = node.received(healthy.SOPInstanceUID)
    assert kept is not None
    kept[0].write_bytes(b"no DICOM" * 1000)
    found = ended(node, healthy.StudyInstanceUID)
    assert (found["state"], found["readings"], pacs.uids()) == ("failed", [], [])


def test_a_model_that_cannot_be_loaded_is_reported_and_a_later_reading_replaces_the_report(
    start_node: StartNode, start_pacs: StartPacs, tmp_path: Path, healthy: Any
) -> None:
    pacs = start_pacs()
    bundles = spoiled(tmp_path, "0")
    weights = bundles["phantom_cxr"] / "models/model.pt"
    good = weights.read_bytes()
    weights.write_bytes(b"no weights")
    settings = settings_for(tmp_path / "node", pacs_port=pacs.port)
    node = start_node(settings, bundles=bundles)
    send(node.port, healthy)
    study = healthy.StudyInstanceUID
    found = ended(node, study)
    assert found["state"] == "failed"
    assert "could not be loaded" in found["reason"]
    wait_until(pacs.uids, "the report of the failure")
    wait_until(lambda: all(one["state"] == "done" for one in detail(node, study)["deliveries"]), "all of it")
    failed = pydicom.dcmread(node.result_file(pacs.uids()[0]))
    assert "AI reading failed: model phantom_cxr could not be loaded.\n" in report_text(failed)
    node.stop()
    weights.write_bytes(good)
    node = start_node(settings, bundles=bundles)
    assert node.index is not None
    assert node.index.revive(study, time.time()) == 1
    wait_until(lambda: detail(node, study)["state"] == "delivered", "the study to be read")
    reading = detail(node, study)["readings"][-1]
    assert reading["failure"] == ""
    report = pydicom.dcmread(node.result_file(reading["results"][0]["instance"]))
    (predecessor,) = report.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence
    assert predecessor.ReferencedSOPInstanceUID == failed.SOPInstanceUID
    assert "Replaces the report of" in report_text(report)


def test_images_of_two_patients_in_one_study_are_never_one_report(
    start_node: StartNode, start_pacs: StartPacs, tmp_path: Path, sick: Any
) -> None:
    pacs = start_pacs()
    node = start_node(settings_for(tmp_path / "node", pacs_port=pacs.port))
    send(node.port, sick, radiograph(9, study_uid=sick.StudyInstanceUID, patient_id="ANOTHER"))
    found = ended(node, sick.StudyInstanceUID)
    assert found["state"] == "failed"
    assert "more than one patient" in found["reason"]
    assert "ANOTHER" not in found["reason"]
    assert not pacs.stored


def test_a_pacs_that_is_down_costs_nothing_but_time(
    start_node: StartNode, start_pacs: StartPacs, tmp_path: Path, healthy: Any
) -> None:
    port = free_port()
    node = start_node(settings_for(tmp_path / "node", pacs_port=port))
    send(node.port, healthy)
    study = healthy.StudyInstanceUID
    wait_until(lambda: any(one["attempts"] >= 2 for one in detail(node, study)["deliveries"]), "a second attempt")
    assert detail(node, study)["state"] == "delivering"
    assert "no connection" in detail(node, study)["reason"]
    pacs = start_pacs(port)
    assert ended(node, study)["state"] == "delivered"
    assert len(pacs.uids()) == 2


def test_a_destination_that_never_answers_keeps_no_other_waiting(
    start_node: StartNode, start_pacs: StartPacs, tmp_path: Path, healthy: Any
) -> None:
    stuck, archive, awake = start_pacs(ae_title="STUCK"), start_pacs(ae_title="ARCHIVE"), threading.Event()
    stuck.answer = lambda _uid: 0x0000 if awake.wait(scaled(100)) else 0xA700
    peers = [
        {"name": pacs, "ae_title": pacs.upper(), "host": "127.0.0.1", "port": port, "destination": True}
        for pacs, port in (("stuck", stuck.port), ("archive", archive.port))
    ]
    routes = [{"name": "all", "models": ["phantom_cxr"], "to": ["stuck", "archive"], "outputs": ["sr", "sc"]}]
    node = start_node(settings_for(tmp_path / "node", peers=peers, routes=routes))
    again = copy.deepcopy(healthy)
    again.StudyInstanceUID, again.SeriesInstanceUID, again.SOPInstanceUID = (generate_uid(None) for _ in range(3))
    again.file_meta.MediaStorageSOPInstanceUID = again.SOPInstanceUID
    for image in (healthy, again):
        send(node.port, image)
    wait_until(lambda: len(archive.uids()) == 4, "both studies to be in the archive")
    assert stuck.uids() == []
    states = {study: detail(node, study)["state"] for study in (healthy.StudyInstanceUID, again.StudyInstanceUID)}
    assert set(states.values()) == {"delivering"}
    awake.set()
    for study in states:
        assert ended(node, study)["state"] == "delivered"
    assert sorted(stuck.uids()) == sorted(archive.uids())


def test_what_the_pacs_refused_is_revived_by_retry(
    start_node: StartNode, start_pacs: StartPacs, tmp_path: Path, healthy: Any
) -> None:
    pacs = start_pacs()
    pacs.answer = lambda _uid: 0xA900
    settings = settings_for(tmp_path / "node", pacs_port=pacs.port)
    node = start_node(settings)
    send(node.port, healthy)
    study = healthy.StudyInstanceUID
    found = ended(node, study)
    assert (found["state"], found["reason"]) == ("failed", "pacs (PACS) answered A900: it refuses this object")
    pacs.answer = lambda _uid: 0x0000
    assert node.index is not None
    other = Index(tmp_path / "node" / INDEX_FILE)  # as the command line does, from outside
    assert other.revive(study, 0.0) == 2
    other.close()
    assert ended(node, study)["state"] == "delivered"
    assert sorted(pacs.uids()) == sorted(one["instance"] for one in found["deliveries"])


# --- a model that misbehaves: the shipped one, with something done to it before each image -----------------------


def spoiled(folder: Path, what: str) -> dict[str, Path]:
    """The shipped bundle with a Python expression run before each image; ``{flag}`` is a file that switches it on."""
    copy = folder / "phantom_cxr"
    shutil.copytree(shipped()["phantom_cxr"], copy)
    config = json.loads((copy / "configs/inference.json").read_text())
    config["spoil"] = f"$lambda x: ({what.format(flag=str(folder / 'flag'))}, x)[1]"
    transforms = config["preprocessing"]["transforms"]
    transforms.insert(0, {"_target_": "Lambdad", "keys": "image", "func": "@spoil"})
    (copy / "configs/inference.json").write_text(json.dumps(config))
    return {"phantom_cxr": copy}


def test_a_model_that_dies_fails_that_job_and_never_touches_the_receiver(
    start_node: StartNode, start_pacs: StartPacs, tmp_path: Path, healthy: Any
) -> None:
    bundles = spoiled(tmp_path, "__import__('os').path.exists('{flag}') and __import__('os')._exit(9)")
    node = start_node(settings_for(tmp_path / "node", pacs_port=start_pacs().port), bundles=bundles)
    wait_until(lambda: node.warm, "the model to be warm")
    (tmp_path / "flag").touch()
    study = healthy.StudyInstanceUID
    send(node.port, healthy)
    wait_until(lambda: "exit status 9" in detail(node, study)["reason"], "the crash to be told")
    assert send(node.port, make_image()) == [0x0000]
    (tmp_path / "flag").unlink()
    assert ended(node, study)["state"] == "delivered"


def dies_between_two_results(request: ReadRequest) -> None:
    """In the place of `warm.read`: the process ends while its second result is made."""

    def contents() -> Iterator[list[bytes]]:
        yield [b"the first result"]
        os._exit(9)

    Spool(Path(request.data_dir)).write_parts(contents(), request.batch)


def test_a_process_that_dies_while_it_encodes_leaves_nothing_behind(
    start_node: StartNode, start_pacs: StartPacs, tmp_path: Path, healthy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dicom_node.reading.read_job.read", dies_between_two_results)
    node = start_node(settings_for(tmp_path / "node", pacs_port=start_pacs().port))
    study = healthy.StudyInstanceUID
    send(node.port, healthy)
    wait_until(lambda: "exit status 9" in detail(node, study)["reason"], "the crash to be told")
    assert not list((tmp_path / "node/incoming").iterdir())
    monkeypatch.undo()
    assert ended(node, study)["state"] == "delivered"


def test_a_model_that_takes_too_long_fails_with_the_reason(
    start_node: StartNode, start_pacs: StartPacs, tmp_path: Path, healthy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "dicom_node.reading.processes._READ_PATIENCE", Patience(attempts=3, seconds=None, first_delay=0.1)
    )
    bundles = spoiled(tmp_path, "x.shape[-1] == 1024 and __import__('time').sleep(600)")
    settings = settings_for(tmp_path / "node", pacs_port=start_pacs().port, node={"read_timeout_seconds": 1.0})
    node = start_node(settings, bundles=bundles)
    send(node.port, healthy)
    found = ended(node, healthy.StudyInstanceUID)
    assert found["state"] == "failed"
    assert found["reason"].startswith("reading took longer than 1 s; the reading process was stopped")
    assert "3 attempts" in found["reason"]
    assert found["readings"][0]["failure"] == found["reason"]


def test_the_reading_process_is_killed_while_it_reads(
    start_node: StartNode, start_pacs: StartPacs, tmp_path: Path, sick: Any
) -> None:
    pacs = start_pacs()
    bundles = spoiled(tmp_path, "__import__('time').sleep(1)")
    node = start_node(settings_for(tmp_path / "node", pacs_port=pacs.port), bundles=bundles)
    wait_until(lambda: node.warm, "the model to be warm")
    send(node.port, sick)
    study = sick.StudyInstanceUID
    wait_until(lambda: any(job["state"] == "running" for job in detail(node, study)["jobs"]), "the reading to begin")
    pid = node.reading_pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    found = ended(node, study)
    assert found["state"] == "delivered"
    assert found["jobs"][0]["attempts"] == 2
    assert sorted(pacs.uids()) == sorted(one["instance"] for one in found["deliveries"])


# --- the node as a program -------------------------------------------------------------------------------------------


@dataclass
class Program:
    process: subprocess.Popen[bytes]
    port: int


@contextmanager
def running(config: Path) -> Iterator[Program]:
    """``dicom-node run`` as IT runs it."""
    port = free_port()
    text = config.read_text()
    live = config.with_suffix(".live.toml")
    live.write_text(text.replace("PORT", str(port)))
    command = [sys.executable, "-m", "dicom_node", "run", "--config", str(live)]
    with (config.parent / "node.log").open("ab") as log, programs.running(command, stderr=log) as process:
        wait_until(lambda: listens(port), "the node to listen")
        yield Program(process, port)


def write_config(folder: Path, pacs_port: int) -> Path:
    folder.mkdir(exist_ok=True)
    config = folder / "node.toml"
    config.write_text(f"""
[node]
port = PORT
data_dir = "state"
quiet_seconds = 0.2
[[peers]]
name = "tester"
ae_title = "TESTER"
host = "127.0.0.1"
may_store = true
[[peers]]
name = "storescu"
ae_title = "STORESCU"
host = "127.0.0.1"
may_store = true
[[peers]]
name = "pacs"
ae_title = "PACS"
host = "127.0.0.1"
port = {pacs_port}
destination = true
[[routes]]
name = "all"
models = ["phantom_cxr"]
to = ["pacs"]
""")
    return config


def listed(config: Path) -> list[dict[str, Any]]:
    command = [
        sys.executable,
        "-m",
        "dicom_node",
        "studies",
        "--json",
        "--config",
        str(config.with_suffix(".live.toml")),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=scaled(60))
    every: list[dict[str, Any]] = json.loads(done.stdout)
    return every


@pytest.mark.programs
def test_the_node_is_killed_while_a_study_is_read_and_the_study_is_delivered_once(
    start_pacs: StartPacs, tmp_path: Path, sick: Any
) -> None:
    pacs = start_pacs()
    config = write_config(tmp_path / "node", pacs.port)
    with running(config) as program:
        assert send(program.port, sick) == [0x0000]
        index = Index(config.parent / "state" / INDEX_FILE)
        wait_until(lambda: [j for j in index.jobs_of(sick.StudyInstanceUID) if j.state == "running"], "the reading")
        program.process.kill()
        program.process.wait()
    assert not pacs.stored
    with running(config):
        (one,) = wait_until(lambda: [s for s in listed(config) if s["state"] == "delivered"], "the delivery", 120)
    assert one["study"] == sick.StudyInstanceUID
    index.close()
    assert len(pacs.uids()) == len(set(pacs.uids())) == 5
    assert not list((config.parent / "state/incoming").iterdir())


@pytest.mark.programs
def test_from_dcmtk_to_orthanc(orthanc: Orthanc, tmp_path: Path, sick: Any) -> None:
    config = write_config(tmp_path / "node", orthanc.dicom)
    sick.save_as(tmp_path / "sick.dcm", enforce_file_format=True)
    with running(config) as program:
        run_tool("storescu", "-aec", "AINODE", "127.0.0.1", program.port, tmp_path / "sick.dcm")
        wait_until(lambda: [s for s in listed(config) if s["state"] == "delivered"], "the delivery", 120)
    made = [pydicom.dcmread(file) for file in (config.parent / "state/results").rglob("*.dcm")]
    held = orthanc.objects(sick.StudyInstanceUID)
    assert {one.SOPClassUID for one in held.values()} >= {ComprehensiveSRStorage, SecondaryCaptureImageStorage}
    assert {one.PatientID for one in held.values()} == {sick.PatientID}
    assert len(orthanc.get("/instances")) == len(held)
    # Orthanc encodes the lengths of sequences anew, so the values are compared and not the bytes of the file.
    assert held == {one.SOPInstanceUID: one for one in made}
